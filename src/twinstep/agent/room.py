"""Decides what memory a machine reserves, and which slots its ranks are given.

Ranks say how large their state is; once all of a machine have, the root is told, and
says what every machine must hold. Slots exist from then on, for this round and later
ones. These are a part of a worker's decisions (worker.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import actions as do, messages as say

if TYPE_CHECKING:
    from twinstep.agent.worker import Actions, Worker


def reserve(worker: Worker, order: say.Reserve) -> Actions:
    """The root knows all sizes, or that shared state differs between ranks."""
    if worker.stopped or worker.copies.reserved:
        return []
    if not order.sizes:
        worker.vote.layouts.clear()
        reason = "the state said to be the same on all ranks differs between them"
        message = say.Unshare(round=worker.round, reason=reason)
        return [do.TellRank(rank=rank, message=message) for rank in worker.ranks()]
    worker.copies.shared = order.shared
    return reserve_missing(worker, order.sizes)


def reserve_missing(worker: Worker, sizes: dict[int, int]) -> Actions:
    """Asks for the slots that this machine must hold and has not."""
    table = worker.copies.table
    stored = set(worker.copies.captured() if worker.storage.path else ())
    thirds = {s: table.sizes[s] for s in stored & set(table.slots) - table.spare}
    wanted = worker.copies.to_reserve(sizes)
    table.spare |= stored & (set(wanted) | set(thirds))
    done: Actions = []
    if thirds:  # it wrote other shards to storage before, and held copies of these
        worker.copies.reserving.making |= set(thirds)
        third = do.ReserveSlots(round=worker.round, sizes=thirds, third=True)
        done.append(third)
    if wanted:
        spare = frozenset(stored & set(wanted))
        new = do.ReserveSlots(round=worker.round, sizes=wanted, spare=spare)
        return [*done, new]
    return done + reserved(worker, {})


def made(worker: Worker, sizes: dict[int, int]) -> Actions:
    """The slots exist, though perhaps asked for in an earlier round; they are given up
    at once if that had another number of machines."""
    reserving = worker.copies.reserving
    if not reserving.stale:
        return reserved(worker, sizes)
    reserving.ended(sizes)
    done: Actions = [do.ReleaseSlots(shards=tuple(sizes))]
    if reserving.stale or not reserving.asked or worker.stopped:
        return done
    return done + reserve_missing(worker, reserving.asked)


def reserved(worker: Worker, sizes: dict[int, int]) -> Actions:
    """The slots exist."""
    complete = worker.copies.take_slots(sizes)
    if worker.stopped or worker.copies.reserved or not complete:
        return []
    worker.copies.reserved = True
    done: Actions = []
    for rank in sorted(worker.vote.layouts):
        done += _slots(worker, rank)
    done += worker.copies.load(own=worker.machine)
    return done + worker.settled()


def laid_out(worker: Worker, layout: say.Layout) -> Actions:
    """A rank says how large its state is."""
    worker.vote.layouts[layout.rank] = layout
    own = worker.copies.table.sizes.get(layout.rank)
    if own is not None and own < layout.own_bytes:
        # Training goes on: what was kept stays, and nobody waits for this rank.
        reason = (
            f"rank {layout.rank}'s state has grown to {layout.own_bytes} bytes and "
            f"its slots have {own}: no further step is protected in this round; "
            "start the job anew to reserve more"
        )
        fail = say.Fail(round=worker.round, reason=reason)
        return [do.Log(text=reason), do.TellRank(rank=layout.rank, message=fail)]
    if worker.copies.reserved:
        return _slots(worker, layout.rank)
    if len(worker.vote.layouts) < len(worker.ranks()):
        return []
    laid = say.Laid(
        machine=worker.machine,
        round=worker.round,
        term=worker.term,
        sizes=worker.vote.sizes(worker.grid),
        shared_digests=worker.vote.shared_digests(),
    )
    return worker.tell(laid)


def _slots(worker: Worker, rank: int) -> Actions:
    table = worker.copies.table
    slots = [
        say.SlotInfo(shard=shard, slot=slot, size=table.sizes[shard])
        for shard in worker.copies.written_by(rank)
        for slot in range(len(table.slots[shard]))
    ]
    where = tuple((slot.shard, slot.slot) for slot in slots)
    message = say.Slots(round=worker.round, chunk_bytes=worker.chunk_bytes, slots=slots)
    return [do.TellRank(rank=rank, message=message, slots=where)]
