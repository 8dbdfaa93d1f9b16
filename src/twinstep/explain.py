"""Says what would happen if machines were lost now, before they are.

Nothing is injured. Every agent is asked what it holds, and the choice that a root makes
after a failure (recovery/choice.py) is made on the answers without the machines in
question: to which step training would go back, which shards would be read from whose
memory, who would take the place, and what could still be lost meanwhile. Agents answer
a moment after each other while training goes on; a look that fits together no more than
half is taken again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from twinstep.agent.asking import ask_all
from twinstep.agent.messages import Held
from twinstep.agent.status import MachineStatus, Status
from twinstep.config import Job
from twinstep.errors import UsageError
from twinstep.jobs import JobView
from twinstep.recovery.choice import Choice, HeldCopy
from twinstep.recovery.outlook import Outlook, if_lost, outlook
from twinstep.values import Grid

LOOKS_MAX = 5


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What would follow the loss of some machines at this instant."""

    lost: list[str]
    noticed_s: float
    """When at the latest they would be known to be lost."""
    new_root: bool
    """Whether the root is among them, so that another is elected first."""
    takes_place: dict[str, str]
    """Per lost machine that trains: who takes its place, in words."""
    reached: int
    step: int
    """Where training would go on; 0: from the beginning."""
    steps_lost: int
    reason: str
    reads: dict[int, str]
    """Per shard of the lost machines' ranks: the machine it would be read from."""
    read_bytes: int
    """What would cross the network before the first step."""
    copies_again_bytes: int
    """What would cross it after that, until every copy exists again; at most."""
    may_lose: int
    """So many machines, whichever, might still be lost meanwhile; -1: not even this
    loss is survived in memory."""
    only_here: dict[str, list[int]]
    """Machines that would then have the only copy of shards."""


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What all machines hold at one instant."""

    status: Status
    job: Job
    held: dict[str, list[HeldCopy]]
    """By machine, in machine rank order."""
    reached: int
    silent: list[str]
    """Who did not answer, and why."""


def look(view: JobView) -> Sight:
    """Returns what the machines of a job hold now.

    Raises: UsageError while there is no root to say who they are."""
    sight = _look(view)
    for _ in range(LOOKS_MAX - 1):
        if not sight.held or _choice(sight, []).step > 0 or sight.status.safe == 0:
            break
        sight = _look(view)
    return sight


def _look(view: JobView) -> Sight:
    status = view.status()
    if status is None:
        raise UsageError(
            f"job {view.job.name} has no root yet; try again when `twinstep status` "
            "shows its machines"
        )
    training = _training(status)
    held, silent = ask_all(
        training, Held, job=view.job.name, credentials=view.credentials
    )
    by_name = {one.machine: one for one in held}
    return Sight(
        status=status,
        job=view.job.job,
        held={
            machine.machine: _copies(by_name.get(machine.machine))
            for machine in training
        },
        reached=max([status.step, *(one.reached for one in held)]),
        silent=silent,
    )


def _copies(held: Held | None) -> list[HeldCopy]:
    return [
        HeldCopy(
            shard=copy.shard,
            step=copy.step,
            captured_in=copy.captured_in,
            digest=copy.digest,
        )
        for copy in (held.copies if held else ())
    ]


def _training(status: Status) -> list[MachineStatus]:
    found = [machine for machine in status.machines if machine.machine_rank >= 0]
    return sorted(found, key=lambda machine: machine.machine_rank)


def _grid(sight: Sight) -> Grid:
    job, places = sight.job, sight.status.places
    machines = places or job.machines
    return Grid(machines=machines, ranks_per_machine=job.ranks_per_machine)


def _choice(sight: Sight, lost: Sequence[str]) -> Choice:
    return if_lost(lost, sight.held, grid=_grid(sight), shared=sight.status.shared)


def forecast(sight: Sight, lost: Sequence[str]) -> Forecast:
    """Returns what would happen if the machines named were lost now."""
    status, job = sight.status, sight.job
    grid = _grid(sight)
    choice = _choice(sight, lost)
    places = {m.machine: m.machine_rank for m in _training(status)}
    gone = [name for name in lost if name in places]
    shards = [s for name in gone for s in grid.ranks(places[name])]
    reads = {s: choice.sources[s][0] for s in shards if choice.sources.get(s)}
    after = outlook(choice.sources)
    sizes = status.sizes
    # The newcomer reads what its ranks need, of shared shards one copy each.
    shared = [s for s in grid.shards if grid.is_shared(s) and status.shared]
    needed = [*reads, *(s for s in shared if gone and s in choice.sources)]
    held = [s for m in _training(status) if m.machine in gone for s in m.holds]
    again = [*held, *shards] if choice.sources else []
    return Forecast(
        lost=list(lost),
        noticed_s=job.timing.silence_s_max if lost else 0.0,
        new_root=status.root in lost,
        takes_place=_places(sight, gone),
        reached=sight.reached,
        step=choice.step,
        steps_lost=max(0, sight.reached - choice.step),
        reason=choice.reason,
        reads=reads,
        read_bytes=sum(sizes.get(shard, 0) for shard in needed),
        copies_again_bytes=sum(sizes.get(shard, 0) for shard in again),
        may_lose=after.may_lose,
        only_here=after.only_here,
    )


def now(sight: Sight) -> Outlook:
    """Returns what the newest whole step can lose."""
    return outlook(_choice(sight, []).sources)


def _places(sight: Sight, gone: Sequence[str]) -> dict[str, str]:
    spares = [m.machine for m in sight.status.machines if m.machine_rank < 0]
    spares = [name for name in sorted(spares) if name not in gone]
    found = dict(zip(gone, (f"{name}, a standby" for name in spares), strict=False))
    asked = "a new one, that the operator is asked for or that joins"
    return {name: found.get(name, asked) for name in gone}


def resolve(sight: Sight, words: Sequence[str]) -> list[str]:
    """Returns the machines meant by names, machine ranks or `root`.

    Raises: UsageError naming those that are there."""
    places: Mapping[str, str] = {
        **{m.machine: m.machine for m in sight.status.machines},
        **{str(m.machine_rank): m.machine for m in _training(sight.status)},
        "root": sight.status.root,
    }
    unknown = [word for word in words if word not in places]
    if unknown:
        names = ", ".join(m.machine for m in sight.status.machines)
        raise UsageError(
            f"there is no machine {', '.join(unknown)}; there are: {names}"
        )
    return list(dict.fromkeys(places[word] for word in words))
