"""What may have chunks of a copy that comes: a former copy, and the own rank's."""

from __future__ import annotations

from twinstep.agent.at_hand import look
from twinstep.agent.copies import Copies
from twinstep.values import Grid


def copies() -> Copies:
    """Machine 1 of 3, with two ranks each: it captures shards 2 and 3, and holds what
    ranks 0 and 1 send it."""
    made = Copies(grid=Grid(machines=3, ranks_per_machine=2), machine_rank=1)
    for shard in (0, 1, 2, 3):
        made.table.reserve(shard, size=100)
    return made


def write(copies: Copies, shard: int, slot: int, step: int, digests: bytes) -> None:
    copies.table.start(shard, slot, step=step, captured_in=1, writer="rank")
    if digests:
        copies.table.whole(shard, slot, digests=digests)


def test_the_rank_of_the_same_local_number_and_the_step_before() -> None:
    ours = copies()
    write(ours, 1, 0, 4, b"former")
    write(ours, 1, 1, 5, b"")  # it comes in here
    write(ours, 2, 0, 5, b"another rank's")
    write(ours, 3, 0, 4, b"a step before")
    write(ours, 3, 1, 5, b"own")
    found = look(ours, shard=1, step=5, captured_in=1)
    assert found.former == {(1, 0): b"former"}
    assert found.own == {(3, 1): b"own"}
    assert found.any and not found.soon


def test_a_capture_that_is_being_written_comes_soon() -> None:
    ours = copies()
    write(ours, 1, 0, 5, b"")
    assert not look(ours, shard=1, step=5, captured_in=1).any
    write(ours, 3, 0, 5, b"")
    found = look(ours, shard=1, step=5, captured_in=1)
    assert found.soon and found.any and not found.own
    # Of another step, or of another round, it is another state's.
    assert not look(ours, shard=1, step=6, captured_in=1).any
    assert not look(ours, shard=1, step=5, captured_in=2).any
