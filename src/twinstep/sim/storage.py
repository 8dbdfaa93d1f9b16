"""The storage of a simulated cluster: parts that machines write, steps made of them.

What agent/drains.py and agent/depot.py do with files and threads, as processes that
take time. A part is read from its slots while it is written, chunk by chunk, so that a
slot which somebody else writes meanwhile is seen. Storage can be slow, full, away, or
spoil what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from twinstep.agent import actions as do, filing, storing
from twinstep.agent.draining import Looked, Made, StoredStep
from twinstep.sim.check import Violation
from twinstep.sim.events import Events, Process
from twinstep.sim.memory import Version, content
from twinstep.store.contents import part_name
from twinstep.store.retention import to_remove

if TYPE_CHECKING:
    from twinstep.agent.root import Root
    from twinstep.sim.agent import SimAgent
    from twinstep.sim.rooting import SimRooting
    from twinstep.sim.world import World

SLOW = 20.0
"""So many times longer takes everything while the storage is slow."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimStorage:
    """The storage that all machines see."""

    events: Events
    random: Random
    chunk_s: float
    """How long it takes to write one chunk."""
    parts: dict[tuple[int, str], dict[int, Version]] = field(
        default_factory=dict[tuple[int, str], dict[int, Version]]
    )
    """Per (step, name) what a machine has written: of each shard, which state."""
    portions: dict[tuple[int, str], tuple[int, int]] = field(
        default_factory=dict[tuple[int, str], tuple[int, int]]
    )
    """Which portion of the shared state is in it, of how many."""
    steps: dict[int, Version] = field(default_factory=dict[int, Version])
    """The whole steps, and which state each is."""
    spoiled: set[int] = field(default_factory=set[int])
    away: bool = False
    slow: bool = False
    full: bool = False
    hangs: bool = False
    """It does not answer, where else it would say that it is away."""

    def wait_s(self) -> float:
        return self.chunk_s * (0.5 + self.random.random()) * (SLOW if self.slow else 1)

    def newest(self) -> int:
        """The newest step that could be loaded."""
        return max((step for step in self.steps if step not in self.spoiled), default=0)


# At each machine.


def write(agent: SimAgent, action: do.StoreCopies) -> Process:
    """The machine's part is written; the worker hears what came of it."""
    storage, epoch = agent.world.storage, agent.mover.epoch
    step, captured_in = action.step, action.captured_in
    written: dict[int, Version] = {}
    for shard, slot in action.slots.items():
        place = (shard, slot)
        for number in range(len(agent.memory.slots[place])):
            yield storage.wait_s()
            while storage.away and storage.hangs:
                agent.events.probe("storage: a write hangs")
                yield 0.1
            if epoch != agent.mover.epoch:
                agent.events.probe("storage: a part was given up with its round")
                return
            if storage.away or storage.full:
                agent.events.probe("storage: a part could not be written")
                failed = "away" if storage.away else "no space left"
                agent.carry(storing.stored(agent.worker, action, failed=failed))
                return
            version = _version(agent, place, number)
            if version is None:
                failed = f"chunk {number} of shard {shard} has a wrong checksum"
                agent.carry(
                    storing.stored(agent.worker, action, failed=failed, bad=shard)
                )
                return
            if version[:2] != (step, captured_in):
                raise Violation(
                    "7", f"{agent.name} stores {version} of shard {shard} as {step}"
                )
            written[shard] = version
    name = part_name(
        round=action.round, term=action.term, machine_rank=action.machine_rank
    )
    storage.parts[step, name] = written
    storage.portions[step, name] = (action.index, action.parts)
    agent.carry(storing.stored(agent.worker, action, size=1, seconds=0.0))


def _version(agent: SimAgent, place: tuple[int, int], number: int) -> Version | None:
    """Which state a chunk of a slot is; None when it is damaged."""
    chunk = agent.memory.slots[place][number]
    if not isinstance(chunk, tuple) or chunk != content(place[0], number, chunk[2]):
        return None
    return chunk[2]


# At the root's.


def serve(
    rooting: SimRooting, action: do.LookInStorage | do.MakeWhole | do.TidyStorage
) -> Process:
    """What a root wants of the storage; it hears of it, if it is root still."""
    storage, root = rooting.agent.world.storage, rooting.root
    assert root is not None
    yield storage.wait_s()
    while storage.away and storage.hangs:
        yield 0.1
    while rooting.root is root and not rooting.agent.seat.may_decide:
        yield rooting.agent.job.timing.tick_s
    if rooting.root is not root or isinstance(action, do.TidyStorage):
        return  # parts that nobody names cost nothing here
    root.now_s = rooting.agent.now_s()
    if isinstance(action, do.MakeWhole):
        rooting.act(_make(rooting.agent.world, root, action))
    elif storage.away:
        rooting.act(filing.found(root, Looked(steps=None, trouble="away")))
    else:
        steps = [_stored(step, one) for step, one in storage.steps.items()]
        rooting.act(filing.found(root, Looked(steps=steps)))


def _make(world: World, root: Root, action: do.MakeWhole) -> list[do.RootAction]:
    storage, step = world.storage, action.step
    if storage.away or storage.full:
        world.events.probe("storage: a step could not be made whole")
        return filing.made(root, Made(whole=None, trouble="away"))
    parts = [storage.parts.get((step, name)) for name in action.parts]
    versions = {v for part in parts if part for v in part.values()}
    if None in parts or len(versions) != 1:
        raise Violation("7", f"stored step {step} is made of {parts}")
    shards = {shard for part in parts if part for shard in part}
    if not set(range(root.grid.world_size)) <= shards:
        raise Violation("7", f"stored step {step} has only the shards {shards}")
    if world.settings.shared:
        said = {storage.portions[step, name] for name in action.parts}
        count = max(parts for _, parts in said)
        if {portion for portion in said if portion[0] >= 0} != {
            (index, count) for index in range(count)
        }:
            raise Violation("7", f"stored step {step} has of shared state only {said}")
    storage.steps[step] = whole = versions.pop()
    storage.spoiled.discard(step)
    world.events.probe("storage: a step is whole")
    settings = world.job.storage
    gone = to_remove(
        sorted(storage.steps),
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        newest=step,
    )
    for old in gone:
        del storage.steps[old]
    return filing.made(root, Made(whole=_stored(step, whole), gone=gone))


def _stored(step: int, version: Version) -> StoredStep:
    return StoredStep(
        step=step,
        captured_in=version[1],
        machines=1,
        ranks_per_machine=1,
        size=1,
        written_s=0.0,
    )
