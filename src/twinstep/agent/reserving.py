"""Which slots a machine needs in this round, and which are being made.

Slots are made in a thread, for seconds where they are large, and that may outlast the
round that asked for them. In a later one they are still wanted; but not where that has
another number of machines, whose shards are others under the same numbers. Then nothing
is asked for until all that was under way has come, and was given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Reserving:
    """The slots of one machine that are not there yet.

    Invariant: while any of `stale` are being made, no others are."""

    asked: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes of each shard that this round needs slots for."""
    making: set[int] = field(default_factory=set[int])
    """Shards whose slots are being made."""
    stale: set[int] = field(default_factory=set[int])
    """Those of another number of machines whose slots are still being made."""

    def begins(self) -> None:
        """A round begins: it has not said yet what it needs."""
        self.asked = {}

    def resized(self) -> None:
        """The number of machines is another from now on."""
        self.stale |= self.making
        self.making.clear()

    def wants(self, asked: dict[int, int], *, there: Collection[int]) -> dict[int, int]:
        """The round needs these; returns those that are to be made now."""
        self.asked = asked
        if self.stale:
            return {}
        known = self.making | set(there)
        wanted = {s: n for s, n in asked.items() if s not in known}
        self.making |= set(wanted)
        return wanted

    def ended(self, shards: Iterable[int]) -> None:
        """These were made, or cannot be."""
        self.stale -= set(shards)
        self.making -= set(shards)

    def all_in(self, there: Collection[int]) -> bool:
        """Whether all that this round asked for is there."""
        return bool(self.asked) and all(s in there for s in self.asked)
