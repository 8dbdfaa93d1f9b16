"""The ranks of a simulated cluster: they load, step together, capture, hang and die.

What session.py and a training loop do together, as one process that takes time: the
next forward and backward pass, in which the twin writes what the agent has asked for;
the collective, in which all ranks meet; the fence; the update. A rank that is killed
writes until it is dead, chunk by chunk.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from twinstep.agent import messages as say
from twinstep.capture import turn
from twinstep.sim import memory
from twinstep.sim.events import Process, Signal, Task
from twinstep.sim.memory import Place, Version
from twinstep.sim.network import Link
from twinstep.sim.pattern import Beats

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent

TELLS = 0.5
"""How often a rank tells the digests of what it wrote; else its agent hashes."""
FAILS_WITH_OTHERS = 0.5
"""How often a collective fails at once when one of its ranks has died; else it hangs,
until the rank is killed."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimCrew:
    """All ranks of one round: a collective ends when all of them have come to it."""

    world_size: int
    met: Signal
    standing: Counter[int] = field(default_factory=Counter[int])
    ranks: list[SimRank] = field(default_factory=list["SimRank"])
    restored: Version | None = None
    """What the first rank came back with; all others must have the same."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimRank:
    """One training process."""

    agent: SimAgent
    rank: int
    begin: say.Begin
    crew: SimCrew
    step_s: float
    changed: Signal = field(init=False)
    beats: Beats = field(init=False)
    step: int = -1
    """The step that its state is at; -1 until it has loaded."""
    closed: bool = True
    """The next update is about to run: an answer for this step is too late."""
    slots: bool = False
    heard: deque[say.Welcome] = field(default_factory=deque[say.Welcome])
    writing: say.Capture | None = None
    ordered: say.Capture | None = None
    """An order to capture a step that is still ahead."""
    frozen: bool = False
    alive: bool = True
    tasks: list[Task] = field(default_factory=list[Task])
    inbox: Link = field(init=False)
    outbox: Link = field(init=False)

    def __post_init__(self) -> None:
        agent = self.agent
        self.changed = agent.events.signal()
        self.beats = Beats(
            pattern=agent.world.settings.pattern, events=agent.events, rank=self.rank
        )
        self.inbox = agent.network.link(agent.name, agent.name, self.hear)
        hear = partial(agent.hears_rank, self)
        self.outbox = agent.network.link(agent.name, agent.name, hear)
        self.crew.ranks.append(self)
        self._begin(self.life())

    @property
    def round(self) -> int:
        return self.begin.round

    def _begin(self, process: Process) -> None:
        self.tasks.append(self.agent.events.start(process, self._asleep_s))

    def _asleep_s(self) -> float:
        return 1e9 if self.frozen else self.agent.asleep_s()

    # Its life.

    def life(self) -> Process:
        agent, events = self.agent, self.agent.events
        yield events.around(agent.world.settings.start_s)
        self.outbox.post(say.Hello(rank=self.rank, round=self.round, pid=1))
        while self.step < 0:
            while not self.heard:
                yield self.changed
            self._load(self.heard.popleft())
        restored = say.Restored(
            rank=self.rank, round=self.round, step=self.step, seconds=0.0
        )
        self.outbox.post(restored)
        first = True
        while True:
            compiles = agent.world.settings.first_step_s if first else 0.0
            yield self.beats.begins(self.step, self.step_s) + compiles
            self.beats.meets()
            yield from self._meet()
            if (rest_s := self.beats.met()) > 0:
                yield rest_s
            self.closed = True
            while self.writing is not None:
                events.probe("rank: the fence waits for the twin")
                yield self.changed
            self.step += 1
            if first:
                self._tell_layout()
                first = False
            self.closed = False
            self.outbox.post(
                say.Reached(rank=self.rank, round=self.round, step=self.step)
            )
            agent.world.stepped(self)
            ordered, self.ordered = self.ordered, None
            if ordered is not None:
                self._answer(ordered)

    def _meet(self) -> Process:
        """The collective of a step."""
        standing, step = self.crew.standing, self.step
        standing[step] += 1
        self.crew.met.set()
        while standing[step] < self.crew.world_size:
            yield self.crew.met

    def _is_good(self, info: say.SlotInfo) -> bool:
        chunks = self.agent.memory.slots[info.shard, info.slot]
        return memory.digests(chunks) == info.digests

    def _load(self, welcome: say.Welcome) -> None:
        """The state is what the slots hold, if they hold what they should; or what is
        in storage."""
        if welcome.stored is not None and not self._load_stored(welcome.step):
            return
        for info in welcome.slots:
            if not self._is_good(info):
                self.agent.events.probe("rank: a copy was bad when it was loaded")
                self.outbox.post(
                    say.BadCopy(
                        rank=self.rank,
                        round=self.round,
                        shard=info.shard,
                        step=welcome.step,
                        chunk=0,
                        source=info.source,
                    )
                )
                return
            version = self.agent.memory.version((info.shard, info.slot))
            self.agent.world.check.restores(self, info.shard, version, welcome.step)
        self.step = welcome.step

    def _load_stored(self, step: int) -> bool:
        """Reads the state from storage; says so when it is not to be had."""
        agent = self.agent
        storage = agent.world.storage
        version = storage.steps.get(step)
        if storage.away or version is None or step in storage.spoiled:
            agent.events.probe("rank: a stored step could not be loaded")
            corrupt = not storage.away
            self.outbox.post(
                say.BadStored(
                    rank=self.rank,
                    round=self.round,
                    step=step,
                    corrupt=corrupt,
                    reason="spoiled" if corrupt else "away",
                )
            )
            return False
        agent.events.probe("rank: loads from storage")
        agent.world.check.restores(self, self.rank, version, step)
        return True

    def _tell_layout(self) -> None:
        settings = self.agent.world.settings
        size = settings.chunks * memory.CHUNK_BYTES
        layout = say.Layout(
            rank=self.rank,
            round=self.round,
            own_bytes=size,
            shared_bytes=size if settings.shared else 0,
            shared_digest=b"same",
        )
        self.outbox.post(layout)

    # What it hears.

    def hear(self, message: say.ToRank) -> None:
        if not self.alive or message.round != self.round:
            return
        match message:
            case say.Welcome():
                self.heard.append(message)
            case say.Slots():
                self.slots = True
            case say.Capture():
                self._answer(message)
            case say.Unshare() | say.Fail() | say.Admit():
                raise AssertionError(message)
        self.changed.set()

    def _answer(self, capture: say.Capture) -> None:
        if not capture.capture:
            return
        due = turn.turn(capture.step, standing=self.step, closed=self.closed)
        ahead = due is turn.Turn.LATER and self.slots
        if self.agent.events.probe("rank: is told of a step ahead", ahead):
            self.ordered = capture
            return
        late = due is not turn.Turn.NOW or not self.slots
        if self.agent.events.probe("rank: an answer came too late", late):
            skipped = say.Skipped(rank=self.rank, round=self.round, step=capture.step)
            self.outbox.post(skipped)
            return
        assert self.writing is None, "two captures at a time"
        self.writing = capture
        self._begin(self._write(capture))

    def _places(self, capture: say.Capture) -> list[Place]:
        grid = self.agent.worker.grid
        places = [(self.rank, capture.own_slot)]
        if self.agent.world.settings.shared:
            shard = grid.shared_shard(self.rank % grid.ranks_per_machine)
            places.append((shard, capture.shared_slot))
        return places

    def _write(self, capture: say.Capture) -> Process:
        """The twin: the state goes into the slots, chunk by chunk."""
        agent, step = self.agent, self.step
        version = (step, self.round, self.begin.term)
        tells = agent.events.random.random() < TELLS
        told: dict[int, bytes] = {}
        for place in self._places(capture):
            agent.world.check.overwrites(agent.name, place)
            chunks = agent.memory.slots[place]
            for number in range(len(chunks)):
                yield agent.events.around(agent.world.settings.chunk_s)
                assert self.step == step, "the state changed while it was read"
                chunks[number] = memory.content(place[0], number, version)
            told |= {place[0]: memory.digests(chunks)} if tells else {}
        captured = say.Captured(
            rank=self.rank, round=self.round, step=capture.step, digests=told
        )
        self.writing = None
        self.outbox.post(captured)
        self.changed.set()

    # Its end.

    def die(self) -> None:
        """It is dead, whoever killed it; its memory of the world goes with it."""
        self.alive = False
        for task in self.tasks:
            task.end()
        for link in (self.inbox, self.outbox):
            link.end()
        events = self.agent.events
        for other in self.crew.ranks:
            fails = events.random.random() < FAILS_WITH_OTHERS
            if other.alive and not other.frozen and fails:
                events.after(events.around(0.05), other.agent.rank_died, other)
