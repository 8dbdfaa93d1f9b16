"""One machine's side of the vote."""

from __future__ import annotations

import msgspec

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import actions as do, messages as say
from twinstep.store.slots import State


def test_a_step_is_reported_when_all_ranks_stand_at_it() -> None:
    scene = Scene(ranks=2)
    scene.begins(scenes.begin(sizes=dict.fromkeys(range(4), scenes.SIZE)))
    reached = [say.Reached(rank=rank, round=1, step=1) for rank in (0, 1)]
    assert of(scene.worker.from_rank(reached[0]), say.Report) == []
    (report,) = of(scene.worker.from_rank(reached[1]), say.Report)
    assert (report.step, report.safe, report.in_flight) == (1, [], False)
    assert of(scene.worker.from_rank(reached[1]), say.Report) == [], "only once"


def test_a_capture_goes_into_the_slot_that_does_not_hold_keep() -> None:
    for held in (0, 1):
        scene = Scene()
        scene.begins(scenes.begin())
        scene.holds(0, held, 3)
        scene.reaches(4)
        (order,) = of(scene.worker.from_root(scenes.answer(4, keep=3)), say.Capture)
        assert (order.capture, order.own_slot) == (True, 1 - held)
        assert scene.table.find(0, step=3, captured_in=1) == held


def test_a_rank_that_still_writes_is_not_told_to_write_again() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(1)
    assert of(scene.worker.from_root(scenes.answer(1)), say.Capture)
    assert of(scene.worker.from_root(scenes.answer(2)), say.Capture) == []


def test_steps_that_an_earlier_round_lost_are_not_lost_again() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(90)
    assert scene.worker.held().reached == 90
    scene.stops(round=2)
    scene.begins(scenes.begin(round=2, step=40))
    assert scene.worker.held().reached == 40


def test_keep_never_falls_in_a_round() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.worker.from_root(scenes.answer(4, keep=3, capture=False))
    scene.worker.from_root(scenes.answer(5, keep=2, capture=False))
    assert scene.worker.vote.keep == 3


def test_a_round_keeps_the_step_it_begins_from() -> None:
    scene = Scene()
    scene.stops(round=1)
    scene.holds(0, 0, 5)
    sources = {0: ["m0"], 1: ["m1"]}
    scene.begins(scenes.begin(round=2, step=5, captured_in=1, sources=sources))
    for step in (6, 7):  # neither is safe yet
        scene.captures(step)
        slots = scene.table.slots[0]
        assert [slot.step for slot in slots] == [5, step], "5 is all there is"


def test_a_skipped_step_leaves_an_empty_slot() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(1)
    scene.worker.from_root(scenes.answer(1))
    scene.worker.from_rank(say.Skipped(rank=0, round=1, step=1))
    assert scene.table.filling() == []
    assert scene.table.slots[0][0].state is State.EMPTY


def test_a_late_word_about_an_earlier_capture_frees_nothing() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(2)
    scene.worker.from_root(scenes.answer(2))
    for late in (
        say.Skipped(rank=0, round=1, step=1),
        say.Captured(rank=0, round=1, step=1),
    ):
        scene.worker.from_rank(late)
        assert [writer for _, _, writer in scene.table.filling()] == ["rank 0"]


def test_what_was_in_flight_is_reported_again_once_it_has_arrived() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    (ship,) = of(scene.captures(1), do.ShipCopy)
    (report,) = of(scene.reaches(2), say.Report)
    assert report.in_flight
    scene.transit.hashed(0, ship.slot, 1, b"d")
    (again,) = of(scene.transit.acknowledged(1, 0, 1, 1), say.Report)
    assert (again.step, again.in_flight, again.safe) == (2, False, [1])


def test_a_rank_hears_whether_another_word_may_follow() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    for again in (True, False):
        no = msgspec.structs.replace(scenes.answer(1, capture=False), again=again)
        (order,) = of(scene.worker.from_root(no), say.Capture)
        assert (order.capture, order.again) == (False, again)


def test_shared_state_is_captured_with_the_own_shard_or_not_at_all() -> None:
    scene = Scene()
    sizes = dict.fromkeys(range(3), scenes.SIZE)
    scene.begins(scenes.begin(shared=True, sizes=sizes))
    for slot in (0, 1):
        scene.table.start(2, slot, step=1, captured_in=1, writer="somebody")
    (order,) = of(scene.worker.from_root(scenes.answer(1)), say.Capture)
    assert not order.capture
    assert [shard for shard, _, _ in scene.table.filling()] == [2, 2]
