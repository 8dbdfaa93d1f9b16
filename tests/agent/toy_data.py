"""How copies travel in a toy cluster: in moments, any of which may be the last.

An offer that has left is delivered even when its sender has stopped or died since;
whether its bytes still come is drawn. The digests of a copy travel with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.agent.toy_ranks import Content, digest
from twinstep.agent import actions as do
from twinstep.agent.copies import HELD_ALREADY

DELAYS = (0, 0, 0, 1, 5, 30)


@dataclass
class Move:
    """Bytes under way. `epoch` counts the stops of each end since it began."""

    action: Any
    source: str
    target: str
    source_epoch: int
    term: int
    target_epoch: int = -1
    slot: int = -1
    content: Content = None
    digests: bytes = b""
    moments: int = 0
    """How often it is passed over before it goes on."""


class ToyData:
    """The half of a toy machine that threads are; agent/moving.py in the real one."""

    machines: dict[str, Any]
    random: Any
    push: Any
    carry: Any
    now_s: float
    quiet_if_idle: Any
    tear: Any
    check: Any

    def begin_move(self, name: str, action: Any, work: Any) -> None:
        machine = self.machines[name]
        machine.active += 1
        peer = getattr(action, "target", None) or getattr(action, "source", None)
        move = Move(
            action=action,
            source=name,
            target=peer.machine if peer else "",
            source_epoch=machine.epoch,
            term=machine.worker.term,
        )
        self.push(work, move)

    def end_move(self, name: str) -> None:
        machine = self.machines.get(name)
        if machine is not None:
            machine.active -= 1
            self.quiet_if_idle(name)

    def is_over(self, name: str, epoch: int) -> bool:
        """Whether that end was stopped, or is gone."""
        machine = self.machines.get(name)
        return machine is None or machine.epoch != epoch

    # Hashing.

    def hash(self, move: Move) -> None:
        if move.source not in self.machines:
            return
        machine, hashed = self.machines[move.source], move.action
        content = machine.memory.get((hashed.shard, hashed.slot))
        done = machine.transit.hashed(
            hashed.shard, hashed.slot, hashed.step, digest(content)
        )
        self.carry(move.source, done)
        self.end_move(move.source)

    # Sending.

    def ship(self, move: Move) -> None:
        """The sender reads its slot and connects."""
        if self.is_over(move.source, move.source_epoch):
            return self.ship_failed(move, "the round is over")
        ship: do.ShipCopy = move.action
        memory = self.machines[move.source].memory
        move.content = memory.get((ship.shard, ship.slot))
        move.digests = ship.digests or digest(move.content)
        move.moments = self.random.choice(DELAYS)
        self.push(self.offer, move)

    def ship_failed(self, move: Move, reason: str) -> None:
        machine = self.machines.get(move.source)
        if machine is not None:
            failed = machine.transit.ship_failed(move.action, reason, self.now_s)
            self.carry(move.source, failed)
            self.end_move(move.source)

    def passes(self, move: Move, work: Any) -> bool:
        """The network takes its time."""
        if move.moments > 0:
            move.moments -= 1
            self.push(work, move)
            return True
        move.moments = self.random.choice(DELAYS)
        return False

    def offer(self, move: Move) -> None:
        """The offer is read by the holder, which decides."""
        if self.passes(move, self.offer):
            return None
        ship: do.ShipCopy = move.action
        target = self.machines.get(move.target)
        if target is None:
            return self.ship_failed(move, "gone")
        slot, reason = target.transit.offered(
            round=ship.round,
            term=move.term,
            shard=ship.shard,
            step=ship.step,
            captured_in=ship.captured_in,
            keep=ship.keep,
            size=100,
            sender=move.source,
            replace=ship.replace,
        )
        if slot is not None:
            move.slot, move.target_epoch = slot, target.epoch
            target.active += 1
            if ship.replace:
                self.check.spoil(move.target, ship.shard, ship.step)
            self.tear(move.target, (ship.shard, slot))
            self.push(self.arrive, move)
        elif reason == HELD_ALREADY:
            self.push(self.verified, move)
        else:
            self.ship_failed(move, reason)
        return None

    def arrive(self, move: Move) -> None:
        """The bytes come in, or do not."""
        stopped = self.is_over(move.target, move.target_epoch)
        if not stopped and self.passes(move, self.arrive):
            return None
        ship: do.ShipCopy = move.action
        target = self.machines.get(move.target)
        if target is None:
            return self.ship_failed(move, "gone")
        cut = self.is_over(move.source, move.source_epoch)
        lost = stopped or (cut and self.random.random() < 0.5)
        if lost or digest(move.content) != move.digests:
            done = target.transit.receive_failed(ship.shard, move.slot)
            self.carry(move.target, done)
            self.end_move(move.target)
            return self.rejected(move)
        target.memory[ship.shard, move.slot] = move.content
        done = target.transit.received(ship.shard, move.slot, move.digests)
        self.carry(move.target, done)
        self.end_move(move.target)
        self.push(self.verified, move)
        return None

    def rejected(self, move: Move) -> None:
        """The holder got other bytes than were captured, or not all of them."""
        ship: do.ShipCopy = move.action
        machine = self.machines.get(move.source)
        slot = (ship.shard, ship.slot)
        if machine and ship.digests and digest(machine.memory[slot]) != ship.digests:
            self.carry(move.source, machine.transit.source_bad(ship, "other bytes"))
            return self.end_move(move.source)
        return self.ship_failed(move, "cut")

    def verified(self, move: Move) -> None:
        """The sender hears that the holder has it."""
        ship: do.ShipCopy = move.action
        machine = self.machines.get(move.source)
        if machine is None:
            return
        transit = machine.transit
        if not ship.digests:
            done = transit.hashed(ship.shard, ship.slot, ship.step, move.digests)
            self.carry(move.source, done)
        done = transit.acknowledged(ship.round, ship.shard, ship.step, ship.target_rank)
        self.carry(move.source, done)
        self.end_move(move.source)

    # Fetching. The machine that fetches is the move's source: it began it.

    def fetch(self, move: Move) -> None:
        """The holder reads its copy."""
        fetch: do.FetchCopy = move.action
        holder = self.machines.get(move.target)
        slot, digests = None, b""
        if holder is not None and holder.worker.round == fetch.round:
            slot, digests = holder.transit.serves(
                shard=fetch.shard, step=fetch.step, captured_in=fetch.captured_in
            )
        if holder is None or slot is None:
            return self.fetch_failed(move, "no copy here", corrupt=False)
        move.content, move.digests = holder.memory[fetch.shard, slot], digests
        self.push(self.fetched, move)
        return None

    def fetched(self, move: Move) -> None:
        fetch: do.FetchCopy = move.action
        if self.is_over(move.source, move.source_epoch):
            return self.fetch_failed(move, "the round is over", corrupt=False)
        if digest(move.content) != move.digests:
            return self.fetch_failed(move, "corrupt", corrupt=True)
        machine = self.machines[move.source]
        machine.memory[fetch.shard, fetch.slot] = move.content
        self.carry(move.source, machine.transit.fetched(fetch, move.digests))
        self.end_move(move.source)
        return None

    def fetch_failed(self, move: Move, reason: str, *, corrupt: bool) -> None:
        machine = self.machines.get(move.source)
        if machine is not None:
            failed = machine.transit.fetch_failed(move.action, reason, corrupt=corrupt)
            self.carry(move.source, failed)
            self.end_move(move.source)
