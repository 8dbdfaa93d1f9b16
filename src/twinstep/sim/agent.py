"""A simulated machine: the shipped Worker with a crew, slots, links and a seat.

What agent/process.py, crew.py and doors.py do with real processes and sockets. The
agent and its ranks live and die together; a pause stops all of them, and whatever
arrives meanwhile waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from twinstep.agent import actions as do, messages as say
from twinstep.agent.election import RootKey
from twinstep.agent.lookout import Lookout
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.config import Job
from twinstep.sim import storage
from twinstep.sim.copies import SimMover
from twinstep.sim.events import Events, Process, Signal, Task
from twinstep.sim.memory import CHUNK_BYTES, Memory
from twinstep.sim.network import Link, Network
from twinstep.sim.pacing import SimPacing
from twinstep.sim.ranks import SimCrew, SimRank
from twinstep.sim.rooting import SimRooting
from twinstep.sim.seat import SimSeat
from twinstep.store.slots import SLOTS, SLOTS_MAX

if TYPE_CHECKING:
    from twinstep.sim.world import World

RETRY_S = 0.1
DEATH_S = 0.01
"""A killed process is gone about so much later."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimAgent:
    """One machine."""

    world: World
    name: str
    standby: bool
    skew_s: float = 0.0
    """How wrong its clock is."""
    paused_until_s: float = 0.0
    worker: Worker = field(init=False)
    transit: Transit = field(init=False)
    lookout: Lookout = field(init=False)
    memory: Memory = field(default_factory=Memory)
    mover: SimMover = field(init=False)
    pacing: SimPacing = field(init=False)
    seat: SimSeat = field(init=False)
    rooting: SimRooting = field(init=False)
    ranks: dict[int, SimRank] = field(default_factory=dict[int, SimRank])
    tasks: list[Task] = field(default_factory=list[Task])
    to_root: Link | None = None
    disconnected: Signal = field(init=False)
    begun: say.Begin | None = None
    """The last round that it has begun."""
    quiet_due: int = -1
    """The round whose Stop has not ended all ranks and copies yet."""

    def __post_init__(self) -> None:
        self.worker = Worker(
            machine=self.name,
            grid=self.world.grid,
            chunk_bytes=CHUNK_BYTES,
            retry_s=RETRY_S,
            storage=self.world.job.storage,
            standby=self.standby,
        )
        self.transit = Transit(worker=self.worker)
        self.lookout = Lookout(worker=self.worker)
        self.disconnected = self.events.signal()
        self.mover = SimMover(agent=self)
        self.pacing = SimPacing(agent=self)
        self.rooting = SimRooting(agent=self)
        self.seat = SimSeat(
            agent=self,
            on_root=self.rooting.observe,
            on_machine=self.rooting.machine_seen,
        )

    def begin(self) -> None:
        join = self.worker.root_here()[0]
        assert isinstance(join, do.TellRoot)
        self.seat.take(msgspec.json.encode(join.message))
        self.start(self._ticks())

    # What it has of the world.

    @property
    def events(self) -> Events:
        return self.world.events

    @property
    def network(self) -> Network:
        return self.world.network

    @property
    def job(self) -> Job:
        return self.world.job

    @property
    def alive(self) -> bool:
        return self.world.agents.get(self.name) is self

    def now_s(self) -> float:
        return self.events.now_s + self.skew_s

    def chunk_s(self) -> float:
        return self.events.around(self.world.settings.chunk_s)

    def asleep_s(self) -> float:
        return self.paused_until_s - self.events.now_s

    def start(self, process: Process) -> None:
        self.tasks = [task for task in self.tasks if not task.over]
        self.tasks.append(self.events.start(process, self.asleep_s))

    def log(self, text: str) -> None:
        self.world.log(self.name, text)

    def leave(self, reason: str) -> None:
        """The agent ends by itself, and its ranks with it."""
        self.log(f"leaves: {reason}")
        self.events.after(0.0, self.world.kill_machine, self.name)

    def end(self) -> None:
        """Agent, ranks and memory are gone at once."""
        for task in self.tasks:
            task.end()
        for rank in self.ranks.values():
            if rank.alive:
                rank.die()
        for link in (self.to_root, *self.rooting.links.values()):
            if link is not None:
                link.end()
        self.rooting.root = None  # whom an operator's answer would find

    def _ticks(self) -> Process:
        while True:
            yield self.job.timing.tick_s
            self.carry(self.transit.tick(self.now_s()))
            self.rooting.tick()

    # The connection to the root.

    def follow(self, root: RootKey, is_same: Callable[[], bool]) -> None:
        self.start(self._following(root, is_same))

    def _following(self, root: RootKey, is_same: Callable[[], bool]) -> Process:
        while is_same():
            other = self.world.agents.get(root.machine)
            cut = self.network.is_cut(self.name, root.machine)
            cut = cut or self.network.is_cut(root.machine, self.name)
            if other is not None and not cut:
                yield self.network.travel_s(self.name, root.machine)
                if is_same() and other.alive:
                    yield from self._attached(other, is_same)
            yield RETRY_S

    def _attached(self, other: SimAgent, is_same: Callable[[], bool]) -> Process:
        """One connection, for as long as it holds."""
        down = self.network.link(other.name, self.name, self.hears_root)
        up = self.network.link(self.name, other.name, lambda _message: None)
        up.hear = partial(other.rooting.hear, down, self.name)
        if not other.rooting.attend(self.name, down):
            return
        self.to_root = up
        self.carry(self.worker.root_here())
        while is_same() and down.open and up.open and other.alive:
            yield self.job.timing.tick_s
        if self.to_root is up:
            self.to_root = None
        up.end()
        down.end()

    def tell(self, link: Link, message: msgspec.Struct) -> None:
        """A message leaves; a full queue ends the connection."""
        if len(link.queue) >= self.world.settings.queue_max:
            self.events.probe("links: a peer that did not read was dropped")
            link.end()
        else:
            link.post(message)

    def hears_root(self, message: say.FromRoot) -> None:
        if not self.alive:
            return
        older = (message.term, message.round) < (self.worker.term, self.worker.round)
        self.events.probe("worker: refused what is older", older)
        done = self.worker.from_root(message)
        self.carry(done)
        self.world.check.heard(self, message, done)

    # The ranks.

    def hears_rank(self, rank: SimRank, message: say.FromRank) -> None:
        if self.alive and self.ranks.get(rank.rank) is rank:
            self.carry(self.worker.from_rank(message))
            if isinstance(message, say.Reached) and not self.worker.stopped:
                self.pacing.reached(rank)

    def rank_died(self, rank: SimRank) -> None:
        """A rank ends by itself; its agent sees that at once."""
        if not rank.alive or not self.alive:
            return
        rank.die()
        if self.ranks.get(rank.rank) is rank:
            self.carry(self.lookout.rank_ended(rank.round, rank.rank, -9, []))
        self.look_for_quiet()

    def _start_ranks(self, begin: say.Begin, machine_rank: int) -> None:
        assert not any(rank.alive for rank in self.ranks.values()), "two crews"
        world, grid = self.world, self.worker.grid
        self.pacing.begins()
        self.begun = begin
        crew = world.crews.setdefault(
            (begin.round, begin.term),
            SimCrew(world_size=grid.world_size, met=self.events.signal()),
        )
        self.ranks = {
            number: SimRank(
                agent=self,
                rank=number,
                begin=begin,
                crew=crew,
                step_s=world.settings.step_s,
            )
            for number in grid.ranks(machine_rank)
        }

    def _stop_ranks(self, round: int) -> None:
        self.mover.stop()
        self.quiet_due = round
        for rank in self.ranks.values():
            if rank.alive:
                self.events.after(self.events.around(DEATH_S), self._rank_gone, rank)
        self.look_for_quiet()

    def _rank_gone(self, rank: SimRank) -> None:
        if rank.alive:
            rank.die()
        self.look_for_quiet()

    def look_for_quiet(self) -> None:
        """Says that nobody reads or writes a slot any more, once that is so."""
        gone = not any(rank.alive for rank in self.ranks.values())
        if self.quiet_due >= 0 and gone and self.mover.idle and self.alive:
            round, self.quiet_due = self.quiet_due, -1
            self.events.after(0.0, self._all_quiet, round)

    def _all_quiet(self, round: int) -> None:
        if self.alive:
            self.carry(self.worker.all_quiet(round, 29500))

    # Actions.

    def carry(self, actions: list[do.WorkerAction]) -> None:
        for action in actions:
            self._carry(action)

    def _carry(self, action: do.WorkerAction) -> None:
        match action:
            case do.TellRank(rank=number, message=message):
                rank = self.ranks.get(number)
                if rank is not None and rank.alive:
                    rank.inbox.post(message)
            case do.TellRoot(message=message):
                if self.rooting.root is not None:
                    self.events.after(0.0, self.rooting.hear_own, message)
                elif self.to_root is not None:
                    self.tell(self.to_root, message)
            case do.StartRanks(begin=begin, machine_rank=machine_rank):
                self._start_ranks(begin, machine_rank)
            case do.StopRanks(round=round):
                self._stop_ranks(round)
            case do.ReserveSlots():
                self.start(self._reserve(action))
            case do.ReleaseSlots(shards=shards):
                for shard in shards:
                    self.world.check.releases(self, shard)
                    self.memory.release(shard)
            case do.HashCopy():
                self.mover.hash(action)
            case do.ShipCopy():
                self.mover.ship(action)
            case do.FetchCopy():
                self.mover.fetch(action)
            case do.StoreCopies():
                self.start(storage.write(self, action))
            case do.LookAtRanks(round=round):
                sights = {
                    number: say.Sight(state="T" if rank.frozen else "S")
                    for number, rank in self.ranks.items()
                }
                self.carry(self.lookout.looked(round, sights))
            case do.Log(text=text):
                self.log(text)
            case do.Leave(reason=reason):
                self.leave(reason)

    def _reserve(self, action: do.ReserveSlots) -> Process:
        yield self.events.around(self.world.settings.chunk_s * 10)
        for shard in action.sizes:
            slots = range(SLOTS_MAX if shard in action.spare else SLOTS)
            slots = range(SLOTS, SLOTS_MAX) if action.third else slots
            self.memory.reserve(shard, chunks=self.world.settings.chunks, slots=slots)
        self.carry(self.worker.reserved(action.sizes))
        self.world.check.reserved(self)
