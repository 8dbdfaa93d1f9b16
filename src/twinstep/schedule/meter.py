"""Measures what a machine's link carries, from the copies that it sends.

The time that counts is that in which the link had bytes of copies to carry: some were
being given to the kernel, or were with it and not at the other end yet. Time in which
everybody waited for a turn tells nothing of the link. Several copies may be on their
way at once; they share one link, and their time is counted once.

    copy 0    ▐███▌· · ·▐███▌          █ given to the kernel, or on its way
    copy 1      ▐███▌                  · waits for its turn
    counted   ├─────┤   ├───┤

A rate is taken from WINDOW_BYTES and more, as a few chunks may be no more than what the
kernel takes at once. The largest of the last WINDOWS is believed: training's traffic,
where it shared the link, only ever made one smaller.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_BYTES = 1024 * 1024
WINDOWS = 16
STARTUP_S_LEAST = 1e-5


@dataclass(slots=True, kw_only=True)
class Meter:
    """Takes what happens to bytes, with the time.

    Invariant: 0 <= under_way, and since_s means something while it is above 0."""

    under_way: int = 0
    """Copies of which bytes are on their way now."""
    since_s: float = 0.0
    active_s: float = 0.0
    sent_bytes: int = 0
    rates: deque[float] = field(default_factory=lambda: deque[float](maxlen=WINDOWS))
    startups_s: deque[float] = field(
        default_factory=lambda: deque[float](maxlen=WINDOWS)
    )

    @property
    def bytes_per_s(self) -> float:
        """The link's rate; 0 before it is known."""
        return max(self.rates, default=0.0)

    @property
    def startup_s(self) -> float:
        """The shortest way there and back of a few bytes that was seen, halved: what a
        piece takes beside its bytes."""
        return max(STARTUP_S_LEAST, min(self.startups_s, default=0.0) / 2)

    def answered(self, seconds: float) -> None:
        """A holder has answered an offer after so long."""
        self.startups_s.append(max(0.0, seconds))

    def begins(self, now_s: float) -> None:
        """A copy has bytes on their way from now on."""
        if self.under_way == 0:
            self.since_s = now_s
        self.under_way += 1

    def rests(self, now_s: float, size: int) -> None:
        """All of a copy's bytes so far, `size` since it began, have arrived."""
        assert self.under_way > 0, "nothing is on its way"
        self.under_way -= 1
        self.sent_bytes += size
        if self.under_way == 0:
            self.active_s += max(0.0, now_s - self.since_s)
        if self.sent_bytes >= WINDOW_BYTES and self.under_way == 0:
            if self.active_s > 0:
                self.rates.append(self.sent_bytes / self.active_s)
            self.sent_bytes, self.active_s = 0, 0.0
