"""Decides what a machine says it holds: whole copies only, by their digests.

A copy that was captured and not yet hashed is not whole: nobody could tell it from its
twins, nor whether it is still what it was.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from twinstep.agent.actions import HashCopy
from twinstep.agent.messages import CopyInfo
from twinstep.store.slots import SlotTable, State


def unhashed(table: SlotTable, *, round: int) -> list[HashCopy]:
    """Captured copies whose digests nobody has computed yet."""
    return [
        HashCopy(round=round, shard=shard, slot=index, step=slot.step)
        for shard, slots in sorted(table.slots.items())
        for index, slot in enumerate(slots)
        if slot.state is State.WRITTEN
    ]


def inventory(table: SlotTable) -> list[CopyInfo]:
    """Every whole copy on this machine."""
    return [
        CopyInfo(
            shard=shard,
            step=slot.step,
            captured_in=slot.captured_in,
            digest=xxhash.xxh3_128_digest(slot.digests),
            size=table.sizes[shard],
        )
        for shard, slots in sorted(table.slots.items())
        for slot in slots
        if slot.state is State.WHOLE
    ]


def digests(table: SlotTable, *, shards: Iterable[int]) -> dict[int, list[bytes]]:
    """Per step at which all of `shards` are whole, their digests in order."""
    wanted = list(shards)
    found: dict[int, list[bytes]] = {}
    for shard in wanted:
        for slot in table.slots.get(shard, ()):
            if slot.state is State.WHOLE:
                digest = xxhash.xxh3_128_digest(slot.digests)
                found.setdefault(slot.step, []).append(digest)
    return {step: all_ for step, all_ in found.items() if len(all_) == len(wanted)}
