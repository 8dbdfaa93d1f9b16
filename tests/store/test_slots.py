"""The books of two slots: what is kept is never handed to a writer."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as some

from twinstep.store.slots import SlotTable, State


def table(*steps: int, captured_in: int = 1) -> SlotTable:
    """A table whose shard 0 has whole copies of these steps, 0 for an empty slot."""
    made = SlotTable()
    made.reserve(0, size=100)
    for slot, step in enumerate(steps):
        if step:
            made.start(0, slot, step=step, captured_in=captured_in, writer="w")
            made.whole(0, slot, digests=b"d")
    return made


def test_the_slot_that_holds_keep_is_never_handed_out() -> None:
    assert table(5, 4).target(0, keep=5) == 1
    assert table(4, 5).target(0, keep=5) == 0
    assert table(5, 6).target(0, keep=5) == 1, "though the other one is newer"


def test_of_two_free_slots_the_older_goes() -> None:
    assert table(5, 4).target(0, keep=3) == 1
    assert table(4, 5).target(0, keep=0) == 0


def test_an_empty_or_bad_slot_goes_before_any_copy() -> None:
    assert table(5, 0).target(0, keep=0) == 1
    bad = table(4, 5)
    bad.quarantine(0, step=5)
    assert bad.target(0, keep=0) == 1


def test_a_slot_has_one_writer_at_a_time() -> None:
    one = table(5, 4)
    one.start(0, 1, step=6, captured_in=1, writer="rank 0")
    assert one.target(0, keep=5) is None
    assert one.filling() == [(0, 1, "rank 0")]
    with pytest.raises(AssertionError, match="rank 0 writes"):
        one.start(0, 1, step=7, captured_in=1, writer="rank 1")


def test_a_bad_copy_of_keep_is_no_reason_to_spare_its_slot() -> None:
    one = table(5, 4)
    one.quarantine(0, step=5)
    assert one.target(0, keep=5) == 0
    assert one.find(0, step=5, captured_in=1) is None


def test_a_copy_is_found_only_when_whole_and_of_that_round() -> None:
    one = table(5, 0, captured_in=3)
    assert one.find(0, step=5, captured_in=3) == 0
    assert one.find(0, step=5, captured_in=2) is None
    one.start(0, 1, step=6, captured_in=3, writer="rank 0")
    one.written(0, 1)
    assert one.find(0, step=6, captured_in=3) is None
    one.whole(0, 1, digests=b"d")
    assert one.find(0, step=6, captured_in=3) == 1


def test_a_roll_back_forgets_what_comes_later_but_not_what_is_being_written() -> None:
    one = table(5, 7)
    one.forget_after(5)
    assert [slot.state for slot in one.slots[0]] == [State.WHOLE, State.EMPTY]
    one.start(0, 1, step=8, captured_in=2, writer="rank 0")
    one.forget_after(5)
    assert one.slots[0][1].state is State.FILLING


def test_an_abandoned_slot_holds_nothing() -> None:
    one = table(5, 4)
    one.start(0, 1, step=6, captured_in=1, writer="rank 0")
    one.abandon(0, 1)
    assert one.find(0, step=4, captured_in=1) is None
    assert one.target(0, keep=5) == 1


def test_what_is_reserved_again_keeps_what_it_held() -> None:
    one = table(5, 4)
    one.reserve(0, size=100)
    assert one.find(0, step=5, captured_in=1) == 0


def test_shards_that_are_not_held_any_more_are_given_up() -> None:
    one = table(5, 4)
    one.reserve(1, size=10)
    assert one.forget_shards({1}) == [0]
    assert list(one.slots) == list(one.sizes) == [1]


@given(
    some.lists(
        some.tuples(
            some.sampled_from(["target", "written", "whole", "abandon"]),
            some.integers(1, 9),
        ),
        max_size=40,
    ),
    some.integers(1, 9),
)
def test_whatever_happens_a_whole_copy_of_keep_stays(moves, keep: int) -> None:
    one = table(keep, 0)
    for move, step in moves:
        slot = one.target(0, keep=keep) if move == "target" else 1
        if move == "target" and slot is not None:
            one.start(0, slot, step=step, captured_in=1, writer="w")
        elif move == "written" and one.slots[0][1].state is State.FILLING:
            one.written(0, 1)
        elif move == "whole" and one.slots[0][1].state in (
            State.FILLING,
            State.WRITTEN,
        ):
            one.whole(0, 1, digests=b"d")
        elif move == "abandon" and one.slots[0][1].state is State.FILLING:
            one.abandon(0, 1)
        assert one.find(0, step=keep, captured_in=1) == 0


# A third slot, and what is read for storage.


def three(*steps: int) -> SlotTable:
    """The same with a third slot."""
    made = SlotTable(spare={0})
    made.reserve(0, size=100)
    for slot, step in enumerate(steps):
        if step:
            made.start(0, slot, step=step, captured_in=1, writer="w")
            made.whole(0, slot, digests=b"d")
    return made


def test_a_pinned_slot_is_never_handed_out() -> None:
    one = three(5, 6, 7)
    assert one.pin([0], step=5) == {0: 0}
    assert one.target(0, keep=7) == 1
    assert one.target(0, keep=6) == 2
    one.start(0, 1, step=8, captured_in=1, writer="rank 0")
    assert one.target(0, keep=7) is None
    one.unpin()
    assert one.target(0, keep=7) == 0


def test_what_is_not_here_or_has_no_third_slot_is_not_pinned() -> None:
    assert table(5, 4).pin([0], step=5) is None
    one = three(5, 6, 0)
    assert one.pin([0], step=7) is None
    assert one.pin([0, 1], step=5) is None, "shard 1 is not here"
    assert one.pinned == {}


def test_a_slot_that_is_being_written_is_not_pinned() -> None:
    one = three(5, 0, 0)
    one.start(0, 1, step=6, captured_in=1, writer="rank 0")
    assert one.pin([0], step=6) is None
    one.written(0, 1)
    assert one.pin([0], step=6) is None, "nobody knows its digests yet"


def test_a_third_slot_comes_to_two_that_keep_what_they_held() -> None:
    one = table(5, 4)
    one.spare.add(0)
    one.reserve(0, size=100)
    assert [slot.step for slot in one.slots[0]] == [5, 4, 0]
    assert one.pin([0], step=4) == {0: 1}


def test_a_shard_that_is_given_up_takes_its_pin_along() -> None:
    one = three(5, 6, 7)
    one.pin([0], step=5)
    one.forget_shards(set())
    assert (one.pinned, one.spare) == ({}, set())


@given(
    some.lists(
        some.sampled_from(["pin", "unpin", "write", "done", "abandon"]), max_size=40
    ),
)
def test_whatever_happens_what_is_pinned_stays(moves: list[str]) -> None:
    one, keep, step = three(1, 0, 0), 1, 1
    pinned: int | None = None
    for move in moves:
        filling = [slot for _, slot, _ in one.filling()]
        if move == "pin" and pinned is None and one.pin([0], step=keep):
            pinned = keep
        elif move == "unpin":
            one.unpin()
            pinned = None
        elif move == "write":
            slot = one.target(0, keep=keep)
            if slot is not None:
                step += 1
                one.start(0, slot, step=step, captured_in=1, writer="w")
        elif move == "done" and filling:
            keep = one.slots[0][filling[0]].step
            one.whole(0, filling[0], digests=b"d")
        elif move == "abandon" and filling:
            one.abandon(0, filling[0])
        for held in (keep, pinned):
            assert held is None or one.find(0, step=held, captured_in=1) is not None
