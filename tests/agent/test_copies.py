"""Which copies of a machine count, go, and are made again."""

from __future__ import annotations

import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import actions as do, messages as say
from twinstep.store.slots import State
from twinstep.values import DIGEST_BYTES


def restored(sources: dict[int, list[str]], *, machines: int = 2, copies: int = 2):
    """m0 in round 2, with its shard at step 5; and what beginning asked for."""
    scene = Scene(machines=machines)
    scene.stops(round=1)
    scene.holds(0, 0, 5)
    begin = scenes.begin(
        round=2,
        step=5,
        captured_in=1,
        sources=sources,
        machines=machines,
        copies=copies,
    )
    return scene, scene.begins(begin)


def safe_steps(scene: Scene) -> list[int]:
    return scene.worker.copies.safe_steps()


def test_a_captured_step_is_safe_when_every_holder_has_verified_it() -> None:
    scene = Scene(machines=3)
    scene.begins(scenes.begin(machines=3, copies=3))
    (first,) = of(scene.captures(1), do.ShipCopy)
    (second,) = of(scene.transit.hashed(0, first.slot, 1, b"d"), do.ShipCopy)
    assert {first.target_rank, second.target_rank} == {1, 2}
    assert safe_steps(scene) == []
    scene.transit.acknowledged(1, 0, 1, first.target_rank)
    assert safe_steps(scene) == [] and scene.worker.copies.in_flight()
    scene.transit.acknowledged(1, 0, 1, second.target_rank)
    assert safe_steps(scene) == [1] and not scene.worker.copies.in_flight()


def test_the_first_send_computes_the_digests_and_the_others_wait_for_them() -> None:
    scene = Scene(machines=3)
    scene.begins(scenes.begin(machines=3, copies=3))
    (first,) = of(scene.captures(1), do.ShipCopy)
    assert first.digests == b""
    (second,) = of(scene.transit.hashed(0, first.slot, 1, b"digests"), do.ShipCopy)
    assert second.digests == b"digests"


def test_digests_that_the_rank_took_go_with_every_send() -> None:
    scene = Scene(machines=3)
    scene.begins(scenes.begin(machines=3, copies=3))
    told = bytes(DIGEST_BYTES)
    done = scene.captures(1, digests=told, laid=scenes.SIZE)
    ships = of(done, do.ShipCopy)
    assert [ship.digests for ship in ships] == [told, told]
    assert of(done, do.HashCopy) == []
    for ship in ships:
        assert safe_steps(scene) == []
        scene.transit.acknowledged(1, 0, 1, ship.target_rank)
    assert safe_steps(scene) == [1]


@pytest.mark.parametrize(
    ("count", "laid"), [(0, scenes.SIZE), (2, scenes.SIZE), (1, scenes.SIZE - 1)]
)
def test_digests_of_less_than_the_slot_are_not_believed(count: int, laid: int) -> None:
    scene = Scene()
    scene.begins(scenes.begin(copies=1))
    done = scene.captures(1, digests=bytes(DIGEST_BYTES) * count, laid=laid)
    assert len(of(done, do.HashCopy)) == 1
    assert safe_steps(scene) == []


def test_a_copy_whose_rank_told_the_digests_is_whole_at_once() -> None:
    scene = Scene(machines=3)
    scene.begins(scenes.begin(machines=3, copies=3))
    scene.worker.from_rank(scenes.layout())
    scene.reaches(1)
    scene.worker.from_root(scenes.answer(1))
    told = say.Captured(rank=0, round=1, step=1, digests={0: b"d" * 16})
    ships = of(scene.worker.from_rank(told), do.ShipCopy)
    assert [ship.digests for ship in ships] == [b"d" * 16] * 2
    assert scene.table.find(0, step=1, captured_in=1) is not None
    assert safe_steps(scene) == [], "nobody has verified it yet"


def test_digests_of_less_than_the_slot_holds_are_not_enough() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.worker.from_rank(scenes.layout(own_bytes=90))
    scene.reaches(1)
    scene.worker.from_root(scenes.answer(1))
    told = say.Captured(rank=0, round=1, step=1, digests={0: b"d" * 16})
    (ship,) = of(scene.worker.from_rank(told), do.ShipCopy)
    assert ship.digests == b""


def test_a_copy_that_nobody_else_holds_is_hashed() -> None:
    scene = Scene()
    scene.begins(scenes.begin(copies=1))
    (hashing,) = of(scene.captures(1), do.HashCopy)
    assert safe_steps(scene) == []
    scene.transit.hashed(0, hashing.slot, 1, b"d")
    assert safe_steps(scene) == [1]


def test_a_restored_step_is_safe_only_when_its_copies_exist_again() -> None:
    scene, done = restored({0: ["m0"], 1: ["m1"]})
    (ship,) = of(done, do.ShipCopy)
    assert (ship.step, ship.captured_in, ship.target_rank) == (5, 1, 1)
    assert safe_steps(scene) == [] and scene.worker.copies.in_flight()
    scene.transit.acknowledged(2, 0, 5, 1)
    assert safe_steps(scene) == [5]


def test_a_copy_that_survived_is_not_sent_again() -> None:
    scene, done = restored({0: ["m0", "m1"], 1: ["m1"]})
    assert of(done, do.ShipCopy) == []
    assert safe_steps(scene) == [5]


def test_a_roll_back_forgets_the_steps_after_it() -> None:
    scene = Scene()
    scene.stops(round=1)
    scene.holds(0, 0, 5)
    scene.holds(0, 1, 7)
    sources = {0: ["m0"], 1: ["m1"]}
    scene.begins(scenes.begin(round=2, step=5, captured_in=1, sources=sources))
    assert [slot.step for slot in scene.table.slots[0]] == [5, 0]


def test_a_copy_that_the_root_does_not_list_does_not_pass_for_one() -> None:
    # It is bad, differs from its twins, or is of another round.
    scene, done = restored({0: ["m1"], 1: ["m1"]})
    assert scene.table.find(0, step=5, captured_in=1) is None
    assert [fetch.source.machine for fetch in of(done, do.FetchCopy)] == ["m1"]


def test_a_copy_of_another_round_does_not_occupy_a_slot_as_if_kept() -> None:
    scene = Scene()
    scene.stops(round=1)
    scene.holds(0, 0, 5, captured_in=1)
    scene.holds(0, 1, 5, captured_in=2)
    sources = {0: ["m0"], 1: ["m1"]}
    scene.begins(scenes.begin(round=3, step=5, captured_in=2, sources=sources))
    assert scene.table.find(0, step=5, captured_in=2) == 1
    assert scene.table.target(0, keep=5) == 0


def test_a_machine_gives_up_shards_that_are_not_its_own_any_more() -> None:
    scene = Scene(machines=4)
    scene.stops(round=1)
    scene.holds(3, 0, 5)
    done = scene.begins(scenes.begin(round=2, machines=4))
    assert of(done, do.ReleaseSlots) == [do.ReleaseSlots(shards=(3,))]


def test_a_distrusted_holders_copy_is_replaced() -> None:
    scene = Scene()
    scene.stops(round=1)
    sources = {0: ["m1"], 1: ["m1"]}
    done = scene.begins(
        scenes.begin(
            round=2, step=5, captured_in=1, sources=sources, machines=2, copies=2
        )
    )
    (fetch,) = of(done, do.FetchCopy)
    scene.worker.copies.sources[0] = ["m1", "m9"]
    scene.worker.copies.begin.members.append(scenes.member("m9"))
    (again,) = of(scene.transit.fetch_failed(fetch, "bad", corrupt=True), do.FetchCopy)
    assert again.source.machine == "m1"  # it may have been damaged on the way
    (again,) = of(scene.transit.fetch_failed(again, "bad", corrupt=True), do.FetchCopy)
    assert again.source.machine == "m9"
    (ship,) = of(scene.transit.fetched(again, b"d"), do.ShipCopy)
    assert (ship.target_rank, ship.replace) == (1, True)
    assert safe_steps(scene) == []


def test_a_failed_send_is_tried_again_after_a_while_and_knows_the_newest_keep() -> None:
    scene, done = restored({0: ["m0"], 1: ["m1"]})
    (ship,) = of(done, do.ShipCopy)
    scene.transit.ship_failed(ship, "busy", 10.0)
    assert scene.transit.tick(10.05) == []
    scene.worker.vote.keep = 6
    (again,) = scene.transit.tick(10.2)
    assert (again.target_rank, again.keep) == (1, 6)
    assert scene.transit.tick(10.3) == []


def test_a_copy_that_is_no_longer_there_is_not_sent_again() -> None:
    scene, done = restored({0: ["m0", "m2"], 1: ["m1"], 2: ["m2"]}, machines=3)
    (ship,) = of(done, do.ShipCopy)
    scene.transit.ship_failed(ship, "busy", 10.0)
    scene.table.quarantine(0, step=5)
    slot = scene.table.target(0, keep=5)
    scene.table.start(0, slot, step=5, captured_in=1, writer="m2")
    assert of(scene.transit.tick(11.0), do.ShipCopy) == []
    assert not scene.worker.copies.pending


def test_our_own_copy_turned_bad_is_named_and_not_sent_for_ever() -> None:
    scene, done = restored({0: ["m0"], 1: ["m1"]})
    (ship,) = of(done, do.ShipCopy)
    restored_ = say.Restored(rank=0, round=2, step=5, seconds=0.1)
    scene.worker.from_rank(restored_)
    (named,) = of(scene.transit.source_bad(ship, "chunk 0"), say.CopyBad)
    assert (named.holder, named.corrupt) == ("m0", True)
    assert not named.last, "the ranks have loaded: nobody needs to go back"
    assert not scene.worker.copies.in_flight()
    assert scene.table.slots[0][0].state is State.BAD


def test_shared_state_is_reported_by_its_digests() -> None:
    scene = Scene()
    scene.begins(scenes.begin(shared=True, sizes=dict.fromkeys(range(3), 100)))
    done = scene.captures(1)
    scene.transit.hashed(2, of(done, do.HashCopy)[0].slot, 1, b"shared")
    assert list(scene.worker.copies.shared_digests()) == [1]
    assert safe_steps(scene) == [], "the own shard is not there yet"
