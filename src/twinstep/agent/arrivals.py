"""Keeps the books of copies that come in over several connections.

A sender may cut a copy into parts, one a connection. The slot is given when the first
part is offered; the copy is whole when all parts have come, and given up only when
none of its connections writes any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent.transit import Transit
from twinstep.agent.worker import Actions
from twinstep.transfer.frame import Offer
from twinstep.transfer.sender import merge_digests

Key = tuple[str, int, int, int]


@dataclass(slots=True, kw_only=True)
class Arriving:
    """A copy that comes in."""

    slot: int
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])
    failed: bool = False
    running: int = 0
    """Connections that write into the slot now."""


class Arrivals:
    """The copies that come in now. Used in the agent's loop only."""

    def __init__(self, transit: Transit, *, streams_max: int) -> None:
        self._transit, self._streams_max = transit, streams_max
        self._arriving: dict[Key, Arriving] = {}

    @staticmethod
    def _key(offer: Offer) -> Key:
        return (offer.machine, offer.shard, offer.step, offer.round)

    def place(self, offer: Offer) -> str:
        """Decides where an offered part goes; returns why not, or nothing."""
        if offer.parts > self._streams_max:
            return f"{offer.parts} parts; at most {self._streams_max}"
        key = self._key(offer)
        if key not in self._arriving:
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
            self._arriving[key] = Arriving(slot=slot)
        self._arriving[key].running += 1
        return ""

    def slot(self, offer: Offer) -> int:
        """The slot that `place` gave. Raises: KeyError when it was given up."""
        return self._arriving[self._key(offer)].slot

    def part_done(self, offer: Offer, digests: bytes | None) -> Actions:
        """One part has come, or will not (None)."""
        key = self._key(offer)
        arriving = self._arriving[key]
        arriving.running -= 1
        if digests is None:
            arriving.failed = True
        else:
            arriving.parts[offer.part] = digests
        whole = len(arriving.parts) == offer.parts
        if arriving.running > 0 or not (whole or arriving.failed):
            return []
        del self._arriving[key]
        if not whole:
            return self._transit.receive_failed(offer.shard, arriving.slot)
        merged = merge_digests([arriving.parts[part] for part in range(offer.parts)])
        return self._transit.received(offer.shard, arriving.slot, merged)
