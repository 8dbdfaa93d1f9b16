"""Keeps the books of copies that come in over several connections.

A sender may cut a copy into parts, one a connection. The slot is given when the first
part is offered; the copy is whole when all parts have come, and given up only when
none of its connections writes any more. Parts that were not cut alike are not of one
copy, and a part that still comes in over one connection comes in over no other: two
writers would leave bytes that are neither's, with a digest that looks right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent.transit import Transit
from twinstep.agent.worker import Actions
from twinstep.config import Transfer
from twinstep.transfer.frame import Offer
from twinstep.transfer.sender import merge_digests

Key = tuple[str, int, int, int]


@dataclass(slots=True, kw_only=True)
class Arriving:
    """A copy that comes in."""

    slot: int
    size: int
    count: int
    """How many parts it is cut into."""
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])
    failed: bool = False
    running: set[int] = field(default_factory=set[int])
    """The parts whose connections write into the slot now."""


class Arrivals:
    """The copies that come in now. Used in the agent's loop only."""

    def __init__(self, transit: Transit, *, limits: Transfer) -> None:
        self._transit, self._limits = transit, limits
        self._arriving: dict[Key, Arriving] = {}

    @staticmethod
    def _key(offer: Offer) -> Key:
        return (offer.machine, offer.shard, offer.step, offer.round)

    def place(self, offer: Offer) -> str:
        """Decides where an offered part goes; returns why not, or nothing."""
        if offer.parts > self._limits.streams_max:
            return f"{offer.parts} parts; at most {self._limits.streams_max}"
        if offer.part >= offer.parts:
            return f"part {offer.part} of {offer.parts} parts is no part"
        ours = self._limits.chunk_bytes
        if offer.chunk_bytes != ours:
            # Its digests would not be those of the chunks that are served from here.
            return f"chunks of {offer.chunk_bytes} bytes; here {ours}"
        key = self._key(offer)
        known = self._arriving.get(key)
        if known is None:
            slot, reason = self._transit.offered(
                round=offer.round,
                term=offer.term,
                shard=offer.shard,
                step=offer.step,
                captured_in=offer.captured_in,
                keep=offer.keep,
                size=offer.size,
                sender=offer.machine,
                replace=offer.replace,
            )
            if slot is None:
                return reason
            known = Arriving(slot=slot, size=offer.size, count=offer.parts)
            self._arriving[key] = known
        if (known.size, known.count) != (offer.size, offer.parts):
            return f"it comes in {known.count} parts, {known.size} bytes in all"
        if offer.part in known.running:
            return f"part {offer.part} is coming in"
        known.running.add(offer.part)
        known.parts.pop(offer.part, None)
        return ""

    def slot(self, offer: Offer) -> int:
        """The slot that `place` gave. Raises: KeyError when it was given up."""
        return self._arriving[self._key(offer)].slot

    def part_done(self, offer: Offer, digests: bytes | None) -> Actions:
        """One part has come, or will not (None)."""
        key = self._key(offer)
        arriving = self._arriving[key]
        arriving.running.discard(offer.part)
        if digests is None:
            arriving.failed = True
        else:
            arriving.parts[offer.part] = digests
        whole = len(arriving.parts) == offer.parts
        if arriving.running or not (whole or arriving.failed):
            return []
        del self._arriving[key]
        if not whole:
            return self._transit.receive_failed(offer.shard, arriving.slot)
        merged = merge_digests([arriving.parts[part] for part in range(offer.parts)])
        return self._transit.received(offer.shard, arriving.slot, merged)
