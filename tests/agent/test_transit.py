"""Facts about copies on their way count in their own round only."""

from __future__ import annotations

import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import actions as do, messages as say
from twinstep.agent.copies import HELD_ALREADY


def holder() -> Scene:
    """m0 in round 2 of term 2; it holds shard 1 of m1."""
    scene = Scene()
    scene.begins(scenes.begin(round=2, term=2))
    return scene


def test_an_offer_of_another_round_or_term_is_refused() -> None:
    scene = holder()
    for wrong in ({"round": 1}, {"round": 3}, {"term": 1}):
        slot, reason = scene.offered(1, 1, **wrong)
        assert slot is None and "not the present one" in reason, wrong
    assert scene.table.filling() == []
    assert scene.offered(1, 1) == (0, "")


def test_a_stopped_machine_takes_nothing() -> None:
    scene = holder()
    scene.worker.from_root(scenes.stop(round=3, term=2))
    assert scene.offered(1, 1)[0] is None


def test_a_holder_spares_the_newer_of_its_own_keep_and_the_senders() -> None:
    for own, senders, spared in ((3, 4, 4), (4, 3, 4)):
        scene = holder()
        scene.holds(1, 0, 3, captured_in=2)
        scene.holds(1, 1, 4, captured_in=2)
        scene.holds(0, 0, 4, captured_in=2)
        scene.worker.copies.acknowledge(0, 4, 1)
        scene.worker.vote.keep = own
        slot, _ = scene.offered(1, 5, keep=senders)
        assert slot == 0
        assert scene.table.find(1, step=spared, captured_in=2) == 1


def test_a_keep_that_this_machine_never_called_safe_spares_nothing_else() -> None:
    scene = holder()
    scene.holds(0, 0, 4, captured_in=2)
    scene.holds(1, 1, 4, captured_in=2)
    scene.worker.copies.acknowledge(0, 4, 1)
    scene.worker.vote.keep = 4
    for keep in (5, 1 << 53):
        slot, reason = scene.offered(1, 5, keep=keep)
        assert slot is None and f"step {keep} is not known to be safe" in reason
        assert scene.worker.vote.keep == 4
    assert scene.table.find(1, step=4, captured_in=2) == 1


def test_only_the_owner_of_a_shard_sends_it() -> None:
    scene = holder()
    scene.holds(1, 0, 5, captured_in=2)
    for shard, sender in ((1, "m2"), (1, "m0"), (0, "m0"), (0, "m1"), (2, "m1")):
        slot, reason = scene.offered(shard, 5, sender=sender, replace=True)
        assert slot is None and f"shard {shard} is sent by" in reason
    assert scene.table.find(1, step=5, captured_in=2) == 0, "nobody made it bad"


def test_a_step_that_cannot_have_been_captured_does_not_come_in() -> None:
    scene = holder()
    assert "is none" in scene.offered(1, 0)[1]
    assert "is none" in scene.offered(1, 5, captured_in=3)[1]
    assert scene.table.filling() == []


def test_what_is_held_already_is_not_sent_again() -> None:
    scene = holder()
    scene.holds(1, 0, 5, captured_in=2)
    assert scene.offered(1, 5) == (None, HELD_ALREADY)
    assert scene.offered(1, 5, captured_in=1)[0] == 1, "another round, another state"


def test_a_bad_copy_is_replaced_though_it_is_held() -> None:
    scene = holder()
    scene.holds(1, 0, 5, captured_in=2)
    scene.worker.vote.keep = 5
    slot, reason = scene.offered(1, 5, keep=5, replace=True)
    assert reason == "" and slot is not None
    assert scene.table.find(1, step=5, captured_in=2) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shard": 9}, "shard 9 is sent by nobody"),
        ({"size": 101}, "101 bytes for slots of 100"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(changed, reason) -> None:
    scene = holder()
    shard = changed.pop("shard", 1)
    slot, why = scene.offered(shard, 1, **changed)
    assert slot is None and reason in why


def test_when_both_slots_are_taken_the_offer_has_to_wait() -> None:
    scene = holder()
    scene.holds(1, 0, 4, captured_in=2)
    scene.worker.vote.keep = 4
    assert scene.offered(1, 5, keep=4)[0] == 1
    assert scene.offered(1, 6, keep=4) == (None, "no slot of shard 1 is free")
    scene.transit.receive_failed(1, 1)
    assert scene.offered(1, 6, keep=4)[0] == 1


def test_acknowledgements_of_another_round_count_for_nothing() -> None:
    scene = Scene()
    scene.begins(scenes.begin(round=2))
    (ship,) = of(scene.captures(1), do.ShipCopy)
    scene.transit.hashed(0, ship.slot, 1, b"d")
    scene.transit.acknowledged(1, 0, 1, 1)
    assert scene.worker.copies.safe_steps() == []
    scene.transit.acknowledged(2, 0, 1, 1)
    assert scene.worker.copies.safe_steps() == [1]


def test_failures_of_another_round_are_not_tried_again() -> None:
    scene = Scene()
    scene.begins(scenes.begin(round=1))
    (ship,) = of(scene.captures(1), do.ShipCopy)
    scene.begins(scenes.begin(round=2))
    assert scene.transit.ship_failed(ship, "late", 0.0) == []
    assert scene.transit.source_bad(ship, "late") == []
    assert scene.transit.tick(100.0) == []


def test_digests_that_come_late_make_no_other_copy_whole() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    (ship,) = of(scene.captures(1), do.ShipCopy)
    assert scene.transit.hashed(0, ship.slot, 9, b"d") == []
    assert scene.transit.hashed(7, 0, 1, b"d") == []
    assert scene.table.find(0, step=1, captured_in=1) is None


def fetching() -> tuple[Scene, do.FetchCopy]:
    scene = Scene()
    scene.stops(round=1)
    sources = {0: ["m1"], 1: ["m1"]}
    begin = scenes.begin(round=2, step=5, captured_in=1, sources=sources)
    (fetch,) = of(scene.begins(begin), do.FetchCopy)
    return scene, fetch


def test_a_fetch_that_ends_in_a_later_round_frees_its_slot_and_no_more() -> None:
    scene, fetch = fetching()
    scene.worker.from_root(scenes.stop(round=3))
    assert scene.transit.fetch_failed(fetch, "gone", corrupt=False) == []
    assert scene.table.filling() == []


def test_a_source_that_has_no_copy_is_not_called_corrupt() -> None:
    scene, fetch = fetching()
    (named,) = of(scene.transit.fetch_failed(fetch, "gone", corrupt=False), say.CopyBad)
    assert (named.holder, named.corrupt, named.last) == ("m1", False, True)


def test_one_shard_is_fetched_once_at_a_time() -> None:
    scene, fetch = fetching()
    done = scene.worker.copy_bad(0, 5, "m0", "chunk 0", True)
    assert of(done, do.FetchCopy) == []
    assert len(scene.table.filling()) == 1
    scene.transit.fetched(fetch, b"d")
    assert scene.table.find(0, step=5, captured_in=1) == fetch.slot


def test_only_whole_copies_of_that_round_are_served() -> None:
    scene = holder()
    scene.holds(1, 0, 5, captured_in=2)
    serves = scene.transit.serves
    assert serves(shard=1, step=5, captured_in=2) == (0, b"1 5")
    assert serves(shard=1, step=5, captured_in=1) == (None, b"")
    assert serves(shard=3, step=5, captured_in=2) == (None, b"")
