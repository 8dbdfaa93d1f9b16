"""What the root publishes for people: one plain record, made anew each time.

`twinstep status`, the demo and the soak read nothing else.
"""

from __future__ import annotations

import msgspec

from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.recovery.outlook import Outlook, outlook


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    machine: str
    machine_rank: int
    """-1 for a standby."""
    host: str
    port: int
    group: int
    """Process group of the agent and all its ranks."""
    ranks: dict[int, int]
    """Process of each rank."""
    holds: list[int]
    """Own shards of other machines' ranks that it holds copies of."""
    failing: str = ""
    """Why it is to be replaced, or not to be relied on."""
    warnings: list[str] = []
    """What its probes warn of."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float
    phase: str
    phase_since_s: float
    root: str
    """The machine whose agent is root."""
    round: int
    term: int
    step: int
    """The newest step that all machines have reported."""
    safe: int
    """The newest step that is safe on every rank; 0 while none is."""
    waiting_for: list[str]
    machines: list[MachineStatus]
    sizes: dict[int, int]
    """Bytes of each shard."""
    shared: bool
    copies: int
    recoveries: int
    restored_step: int
    places: int = 0
    """So many machines train when all places are taken."""
    wanted: int = 0
    """How many the job has, when it is as large as it was set up."""
    may_lose: int = -1
    """So many machines, whichever, may be lost and memory still has a whole step; -1
    while no step is safe yet."""
    only_here: dict[str, list[int]] = {}
    """Machines with the only copy of shards, while copies are being made again."""
    every: int = 1
    """One step in so many is captured."""
    every_reason: str = ""
    """Why not every one."""
    overhead: float | None = None
    """By how much copies lengthen the mean step, as a part of it; None before it is
    known, or where no step is left out to measure it."""
    overhead_noise: float | None = None
    """What that may be more, or less."""
    storage: str = ""
    """Where steps are written to; empty: nowhere."""
    stored: int = 0
    """The newest step that is whole in storage; 0: none."""
    storing: int = 0
    """The step that is being written to storage; 0: none."""
    stored_s: float = 0.0
    """How long it took to write the last one."""
    storage_trouble: str = ""
    """Why the storage could not be read or written to, the last time."""


def status_of(root: Root, *, machine: str) -> Status:
    """Returns the state of the cluster as the root sees it now."""
    machines = [
        _machine(root, name, place)
        for place, name in enumerate(root.roster.members)
        if name and name in root.roster.joined
    ]
    machines += [
        _machine(root, name, -1)
        for name in sorted(root.roster.joined)
        if name not in root.roster.members
    ]
    present, overhead = outlook_of(root), root.traffic.budget.overhead
    newest = root.draining.newest()
    return Status(
        at_s=root.now_s,
        phase=root.phase.value,
        phase_since_s=root.phase_since_s,
        root=machine,
        round=root.round,
        term=root.term,
        step=root.ballot.answered,
        safe=root.ballot.keep,
        waiting_for=waiting_for(root),
        machines=machines,
        sizes=dict(root.layouts.sizes),
        shared=root.layouts.shared,
        copies=min(root.job.copies_held, root.grid.machines),
        recoveries=root.chronicle.count,
        restored_step=root.begin.step if root.begin else 0,
        places=root.grid.machines,
        wanted=root.job.machines,
        may_lose=present.may_lose,
        only_here=present.only_here,
        every=root.traffic.every,
        every_reason=root.traffic.reason if root.traffic.every > 1 else "",
        overhead=overhead.mean if overhead else None,
        overhead_noise=overhead.noise if overhead else None,
        storage=root.job.storage.path,
        stored=newest.step if newest is not None else 0,
        storing=root.draining.step,
        stored_s=root.draining.last_s,
        storage_trouble=root.draining.trouble,
    )


def outlook_of(root: Root) -> Outlook:
    """Returns what may be lost now, as far as the root knows: the holders of a step
    that is safe have it; before that, those that the round's start found."""
    begin = root.begin
    if begin is None:
        return outlook({})
    if root.ballot.keep < max(1, begin.step):
        return outlook(begin.sources)
    names = [member.machine for member in begin.members]
    sources = {
        shard: [names[place] for place in root.holders[root.grid.machine_rank(shard)]]
        for shard in root.grid.shards
        if not root.grid.is_shared(shard)
    }
    return outlook(sources)


def _machine(root: Root, name: str, place: int) -> MachineStatus:
    join, said = root.roster.joined[name], root.roster.conditions.get(name)
    ranks = root.grid.ranks(place) if place >= 0 else range(0)
    held = [
        rank
        for owner, holders in enumerate(root.holders)
        if place in holders and owner != place
        for rank in root.grid.ranks(owner)
    ]
    return MachineStatus(
        machine=name,
        machine_rank=place,
        host=join.host,
        port=join.port,
        group=join.group,
        ranks={rank: root.seen.pids[rank] for rank in ranks if rank in root.seen.pids},
        holds=held,
        failing=root.roster.reason(name),
        warnings=said.warnings if said else [],
    )


def waiting_for(root: Root) -> list[str]:
    """Whom the cluster waits for now, by name."""
    members = root.roster.present()
    match root.phase:
        case Phase.GATHERING:
            return [f"{root.roster.missing()} more machines to join"]
        case Phase.STOPPING:
            late = [name for name in members if name not in root.inventories]
            return [f"{name} to stop its ranks" for name in late]
        case _ if root.resizing.writing:
            step, names = root.resizing.writing, root.resizing.told
            late = [name for name in names if name not in root.draining.told]
            return [f"{name} to write step {step} to storage" for name in late]
        case Phase.PLACING:
            places = root.roster.vacant()
            return [f"a machine for machine rank {place}" for place in places]
        case Phase.LOADING:
            return [f"{name} to make its first step" for name in members]
        case _:
            return []
