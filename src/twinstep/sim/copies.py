"""How copies travel in a simulated cluster: chunk by chunk, and any may be the last.

What agent/moving.py does with threads and sockets, as processes that take time. A copy
is read from its slot while it is sent and written into the other while it arrives, so
that a slot which somebody else writes meanwhile would be seen. A stop ends what is
under way at the next chunk, but what has left may still arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinstep.agent import actions as do
from twinstep.agent.copies import HELD_ALREADY
from twinstep.agent.worker import Actions
from twinstep.sim import memory
from twinstep.sim.events import Process, Step
from twinstep.sim.memory import Chunk

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent


SLICE_S = 0.1
"""How late a thread that waits for the network sees that it is to stop."""


STRAYS = 0.5
"""How often a copy that has left is with the kernel whole, and arrives although its
sender has stopped."""


UNSEEN = 0.5
"""How often a holder does not see that its sender is gone, and waits for more."""


class Broken(Exception):
    """The connection ended, or the other end refused."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimMover:
    """The threads of one machine that move copies."""

    agent: SimAgent
    active: int = 0
    """How many read or write a slot now."""
    epoch: int = 0
    """How often all of it was stopped."""
    sending: int = 0
    corrupt_next: bool = field(default=False)
    """The next chunk that leaves is damaged on the way."""
    break_next: bool = False
    """The next connection that carries a copy from here ends, as this end sees it."""

    def stop(self) -> None:
        self.epoch += 1

    @property
    def idle(self) -> bool:
        return self.active == 0

    def _begin(self, work: Process) -> None:
        self.active += 1
        self.agent.start(self._counted(work))

    def _counted(self, work: Process) -> Process:
        yield from work
        self.active -= 1
        self.agent.look_for_quiet()

    def _decide(self, decide: Callable[[], Actions]) -> None:
        self.agent.carry(decide())

    # Hashing.

    def hash(self, action: do.HashCopy) -> None:
        self._begin(self._hash(action))

    def _hash(self, action: do.HashCopy) -> Process:
        chunks = self.agent.memory.slots[action.shard, action.slot]
        yield self.agent.chunk_s() * len(chunks)
        digests = memory.digests(chunks)
        self._decide(
            lambda: self.agent.transit.hashed(
                action.shard, action.slot, action.step, digests
            )
        )

    # Sending.

    def ship(self, ship: do.ShipCopy) -> None:
        self._begin(self._ship(ship))

    def _ship(self, ship: do.ShipCopy) -> Process:
        agent, transit = self.agent, self.agent.transit
        self.sending += 1
        try:
            digests = yield from self._send(ship)
        except Broken as error:
            reason = str(error)
            if reason == HELD_ALREADY:
                digests = ship.digests or self._own_digests(ship)
            else:
                self.sending -= 1
                if self._is_bad(ship):
                    agent.events.probe("copies: the sender's own copy was bad")
                    self._decide(lambda: transit.source_bad(ship, "own bytes"))
                else:
                    now_s = agent.now_s()
                    self._decide(lambda: transit.ship_failed(ship, reason, now_s))
                return
        self.sending -= 1
        if not ship.digests:
            self._decide(
                lambda: transit.hashed(ship.shard, ship.slot, ship.step, digests)
            )
        self._decide(
            lambda: transit.acknowledged(
                ship.round, ship.shard, ship.step, ship.target_rank
            )
        )

    def _own_digests(self, ship: do.ShipCopy) -> bytes:
        return memory.digests(self.agent.memory.slots[ship.shard, ship.slot])

    def _is_bad(self, ship: do.ShipCopy) -> bool:
        place = (ship.shard, ship.slot)
        if not ship.digests or place not in self.agent.memory.slots:
            return False
        return self._own_digests(ship) != ship.digests

    def _send(self, ship: do.ShipCopy) -> Step[bytes]:
        """Returns the digests, once the holder has verified them. Raises: Broken."""
        agent, epoch = self.agent, self.epoch
        target, term = ship.target.machine, agent.worker.term
        left = list(agent.memory.slots[ship.shard, ship.slot])
        try:
            yield from self._travel(agent.name, target, epoch)
        except Broken:
            if agent.events.random.random() < STRAYS:
                delay_s = agent.network.travel_s(agent.name, target)
                delay_s += agent.events.random.choice((0.0, 0.3, 1.0, 3.0))
                agent.events.after(delay_s, self._stray, ship, term, left)
            raise
        holder = agent.world.agents.get(target)
        if holder is None:
            raise Broken("gone")
        slot, reason = self._offer(holder, ship, term)
        if slot is None:
            yield from self._travel(target, agent.name, epoch)
            raise Broken(reason)
        arriving = Arriving(holder=holder, shard=ship.shard, slot=slot, ship=ship)
        arriving.begin()
        digests = b""
        source = agent.memory.slots[ship.shard, ship.slot]
        turns = agent.pacing.turns(ship, chunks=len(source), epoch=epoch)
        try:
            for number in range(len(source)):
                yield from turns.turn()
                yield agent.chunk_s()
                if epoch != self.epoch:
                    raise Broken("the round is over")
                if self.break_next:
                    self.break_next = False
                    raise Broken("the connection was reset")
                chunk, known = source[number], ship.digests
                due = known[16 * number : 16 * (number + 1)] or memory.digest(chunk)
                digests += due
                if self.corrupt_next:
                    self.corrupt_next, chunk = False, memory.flipped(chunk)
                arriving.left = (number, chunk)
                yield from self._travel(agent.name, target, epoch)
                arriving.chunk(number, chunk, due)
        except BaseException:
            arriving.fail()
            raise
        finally:
            turns.over()
        arriving.end(digests)
        yield from self._travel(target, agent.name, epoch)
        return digests

    def _offer(
        self, holder: SimAgent, ship: do.ShipCopy, term: int
    ) -> tuple[int | None, str]:
        decided = holder.transit.offered(
            round=ship.round,
            term=term,
            shard=ship.shard,
            step=ship.step,
            captured_in=ship.captured_in,
            keep=ship.keep,
            size=self.agent.world.settings.chunks * memory.CHUNK_BYTES,
            sender=self.agent.name,
            replace=ship.replace,
        )
        if decided[0] is not None:
            self.agent.world.check.takes(holder, (term, ship.round))
        return decided

    def _stray(self, ship: do.ShipCopy, term: int, chunks: list[Chunk]) -> None:
        """A copy that had left before its sender stopped comes in all the same."""
        holder = self.agent.world.agents.get(ship.target.machine)
        network, name = self.agent.network, self.agent.name
        if holder is None or network.is_cut(name, holder.name):
            return
        slot, _ = self._offer(holder, ship, term)
        self.agent.events.probe("copies: a stray one was refused", slot is None)
        if slot is not None:
            arriving = Arriving(holder=holder, shard=ship.shard, slot=slot, ship=ship)
            arriving.begin()
            for number, chunk in enumerate(chunks):
                arriving.chunk(number, chunk, memory.digest(chunk))
            arriving.end(memory.digests(chunks))

    def _travel(self, source: str, target: str, epoch: int) -> Step[None]:
        """Raises: Broken when this machine stops it, or the way is cut for longer than
        anybody waits."""
        network, events = self.agent.network, self.agent.events
        arrives_s = events.now_s + network.travel_s(source, target)
        until_s = events.now_s + self.agent.job.timing.transfer_s_max
        while True:
            cut = network.is_cut(source, target)
            wait_s = max(arrives_s - events.now_s, network.asleep_s(target))
            if wait_s <= 0 and not cut:
                return
            yield min(SLICE_S, wait_s) if wait_s > 0 else SLICE_S
            if self.epoch != epoch:
                raise Broken("the round is over")
            if cut and events.now_s > until_s:
                raise Broken("took nothing for too long")

    # Fetching.

    def fetch(self, fetch: do.FetchCopy) -> None:
        self._begin(self._fetch(fetch))

    def _fetch(self, fetch: do.FetchCopy) -> Process:
        agent, transit = self.agent, self.agent.transit
        agent.world.check.overwrites(agent.name, (fetch.shard, fetch.slot))
        try:
            digests = yield from self._read(fetch)
        except Broken as error:
            reason, corrupt = str(error), str(error) == "corrupt"
            if corrupt:
                agent.events.probe("copies: a fetched copy was bad")
            self._decide(lambda: transit.fetch_failed(fetch, reason, corrupt=corrupt))
            return
        self._decide(lambda: transit.fetched(fetch, digests))

    def _read(self, fetch: do.FetchCopy) -> Step[bytes]:
        """Returns the digests of what was read and verified. Raises: Broken."""
        agent, epoch, source = self.agent, self.epoch, fetch.source.machine
        yield from self._travel(agent.name, source, epoch)
        holder = agent.world.agents.get(source)
        slot, digests = None, b""
        if holder is not None and holder.worker.round == fetch.round:
            slot, digests = holder.transit.serves(
                shard=fetch.shard, step=fetch.step, captured_in=fetch.captured_in
            )
        if holder is None or slot is None:
            yield from self._travel(source, agent.name, epoch)
            raise Broken("no copy here")
        mine = agent.memory.slots[fetch.shard, fetch.slot]
        theirs, served = holder.memory.slots[fetch.shard, slot], holder.mover.epoch
        for number in range(len(mine)):
            yield agent.chunk_s()
            gone = source not in agent.world.agents or holder.mover.epoch != served
            if gone or epoch != self.epoch:
                raise Broken("the connection ended")
            chunk = theirs[number]
            if holder.mover.corrupt_next:
                holder.mover.corrupt_next, chunk = False, memory.flipped(chunk)
            yield from self._travel(source, agent.name, epoch)
            if epoch != self.epoch:
                raise Broken("the round is over")
            mine[number] = chunk
            if memory.digest(chunk) != digests[16 * number : 16 * (number + 1)]:
                raise Broken("corrupt")
        return digests


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Arriving:
    """A copy that comes in at a holder: its end of the connection."""

    holder: SimAgent
    shard: int
    slot: int
    ship: do.ShipCopy
    epoch: int = 0
    over: bool = False
    left: tuple[int, Chunk] | None = None
    """The last chunk that has left the sender."""

    def begin(self) -> None:
        self.holder.mover.active += 1
        self.epoch = self.holder.mover.epoch
        self.holder.world.check.overwrites(self.holder.name, (self.shard, self.slot))
        if self.ship.replace:
            check = self.holder.world.check
            check.spoil(self.holder.name, self.ship.shard, self.ship.step)

    def chunk(self, number: int, chunk: Chunk, due: bytes) -> None:
        holder = self.holder
        gone = holder.name not in holder.world.agents
        if gone or holder.mover.epoch != self.epoch:
            raise Broken("the holder's round is over")
        holder.memory.slots[self.shard, self.slot][number] = chunk
        if not self.verify(chunk, due):
            holder.events.probe("copies: a chunk arrived damaged")
            raise Broken("a wrong checksum")

    def verify(self, chunk: Chunk, due: bytes) -> bool:
        return memory.digest(chunk) == due

    def end(self, digests: bytes) -> None:
        """All has come: what the sender is told now it may rely on."""
        if self.holder.name in self.holder.world.agents and not self.over:
            transit = self.holder.transit
            self.holder.carry(transit.received(self.shard, self.slot, digests))
            self._leave()

    def fail(self) -> None:
        """The holder's end sees that the connection is over, a little later; or only
        by its own deadline. Until then the slot is this connection's, and what was in
        its buffers may still be written."""
        if self.over:
            return
        self.over = True
        holder, random = self.holder, self.holder.events.random
        late_s = holder.events.around(0.001)
        if random.random() < UNSEEN:
            late_s = random.random() * holder.job.timing.transfer_s_max
        self.left = self.left if random.random() < STRAYS else None
        holder.events.after(late_s, self._failed)

    def _failed(self) -> None:
        if self.holder.name in self.holder.world.agents:
            stays = self.holder.mover.epoch == self.epoch
            if self.left is not None and stays:
                number, chunk = self.left
                self.holder.memory.slots[self.shard, self.slot][number] = chunk
            transit = self.holder.transit
            self.holder.carry(transit.receive_failed(self.shard, self.slot))
            self._leave()

    def _leave(self) -> None:
        self.over = True
        self.holder.mover.active -= 1
        self.holder.look_for_quiet()
