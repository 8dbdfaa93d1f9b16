"""Decides, for one machine and one round, which copies come, go and are made again.

A machine captures the shards of its own ranks (and its range of the shared ones),
sends each own shard to the other machines that placement names, and takes in the
shards of those for which it is a holder. A captured copy is safe when every holder
has verified it; a restored one counts as safe only when its copies exist again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from twinstep.agent import actions as do, listing, messages as say
from twinstep.agent.reserving import Reserving
from twinstep.store.slots import Slot, SlotTable, State
from twinstep.values import Grid

HELD_ALREADY = "held already"


@dataclass(slots=True, kw_only=True)
class Copies:
    """The copies of one machine in the present round."""

    grid: Grid
    table: SlotTable = field(default_factory=SlotTable)
    begin: say.Begin | None = None
    machine_rank: int = -1
    held: set[int] = field(default_factory=set[int])
    shared: bool = True
    reserved: bool = False
    resized_in: int = 0
    """The round in which the number of machines began that these copies are of."""
    reserving: Reserving = field(default_factory=Reserving)
    sources: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    fetching: set[int] = field(default_factory=set[int])
    loaded_from: dict[int, str] = field(default_factory=dict[int, str])
    acked: dict[tuple[int, int], set[int]] = field(
        default_factory=dict[tuple[int, int], set[int]]
    )
    """Per (own shard, step) the other machine ranks that have verified it."""
    pending: set[tuple[int, int, int]] = field(
        default_factory=set[tuple[int, int, int]]
    )
    """(own shard, step, holder) that were sent and not yet verified."""
    waiting: dict[int, list[do.ShipCopy]] = field(
        default_factory=dict[int, list[do.ShipCopy]]
    )
    """Sends that wait for the digests which the first send of the shard computes."""
    retry: list[tuple[float, do.ShipCopy]] = field(
        default_factory=list[tuple[float, do.ShipCopy]]
    )
    distrusted: set[tuple[int, int, int]] = field(
        default_factory=set[tuple[int, int, int]]
    )
    """(own shard, step, holder) whose copy did not verify and must be replaced."""

    # The round.

    def start(self, begin: say.Begin, *, machine_rank: int) -> list[int]:
        """A round begins; returns the shards whose slots are given up: with another
        number of machines all of them, whose numbers mean others from now on."""
        self.begin, self.machine_rank = begin, machine_rank
        self.grid = begin.grid(self.grid.ranks_per_machine)
        resized = begin.resized_in != self.resized_in
        self.resized_in = begin.resized_in
        gone = self.table.forget_shards(set()) if resized else []
        if resized:
            self.reserving.resized()
        self.shared = begin.shared
        self.reserved = False
        self.held = {
            shard
            for owner, holders in enumerate(begin.holders)
            if machine_rank in holders
            for shard in self.grid.ranks(owner)
        }
        if begin.may_share:
            self.held |= set(self.grid.captured_by(machine_rank))
        self.table.forget_after(begin.step)
        self._forget_unlisted(begin)
        self.reserving.begins()
        self.sources = {shard: list(names) for shard, names in begin.sources.items()}
        for collection in (
            self.fetching,
            self.loaded_from,
            self.pending,
            self.waiting,
            self.retry,
            self.distrusted,
        ):
            collection.clear()
        names = [member.machine for member in begin.members]
        self.acked = {
            (shard, begin.step): {
                holder
                for holder in begin.holders[machine_rank]
                if names[holder] in begin.sources.get(shard, ())
            }
            for shard in self.grid.ranks(machine_rank)
        }
        return gone + self.table.forget_shards(self.held)

    def _forget_unlisted(self, begin: say.Begin) -> None:
        """A copy of this step that the root does not list is bad, differs from its
        twins, or is of another round: it must not pass for one that is held."""
        own = begin.members[self.machine_rank].machine
        for shard, slots in self.table.slots.items():
            for index, slot in enumerate(slots):
                listed = slot.captured_in == begin.captured_in and (
                    own in begin.sources.get(shard, ())
                )
                if slot.step == begin.step and not listed:
                    self.table.abandon(shard, index)

    # Slots.

    def to_reserve(self, sizes: dict[int, int]) -> dict[int, int]:
        """The shards that this machine holds and nobody reserves slots for yet."""
        asked = {s: n for s, n in sorted(sizes.items()) if s in self.held}
        return self.reserving.wants(asked, there=self.table.slots)

    def take_slots(self, sizes: dict[int, int]) -> bool:
        """These slots exist; returns whether all do that this round asked for."""
        for shard, size in sizes.items():
            self.table.reserve(shard, size=size)
        self.reserving.ended(sizes)
        return self.reserving.all_in(self.table.slots)

    def captured(self) -> list[int]:
        """The shards that this machine's ranks capture."""
        shards = self.grid.captured_by(self.machine_rank)
        return [s for s in shards if self.shared or not self.grid.is_shared(s)]

    def written_by(self, rank: int) -> list[int]:
        """The shards that one rank captures: its own, and its shared range."""
        local = rank % self.grid.ranks_per_machine
        return [rank, self.grid.shared_shard(local)] if self.shared else [rank]

    # What is known of steps.

    def in_flight(self) -> bool:
        """Whether anything of this machine's shards is not yet where it belongs."""
        unfinished = any(
            slot.state in (State.FILLING, State.WRITTEN)
            for shard in self.captured()
            for slot in self.table.slots.get(shard, ())
        )
        return unfinished or bool(self.pending or self.fetching)

    def safe_steps(self) -> list[int]:
        """The steps at which every shard of this machine is safe."""
        shards = self.captured()
        steps = {
            slot.step
            for slot in self.table.slots.get(shards[0], ())
            if slot.state is State.WHOLE and slot.step >= self._first()
        }
        return [
            step
            for step in sorted(steps)
            if all(self._is_safe(shard, step) for shard in shards)
        ]

    def _first(self) -> int:
        """Older steps than the round began from are copies of another round."""
        return self.begin.step if self.begin is not None else 0

    def _is_safe(self, shard: int, step: int) -> bool:
        here = any(
            slot.state is State.WHOLE and slot.step == step
            for slot in self.table.slots.get(shard, ())
        )
        if self.grid.is_shared(shard):
            return here
        return here and not set(self._others()) - self.acked.get((shard, step), set())

    def shared_digests(self) -> dict[int, list[bytes]]:
        shared = [shard for shard in self.captured() if self.grid.is_shared(shard)]
        return listing.digests(self.table, shards=shared)

    def _others(self) -> list[int]:
        assert self.begin is not None
        holders = self.begin.holders[self.machine_rank]
        return [holder for holder in holders if holder != self.machine_rank]

    # Sending.

    def send_out(self, shard: int, slot: int, *, keep: int) -> list[do.WorkerAction]:
        """A captured copy goes to its other holders, or is just hashed. Unless its
        rank told the digests, the first send computes them, and the others wait."""
        entry = self.table.slots[shard][slot]
        ships = self._ships(shard, slot, entry, keep=keep)
        if entry.digests:
            return [*ships]
        if not ships:
            assert self.begin is not None
            return [
                do.HashCopy(
                    round=self.begin.round, shard=shard, slot=slot, step=entry.step
                )
            ]
        self.waiting[shard] = ships[1:]
        return [ships[0]]

    def _ships(
        self, shard: int, slot: int, entry: Slot, *, keep: int
    ) -> list[do.ShipCopy]:
        if self.grid.is_shared(shard):
            return []
        assert self.begin is not None
        verified = self.acked.setdefault((shard, entry.step), set())
        ships: list[do.ShipCopy] = []
        for holder in self._others():
            key = (shard, entry.step, holder)
            if holder in verified or key in self.pending:
                continue
            self.pending.add(key)
            ships.append(
                do.ShipCopy(
                    round=self.begin.round,
                    shard=shard,
                    slot=slot,
                    step=entry.step,
                    captured_in=entry.captured_in,
                    keep=keep,
                    digests=entry.digests,
                    target_rank=holder,
                    target=self.begin.members[holder],
                    replace=key in self.distrusted,
                )
            )
        return ships

    def mend(self, *, keep: int) -> list[do.WorkerAction]:
        """Copies of the restored step are made again where they are missing."""
        if self.begin is None or self.begin.step == 0 or not self.reserved:
            return []
        ships: list[do.WorkerAction] = []
        for shard in self.grid.ranks(self.machine_rank):
            slot = self.found(shard)
            if slot is not None:
                entry = self.table.slots[shard][slot]
                ships += self._ships(shard, slot, entry, keep=keep)
        return ships

    def hashed(self, shard: int, slot: int, step: int, digests: bytes) -> bool:
        """Takes the digests of a captured copy; False when it is no longer there."""
        slots = self.table.slots.get(shard)
        if slots is None:
            return False
        if slots[slot].state is not State.WRITTEN or slots[slot].step != step:
            return False
        self.table.whole(shard, slot, digests=digests)
        return True

    def released(self, shard: int, *, keep: int) -> list[do.WorkerAction]:
        """The sends that waited for the digests of `shard`."""
        ships = self.waiting.pop(shard, [])
        return [self.refreshed(ship, keep=keep) for ship in ships]

    def refreshed(self, ship: do.ShipCopy, *, keep: int) -> do.ShipCopy:
        """The same send, with what has become known since."""
        digests = self.table.slots[ship.shard][ship.slot].digests
        return replace(ship, keep=keep, digests=digests)

    def acknowledge(self, shard: int, step: int, holder: int) -> None:
        self.acked.setdefault((shard, step), set()).add(holder)
        self.pending.discard((shard, step, holder))
        newest = max(s for n, s in self.acked if n == shard)
        for old in [k for k in self.acked if k[0] == shard and k[1] < newest - 1000]:
            del self.acked[old]

    def due(self, now_s: float, *, keep: int) -> list[do.WorkerAction]:
        """The failed sends whose time has come again."""
        ships = [ship for at_s, ship in self.retry if at_s <= now_s]
        self.retry = [entry for entry in self.retry if entry[0] > now_s]
        return [self.refreshed(s, keep=keep) for s in ships if self.is_there(s)]

    def is_there(self, ship: do.ShipCopy) -> bool:
        """Whether the slot still holds what was to be sent; if not, it is given up."""
        slot = self.table.slots[ship.shard][ship.slot]
        version = (slot.step, slot.captured_in) == (ship.step, ship.captured_in)
        there = version and slot.state in (State.WRITTEN, State.WHOLE)
        if not there:
            self.pending.discard((ship.shard, ship.step, ship.target_rank))
        return there

    def give_up(self, shard: int, step: int) -> None:
        """Nothing of this copy is sent any more."""
        self.pending = {key for key in self.pending if key[:2] != (shard, step)}
        self.waiting.pop(shard, None)

    # Receiving.

    def target(
        self,
        *,
        shard: int,
        step: int,
        captured_in: int,
        keep: int,
        size: int,
        sender: str,
        replace: bool,
    ) -> tuple[int | None, str]:
        """Decides where a copy may come in: (slot, "") or (None, why not)."""
        if shard not in self.held or shard not in self.table.slots:
            return None, f"shard {shard} has no slot here yet"
        if size != self.table.sizes[shard]:
            return None, f"{size} bytes for slots of {self.table.sizes[shard]}"
        if replace:
            self.table.quarantine(shard, step=step)
        if self.table.find(shard, step=step, captured_in=captured_in) is not None:
            return None, HELD_ALREADY
        slot = self.table.target(shard, keep=keep)
        if slot is None:
            return None, f"no slot of shard {shard} is free"
        self.table.start(shard, slot, step=step, captured_in=captured_in, writer=sender)
        return slot, ""

    # Loading.

    def found(self, shard: int) -> int | None:
        """The slot with a whole copy of the step that the round starts from."""
        assert self.begin is not None
        return self.table.find(
            shard, step=self.begin.step, captured_in=self.begin.captured_in
        )

    def load(self, *, own: str) -> list[do.WorkerAction]:
        """Fetches what the machine's ranks need and the machine lacks."""
        if self.begin is None or self.begin.step == 0 or not self.reserved:
            return []
        members = {member.machine: member for member in self.begin.members}
        fetches: list[do.WorkerAction] = []
        for shard in self.captured():
            if self.found(shard) is not None:
                self.loaded_from.setdefault(shard, "own memory")
                continue
            names = [m for m in self.sources.get(shard, ()) if m != own]
            slot = self.table.target(shard, keep=self.begin.step)
            if shard in self.fetching or not names or slot is None:
                continue
            self.fetching.add(shard)
            self.table.start(
                shard,
                slot,
                step=self.begin.step,
                captured_in=self.begin.captured_in,
                writer=names[0],
            )
            fetches.append(
                do.FetchCopy(
                    round=self.begin.round,
                    shard=shard,
                    slot=slot,
                    step=self.begin.step,
                    captured_in=self.begin.captured_in,
                    source=members[names[0]],
                )
            )
        return fetches

    def drop_source(self, shard: int, step: int, machine: str) -> bool:
        """`machine`'s copy is bad or gone; returns whether it was the last one of the
        step that the round began from."""
        if self.begin is None or step != self.begin.step:
            return False
        left = [m for m in self.sources.get(shard, ()) if m != machine]
        self.sources[shard] = left
        for holder, member in enumerate(self.begin.members):
            if member.machine == machine and holder != self.machine_rank:
                self.acked.get((shard, self.begin.step), set[int]()).discard(holder)
                self.distrusted.add((shard, self.begin.step, holder))
        self.loaded_from.pop(shard, None)
        return not left

    def restore_slots(self, rank: int) -> list[say.SlotInfo] | None:
        """The copies that a rank loads: its own shard, then all shared ranges.
        None while one of them is not here."""
        shared = [s for s in self.captured() if self.grid.is_shared(s)]
        infos: list[say.SlotInfo] = []
        for shard in [rank, *shared]:
            slot = self.found(shard)
            if slot is None:
                return None
            infos.append(
                say.SlotInfo(
                    shard=shard,
                    slot=slot,
                    size=self.table.sizes[shard],
                    digests=self.table.slots[shard][slot].digests,
                    source=self.loaded_from.get(shard, "own memory"),
                )
            )
        return infos
