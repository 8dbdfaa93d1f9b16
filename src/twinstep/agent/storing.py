"""Decides what a machine writes to storage, and what its ranks read from there.

The answer to a step may say that the step which all keep is written to storage. Then
the slots that hold it are pinned, the machine's part of it is written, and the root is
told. Training, captures and copies go on meanwhile in the other slots. These are a part
of a worker's decisions (worker.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import actions as do, messages as say
from twinstep.values import Grid

if TYPE_CHECKING:
    from twinstep.agent.worker import Actions, Worker

STORAGE = "storage"
"""Where a shard was read from, in words."""


def source(worker: Worker) -> say.StoredAt | None:
    """Where ranks of the present round read their state from, if not from slots."""
    begin, storage = worker.begin, worker.storage
    assert begin is not None
    path = storage.path if begin.stored else "" if begin.step else storage.start
    if not path:
        return None
    return say.StoredAt(
        path=path,
        options=storage.options,
        world_size=worker.grid.world_size,
        away_s_max=storage.away_s_max,
    )


def sources(worker: Worker) -> dict[int, str]:
    """From where each shard of the machine was read."""
    if worker.begin is not None and worker.begin.stored:
        return dict.fromkeys(worker.ranks(), STORAGE)
    return dict(worker.copies.loaded_from)


def order(worker: Worker, answer: say.Answer) -> Actions:
    """The root has said what is written to storage, if anything is."""
    copies, step = worker.copies, answer.store
    if not step or step == worker.vote.storing:
        return []
    assert worker.begin is not None
    worker.vote.storing = step
    if copies.table.pinned:  # its slots are read until that has ended
        return _told(worker, step, failed="the step before is still being written")
    shards = copies.captured()
    slots = copies.table.pin(shards, step=step)
    if slots is None:
        third = "it holds no copy of it, or has no third slot for it"
        return _told(worker, step, failed=f"step {step}: {third}")
    captured_in = {copies.table.slots[s][slot].captured_in for s, slot in slots.items()}
    assert len(captured_in) == 1, captured_in
    return [
        do.StoreCopies(
            round=worker.round,
            term=worker.term,
            step=step,
            captured_in=captured_in.pop(),
            machines=worker.grid.machines,
            machine_rank=worker.machine_rank,
            own=tuple(worker.ranks()),
            index=worker.machine_rank,
            parts=worker.grid.machines,
            slots=slots,
            digests={s: copies.table.slots[s][i].digests for s, i in slots.items()},
        )
    ]


def order_still(worker: Worker, told: say.Store) -> Actions:
    """All ranks are dead, and the job goes on with another number of machines: what
    memory holds of its newest step is written to storage before."""
    if not (worker.stopped and worker.quiet and told.round == worker.round):
        return [do.Log(text=f"refused Store of round {told.round}")]
    if told.step == worker.vote.storing:
        return []  # the root was not sure that it had been heard
    worker.vote.storing = told.step
    table = worker.copies.table
    grid = Grid(machines=told.machines, ranks_per_machine=worker.grid.ranks_per_machine)
    shared = [s for s in grid.shards if grid.is_shared(s) and told.index >= 0]
    slots: dict[int, int] = {}
    for shard in [*told.own, *shared]:
        slot = table.find(shard, step=told.step, captured_in=told.captured_in)
        if slot is None:
            failed = f"it holds no copy of shard {shard} at step {told.step}"
            return _told(worker, told.step, failed=failed)
        slots[shard] = slot
    return [
        do.StoreCopies(
            round=worker.round,
            term=worker.term,
            step=told.step,
            captured_in=told.captured_in,
            machines=told.machines,
            machine_rank=told.place,
            own=tuple(told.own),
            index=told.index,
            parts=told.parts,
            slots=slots,
            digests={s: table.slots[s][i].digests for s, i in slots.items()},
            still=True,
        )
    ]


def stored(
    worker: Worker,
    action: do.StoreCopies,
    *,
    size: int = 0,
    seconds: float = 0.0,
    cpu_s: float = 0.0,
    failed: str = "",
    bad: int = -1,
) -> Actions:
    """The machine's part is in storage, or could not be written: `failed` says why, and
    `bad` which shard's copy did not verify."""
    if action.round != worker.round or worker.stopped != action.still:
        return []
    worker.copies.table.unpin()
    if bad >= 0 and action.still:
        worker.copies.table.quarantine(bad, step=action.step)
    told = _told(
        worker, action.step, size=size, seconds=seconds, failed=failed, bad=bad
    )
    if failed:
        return told
    text = (
        f"wrote its part of step {action.step} to storage: {size / 1e6:.1f} MB in "
        f"{seconds:.2f} s, {cpu_s:.2f} s of a processor"
    )
    return [do.Log(text=text), *told]


def _told(
    worker: Worker,
    step: int,
    *,
    size: int = 0,
    seconds: float = 0.0,
    failed: str = "",
    bad: int = -1,
) -> Actions:
    message = say.Stored(
        machine=worker.machine,
        round=worker.round,
        term=worker.term,
        step=step,
        bytes=size,
        seconds=seconds,
        failed=failed,
        bad=bad,
    )
    return worker.tell(message)


def bad(worker: Worker, bad: say.BadStored) -> Actions:
    """A rank could not load the step that is in storage: another must be chosen."""
    message = say.StoredBad(
        machine=worker.machine,
        round=worker.round,
        term=worker.term,
        step=bad.step,
        corrupt=bad.corrupt,
        reason=f"rank {bad.rank}: {bad.reason}",
    )
    return worker.tell(message)
