"""Which slot of a shard holds what, and which one may be written next.

Every shard has two slots on each machine that holds it. One holds the step that all
keep; the next step is written into the other, and only once that one is safe on
every rank does the root move `keep` (design: two slots, one vote). A slot has one
writer at a time, and a new writer gets it only after the former one is done or
known to be dead. A shard that its machine writes to storage has a third slot, so that
the step which is being written may stay where it is for as long as that takes: its slot
is pinned, and the other two go on as before.

    EMPTY -> FILLING -> WRITTEN -> WHOLE        BAD: a checksum did not match
               a writer   all bytes   digests known
               has it     are there   (receivers verify, so they skip WRITTEN)

This file keeps the books and decides; the bytes are in store/memory.py.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

SLOTS = 2
SLOTS_MAX = 3
"""With the one that a shard has more where steps are written to storage."""


class State(enum.Enum):
    EMPTY = "empty"
    FILLING = "filling"
    WRITTEN = "written"
    WHOLE = "whole"
    BAD = "bad"


@dataclass(slots=True, kw_only=True)
class Slot:
    """What one slot holds. `step` and `captured_in` mean nothing when EMPTY."""

    state: State = State.EMPTY
    step: int = 0
    captured_in: int = 0
    writer: str = ""
    digests: bytes = b""

    def is_whole_at(self, step: int) -> bool:
        return self.state is State.WHOLE and self.step == step


@dataclass(slots=True, kw_only=True)
class SlotTable:
    """The books of all slots of one machine.

    Invariant: no slot that is WHOLE at the step `keep` is ever handed to a writer."""

    sizes: dict[int, int] = field(default_factory=dict[int, int])
    slots: dict[int, list[Slot]] = field(default_factory=dict[int, list[Slot]])
    spare: set[int] = field(default_factory=set[int])
    """The shards that have, or will have, a third slot."""
    pinned: dict[int, int] = field(default_factory=dict[int, int])
    """Per shard the slot that is being read for storage."""

    def reserve(self, shard: int, *, size: int) -> None:
        """The slots of `shard` exist afterwards; what they held stays."""
        slots = self.slots.setdefault(shard, [])
        if not slots:
            self.sizes[shard] = size
        count = SLOTS_MAX if shard in self.spare else SLOTS
        slots += [Slot() for _ in range(count - len(slots))]

    def pin(self, shards: Iterable[int], *, step: int) -> dict[int, int] | None:
        """The copies at `step` stay until unpin(); returns their slots. None, and
        nothing is pinned, when one of them is not here, or has no third slot."""
        found: dict[int, int] = {}
        for shard in shards:
            slots = self.slots.get(shard, [])
            held = [i for i, slot in enumerate(slots) if slot.is_whole_at(step)]
            if not held or len(slots) < SLOTS_MAX:
                return None
            found[shard] = held[0]
        self.pinned = found
        return found

    def unpin(self) -> None:
        self.pinned = {}

    def target(self, shard: int, *, keep: int) -> int | None:
        """Returns the slot that may be written, or None when neither may.

        Never the slot that holds `keep`, nor one that is pinned or has a writer. Of two
        free slots: an empty or bad one, else the one with the older step."""
        free = [
            (slot.state in (State.WHOLE, State.WRITTEN), slot.step, index)
            for index, slot in enumerate(self.slots[shard])
            if slot.state is not State.FILLING
            and not (keep > 0 and slot.is_whole_at(keep))
            and self.pinned.get(shard) != index
        ]
        return min(free)[2] if free else None

    def start(
        self, shard: int, slot: int, *, step: int, captured_in: int, writer: str
    ) -> None:
        """The slot belongs to `writer`; what it held is given up."""
        entry = self.slots[shard][slot]
        assert entry.state is not State.FILLING, f"shard {shard}: {entry.writer} writes"
        self.slots[shard][slot] = Slot(
            state=State.FILLING, step=step, captured_in=captured_in, writer=writer
        )

    def written(self, shard: int, slot: int) -> None:
        """All bytes are there; nobody has computed their digests yet."""
        entry = self.slots[shard][slot]
        assert entry.state is State.FILLING, f"shard {shard}: {entry.state}"
        entry.state, entry.writer = State.WRITTEN, ""

    def whole(self, shard: int, slot: int, *, digests: bytes) -> None:
        """The copy is complete and its digests are known."""
        entry = self.slots[shard][slot]
        assert entry.state in (State.FILLING, State.WRITTEN), entry.state
        entry.state, entry.writer, entry.digests = State.WHOLE, "", digests

    def abandon(self, shard: int, slot: int) -> None:
        """The writer is gone; what it left is worth nothing."""
        self.slots[shard][slot] = Slot()

    def quarantine(self, shard: int, *, step: int) -> None:
        """The copy at `step` is bad and is never read again."""
        for slot in self.slots.get(shard, []):
            if slot.step == step and slot.state in (State.WHOLE, State.WRITTEN):
                slot.state = State.BAD

    def find(self, shard: int, *, step: int, captured_in: int) -> int | None:
        """Returns the slot with a whole copy of that version, or None."""
        for index, slot in enumerate(self.slots.get(shard, [])):
            if (
                slot.state is State.WHOLE
                and slot.step == step
                and slot.captured_in == captured_in
            ):
                return index
        return None

    def forget_after(self, step: int) -> None:
        """Copies of steps later than `step` are dropped: training went back to it,
        and will reach those numbers again. Nothing is pinned any more."""
        self.unpin()
        for slots in self.slots.values():
            for index, slot in enumerate(slots):
                if slot.step > step and slot.state is not State.FILLING:
                    slots[index] = Slot()

    def forget_shards(self, held: set[int]) -> list[int]:
        """Slots of shards that are not in `held` are given up; returns which."""
        gone = sorted(shard for shard in self.slots if shard not in held)
        for shard in gone:
            del self.slots[shard], self.sizes[shard]
            self.pinned.pop(shard, None)
            self.spare.discard(shard)
        return gone

    def filling(self) -> list[tuple[int, int, str]]:
        """The slots that have a writer: (shard, slot, writer)."""
        return [
            (shard, index, slot.writer)
            for shard, slots in sorted(self.slots.items())
            for index, slot in enumerate(slots)
            if slot.state is State.FILLING
        ]
