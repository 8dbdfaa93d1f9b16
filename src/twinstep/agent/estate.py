"""The slots that an agent owns: reserved in a thread, released, closed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import final

from twinstep.agent import actions as do
from twinstep.store.memory import Slot, available_bytes, reserve


@final
class Estate:
    """All slots of one machine, by (shard, slot)."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max` is what slots may take together; 0: what the computer has."""
        self._bytes_max = bytes_max
        self.slots: dict[tuple[int, int], Slot] = {}

    @property
    def reserved_bytes(self) -> int:
        return sum(slot.size for slot in self.slots.values())

    async def reserve(
        self, action: do.ReserveSlots, loop: asyncio.AbstractEventLoop
    ) -> str:
        """Reserves and touches slots in a thread: that takes seconds per GB. Returns
        what was done, in words. Raises: DoesNotFit with the sum."""
        limit = self._bytes_max
        left = limit - self.reserved_bytes
        available = min(available_bytes(), left) if limit else None
        margin = {"margin_bytes": 0} if limit else {}
        reservation = await loop.run_in_executor(
            None,
            lambda: reserve(
                action.sizes,
                spare=action.spare,
                third=action.third,
                available=available,
                **margin,
            ),
        )
        for shard, slot in reservation:
            self.slots[shard, slot] = reservation.slot(shard, slot)
        return f"reserved {reservation.reserved_bytes / 1e6:.1f} MB for slots"

    def release(self, shards: Collection[int]) -> None:
        for key in [key for key in self.slots if key[0] in shards]:
            self.slots.pop(key).close()

    def close(self) -> None:
        for slot in self.slots.values():
            slot.close()
