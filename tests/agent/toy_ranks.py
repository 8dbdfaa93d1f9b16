"""The ranks of a toy cluster: they step together, capture, hang, and come back.

A rank writes in two moments: its slots are torn from the first to the second. It is
killed at a moment of its own after it was told to die, and writes until then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import xxhash

from twinstep.agent import messages as say
from twinstep.agent.lookout import Lookout

TORN = "torn"
Content = tuple[int, int, int, int] | str | None
"""(shard, step, round, term) of a copy; nothing, torn or corrupt bytes otherwise."""

PATIENCE = 0.95  # how often a rank happens to wait for the answer to its step
TELLS = 0.5  # how often a rank tells the digests of what it wrote
IMPATIENCE = 0.3  # how often, at a tick, one that waits does not any longer


@dataclass
class ToyRank:
    rank: int
    machine: str
    begin: say.Begin
    crew: ToyCrew
    step: int = -1  # -1: waits for Welcome
    answered: bool = True
    slots: bool = False
    writing: say.Capture | None = None
    ordered: say.Capture | None = None
    """An order to capture a step that is still ahead."""
    wants: bool = False
    """Would go on, but waits for the answer or for its own writing."""
    frozen: bool = False
    alive: bool = True
    inbox: Any = None
    outbox: Any = None

    @property
    def round(self) -> int:
        return self.begin.round


@dataclass
class ToyCrew:
    """All ranks of one round: nobody goes on before everybody stands at a step."""

    ranks: list[ToyRank] = field(default_factory=list)
    standing: Counter[int] = field(default_factory=Counter)
    restored: tuple[int, int, int] | None = None
    """(step, round, term) of the state that the first rank came back with."""


class ToyRanks:
    """The half of a toy cluster that its ranks are; the other half is toy.py."""

    machines: dict[str, Any]
    crews: dict[tuple[int, int], ToyCrew]
    grid: Any
    shared: bool
    random: Any
    link: Any
    push: Any
    carry: Any
    quiet_if_idle: Any
    check: Any

    def start_rank(self, name: str, rank: int, begin: say.Begin) -> None:
        crew = self.crews.setdefault((begin.round, begin.term), ToyCrew())
        new = ToyRank(rank=rank, machine=name, begin=begin, crew=crew)
        new.inbox = self.link(partial(self.rank_hears, new))
        new.outbox = self.link(partial(self.agent_hears, new))
        crew.ranks.append(new)
        self.machines[name].ranks[rank] = new
        new.outbox.post(say.Hello(rank=rank, round=begin.round, pid=1))

    def agent_hears(self, rank: ToyRank, message: say.FromRank) -> None:
        machine = self.machines.get(rank.machine)
        if machine is not None and machine.ranks.get(rank.rank) is rank:
            self.carry(rank.machine, machine.worker.from_rank(message))

    def kill_rank(self, rank: ToyRank) -> None:
        """It dies by itself; its agent sees that at once."""
        if not rank.alive:
            return
        rank.alive = False
        machine = self.machines.get(rank.machine)
        if machine is None:
            return
        lookout = Lookout(worker=machine.worker)
        self.carry(rank.machine, lookout.rank_ended(rank.round, rank.rank, -9, []))
        self.quiet_if_idle(rank.machine)

    def stop_ranks(self, name: str) -> None:
        """They will die, each in its own time; what they say is heard no more."""
        for rank in self.machines[name].ranks.values():
            rank.outbox.queue.clear()
            rank.inbox.queue.clear()
            if rank.alive:
                self.push(self.end_rank, rank)

    def end_rank(self, rank: ToyRank) -> None:
        rank.alive = False
        self.quiet_if_idle(rank.machine)

    # What a rank hears.

    def rank_hears(self, rank: ToyRank, message: say.ToRank) -> None:
        if not rank.alive or message.round != rank.round:
            return
        match message:
            case say.Welcome():
                self.welcome(rank, message)
            case say.Slots():
                rank.slots = True
            case say.Capture():
                self.answer(rank, message)
            case _:
                raise AssertionError(message)

    def welcome(self, rank: ToyRank, message: say.Welcome) -> None:
        if rank.step >= 0:
            return
        memory = self.machines[rank.machine].memory
        for info in message.slots:
            content = memory[info.shard, info.slot]
            if digest(content) != info.digests:
                bad = say.BadCopy(
                    rank=rank.rank,
                    round=rank.round,
                    shard=info.shard,
                    step=message.step,
                    chunk=0,
                    source=info.source,
                )
                rank.outbox.post(bad)
                return
            assert isinstance(content, tuple), f"restored {content}"
            version = content[1:]
            rank.crew.restored = rank.crew.restored or version
            assert content[0] == info.shard and version == rank.crew.restored, (
                f"rank {rank.rank} restored {content}, others {rank.crew.restored}"
            )
            assert version[:2] == (message.step, rank.begin.captured_in), content
        rank.step = message.step
        restored = say.Restored(
            rank=rank.rank, round=rank.round, step=rank.step, seconds=0.0
        )
        rank.outbox.post(restored)
        self.stand(rank)

    def answer(self, rank: ToyRank, message: say.Capture) -> None:
        if message.capture and message.step > rank.step and rank.slots:
            rank.ordered = message
            return
        late = message.step != rank.step
        rank.answered |= not late
        if message.capture and (late or not rank.slots):
            skipped = say.Skipped(rank=rank.rank, round=rank.round, step=message.step)
            rank.outbox.post(skipped)
        elif message.capture:
            rank.writing = message
            for place in self.written(rank, message):
                self.tear(rank.machine, place)
            self.push(self.write, rank)
        if rank.wants:
            rank.wants = False
            self.push(self.advance, rank)

    def tear(self, name: str, place: tuple[int, int]) -> None:
        """Somebody begins to write into a slot."""
        memory = self.machines[name].memory
        self.check.overwrites(name, memory.get(place))
        memory[place] = TORN

    def written(self, rank: ToyRank, capture: say.Capture) -> list[tuple[int, int]]:
        places = [(rank.rank, capture.own_slot)]
        if self.shared:
            shard = self.grid.shared_shard(rank.rank % self.grid.ranks_per_machine)
            places.append((shard, capture.shared_slot))
        return places

    # What a rank does.

    def write(self, rank: ToyRank) -> None:
        """The copy into the slots ends."""
        machine = self.machines.get(rank.machine)
        if not rank.alive or rank.frozen or machine is None:
            return
        capture, rank.writing = rank.writing, None
        assert capture is not None and capture.step == rank.step, "torn"
        tells = self.random.random() < TELLS
        digests: dict[int, bytes] = {}
        for shard, slot in self.written(rank, capture):
            version = (shard, capture.step, rank.round, rank.begin.term)
            machine.memory[shard, slot] = version
            digests |= {shard: digest(version)} if tells else {}
        captured = say.Captured(
            rank=rank.rank, round=rank.round, step=capture.step, digests=digests
        )
        rank.outbox.post(captured)
        if rank.wants:
            rank.wants = False
            self.push(self.advance, rank)

    def stand(self, rank: ToyRank) -> None:
        standing = rank.crew.standing
        standing[rank.step] += 1
        if standing[rank.step] == self.grid.world_size:
            for one in rank.crew.ranks:
                self.push(self.advance, one)

    def advance(self, rank: ToyRank, *, patient: bool = True) -> None:
        """The next step, unless the fence or a wait is in the way."""
        if not rank.alive or rank.frozen:
            return
        waits = patient and not rank.answered and self.random.random() < PATIENCE
        if rank.writing is not None or waits:
            rank.wants = True
            return
        rank.step += 1
        if not rank.slots:
            layout = say.Layout(
                rank=rank.rank,
                round=rank.round,
                own_bytes=100,
                shared_bytes=50 if self.shared else 0,
                shared_digest=b"same",
            )
            if rank.step == rank.begin.step + 1:
                rank.outbox.post(layout)
        rank.answered = False
        reached = say.Reached(rank=rank.rank, round=rank.round, step=rank.step)
        rank.outbox.post(reached)
        ordered, rank.ordered = rank.ordered, None
        if ordered is not None:
            self.answer(rank, ordered)
        self.stand(rank)

    def nudge(self) -> None:
        """Ranks do not wait for an answer for ever."""
        newest = self.crews[max(self.crews)].ranks if self.crews else []
        waiting = [rank for rank in newest if rank.wants and rank.writing is None]
        if waiting and self.random.random() < IMPATIENCE:
            rank = self.random.choice(waiting)
            rank.wants = False
            self.advance(rank, patient=False)


def digest(content: Content) -> bytes:
    return xxhash.xxh3_128_digest(repr(content).encode())
