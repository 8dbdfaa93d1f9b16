"""Decides, for one machine, what becomes of copies that are on their way.

Hashed, acknowledged, offered, received, fetched: each is a fact from a thread that
moves bytes, checked against the present round before it changes what the machine holds
(copies.py). A fact of an older round frees a slot at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.agent import actions as do
from twinstep.agent.worker import Actions, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Transit:
    """The part of a worker's decisions that the movers of copies talk to."""

    worker: Worker

    def hashed(self, shard: int, slot: int, step: int, digests: bytes) -> Actions:
        """The digests of a captured copy are known: it is whole."""
        if not self.worker.copies.hashed(shard, slot, step, digests):
            return []
        if not self.worker.stopped:
            return (
                self.worker.copies.released(shard, keep=self.worker.vote.keep)
                + self.worker.report()
            )
        return self.worker.inventory()

    def acknowledged(self, round: int, shard: int, step: int, holder: int) -> Actions:
        """A holder has verified our copy."""
        if round != self.worker.round or self.worker.stopped:
            return []
        self.worker.copies.acknowledge(shard, step, holder)
        return self.worker.report()

    def ship_failed(self, ship: do.ShipCopy, reason: str, now_s: float) -> Actions:
        """A copy did not arrive; it is tried again, as long as the round lasts."""
        if ship.round != self.worker.round or self.worker.stopped:
            return []
        self.worker.copies.retry.append((now_s + self.worker.retry_s, ship))
        name = ship.target.machine
        return [do.Log(text=f"shard {ship.shard} not sent to {name} yet: {reason}")]

    def source_bad(self, ship: do.ShipCopy, reason: str) -> Actions:
        """A copy of our own is not what it was when its digests were computed: it is
        named and sent no more, or the next capture would wait for it for ever."""
        worker = self.worker
        if ship.round != worker.round or worker.stopped:
            return []
        worker.copies.give_up(ship.shard, ship.step)
        if not worker.copies.is_there(ship):
            return []  # a rank has found out before
        return worker.copy_bad(ship.shard, ship.step, worker.machine, reason, True)

    def tick(self, now_s: float) -> Actions:
        return self.worker.copies.due(now_s, keep=self.worker.vote.keep)

    def offered(
        self,
        *,
        round: int,
        term: int,
        shard: int,
        step: int,
        captured_in: int,
        keep: int,
        size: int,
        sender: str,
        replace: bool,
    ) -> tuple[int | None, str]:
        """Decides whether a copy may come in: (slot, "") or (None, why not).

        The sender may have heard of a newer `keep` than this machine: the newer of
        both is spared, or the step that all others already rely on would go. It can
        only be a step that this machine has called safe itself: any other is not
        believed, or the step that is kept would be spared no longer."""
        worker = self.worker
        present = (worker.term, worker.round)
        if (term, round) != present or worker.stopped:
            return None, f"round {round} is not the present one ({worker.round})"
        if step < 1 or captured_in > round:
            return None, f"step {step}, captured in round {captured_in}, is none"
        owner = self._owner(shard)
        if sender != owner or sender == worker.machine:
            return None, f"shard {shard} is sent by {owner or 'nobody'}"
        if keep > worker.vote.keep and keep not in worker.copies.safe_steps():
            return None, f"step {keep} is not known to be safe here"
        worker.vote.keep = max(worker.vote.keep, keep)
        return worker.copies.target(
            shard=shard,
            step=step,
            captured_in=captured_in,
            keep=self.worker.vote.keep,
            size=size,
            sender=sender,
            replace=replace,
        )

    def _owner(self, shard: int) -> str:
        """The machine whose rank owns `shard` in this round; nobody's if shared."""
        begin, grid = self.worker.begin, self.worker.grid
        if begin is None or shard >= grid.world_size:
            return ""
        return begin.members[grid.machine_rank(shard)].machine

    def received(self, shard: int, slot: int, digests: bytes) -> Actions:
        """A copy came in and every chunk of it was verified."""
        self.worker.copies.table.whole(shard, slot, digests=digests)
        return []

    def receive_failed(self, shard: int, slot: int) -> Actions:
        """The sender went away, or sent bad bytes: what came is worth nothing."""
        self.worker.copies.table.abandon(shard, slot)
        return []

    def fetched(self, fetch: do.FetchCopy, digests: bytes) -> Actions:
        """A copy that this machine lacked is here, verified."""
        self.worker.copies.table.whole(fetch.shard, fetch.slot, digests=digests)
        if fetch.round != self.worker.round or self.worker.stopped:
            return []
        self.worker.copies.fetching.discard(fetch.shard)
        name = fetch.source.machine
        self.worker.copies.loaded_from[fetch.shard] = f"memory of {name}"
        return self.worker.settled()

    def fetch_failed(
        self, fetch: do.FetchCopy, reason: str, *, corrupt: bool
    ) -> Actions:
        """The source had no good copy, or went away: the next one is tried."""
        self.worker.copies.table.abandon(fetch.shard, fetch.slot)
        if fetch.round != self.worker.round or self.worker.stopped:
            return []
        self.worker.copies.fetching.discard(fetch.shard)
        name = fetch.source.machine
        if corrupt and (fetch.shard, name) not in self.worker.doubted:
            # It may have been damaged on the way: only a second time is it the copy.
            self.worker.doubted.add((fetch.shard, name))
            text = f"shard {fetch.shard} from {name}: {reason}; asked for once more"
            fetches = self.worker.copies.load(own=self.worker.machine)
            return [do.Log(text=text), *fetches]
        return self.worker.copy_bad(fetch.shard, fetch.step, name, reason, corrupt)

    def serves(
        self, *, shard: int, step: int, captured_in: int
    ) -> tuple[int | None, bytes]:
        """The slot of a whole copy that another machine asks for, and its digests."""
        table = self.worker.copies.table
        slot = table.find(shard, step=step, captured_in=captured_in)
        return (None, b"") if slot is None else (slot, table.slots[shard][slot].digests)
