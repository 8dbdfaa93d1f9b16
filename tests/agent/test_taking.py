"""A copy comes in, and what the holder has of it already does not travel.

Two machines on loopback, with real slots, sockets and threads, as in test_moving."""

from __future__ import annotations

import random
import threading
import time

from tests.agent.test_moving import CHUNK, SIZE, TWIN_S, Machine, begins, pair
from twinstep.transfer.sender import hash_copy

__all__ = ["pair"]
Pair = tuple[Machine, Machine]


def sends(owner: Machine, step: int, body: bytes) -> int:
    """The owner's rank has captured this; returns how many bytes its holder was spared
    when all is safe."""
    slot = owner.table.target(0, keep=step - 1)
    assert slot is not None
    view = owner.memory[0, slot].view
    view[:SIZE] = body
    owner.table.start(0, slot, step=step, captured_in=1, writer="rank")
    owner.table.whole(0, slot, digests=hash_copy(view, SIZE, CHUNK))
    before = owner.mover.pacing.record.spared_bytes
    owner.decide(lambda: owner.worker.copies.send_out(0, slot, keep=step - 1))
    owner.until(lambda: step in owner.worker.copies.safe_steps())
    return owner.mover.pacing.record.spared_bytes - before


def other(body: bytes, *chunks: int) -> bytes:
    """The same but for a bit in each of these chunks."""
    raw = bytearray(body)
    for chunk in chunks:
        raw[chunk * CHUNK] ^= 1
    return bytes(raw)


def test_what_training_did_not_change_is_not_sent_again(pair: Pair) -> None:
    owner, holder = pair
    begins(pair)
    body = random.Random(1).randbytes(SIZE)
    assert sends(owner, 1, body) == 0
    later = other(body, 0, 7)
    assert sends(owner, 2, later) == SIZE - 2 * CHUNK
    assert holder.bytes_of(0, 2) == later and holder.bytes_of(0, 1) == body
    assert sends(owner, 3, random.Random(2).randbytes(SIZE)) == 0


def test_what_the_holders_own_rank_captured_is_not_sent(pair: Pair) -> None:
    """Hybrid sharding: ranks of two pods have the same boxes, and other heads. The
    holder's capture comes late, and is waited for."""
    owner, holder = pair
    begins(pair)
    for step in (1, 2):
        body = random.Random(step).randbytes(SIZE)
        slot = holder.table.target(1, keep=step - 1)
        assert slot is not None
        view = holder.memory[1, slot].view
        with holder.changed:
            holder.table.start(1, slot, step=step, captured_in=1, writer="rank")

        def captures(view=view, slot=slot, body=body) -> None:
            view[:SIZE] = other(body, 0)
            digests = hash_copy(view, SIZE, CHUNK)
            with holder.changed:
                holder.table.whole(1, slot, digests=digests)

        late = threading.Timer(0.2, captures)
        late.start()
        assert sends(owner, step, body) == SIZE - CHUNK
        late.join()
        assert holder.bytes_of(0, step) == body


def test_a_capture_that_has_nothing_of_a_copy_is_waited_for_once(pair: Pair) -> None:
    owner, holder = pair
    begins(pair)
    took_s: list[float] = []
    for step in (1, 2):
        slot = holder.table.target(1, keep=step - 1)
        assert slot is not None
        with holder.changed:
            holder.table.start(1, slot, step=step, captured_in=1, writer="rank")
        began_s = time.monotonic()
        assert sends(owner, step, random.Random(step).randbytes(SIZE)) == 0
        took_s.append(time.monotonic() - began_s)
        with holder.changed:
            holder.table.abandon(1, slot)
    assert took_s[0] >= TWIN_S and took_s[1] < took_s[0]
