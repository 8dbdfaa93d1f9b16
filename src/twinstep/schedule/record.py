"""Remembers the last steps as they were, and what of the copies went when.

From it comes the picture of a step, planned and observed, and the share of bytes that
were sent where nothing else was: what the gate let go as in a span is one thing, what
training then did is another, and both are counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from twinstep.schedule.profile import Seen

STEPS_MAX = 8
"""Steps that are kept."""
LATELY = 8
"""Copies by which the next ones are planned."""
SENT_MAX = 16_384
"""Chunks that are kept; of more, the oldest are forgotten."""


@dataclass(slots=True, kw_only=True)
class Sent:
    """A chunk that went. Times on the clock of `Seen.began_s`."""

    began_s: float
    ended_s: float
    """When the link had carried it, as far as is known."""
    size: int
    after: int | None
    """The operations after which the span comes that it was let into; None: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A step, and the chunks that went in it."""

    step: Seen
    sent: tuple[Sent, ...]


@dataclass(slots=True, kw_only=True)
class Record:
    """One machine's. Called from several threads: each call is one append."""

    steps: deque[Seen] = field(default_factory=lambda: deque[Seen](maxlen=STEPS_MAX))
    chunks: deque[Sent] = field(default_factory=lambda: deque[Sent](maxlen=SENT_MAX))
    sent_bytes: int = 0
    in_span_bytes: int = 0
    """Of those, let go as in a span."""
    judged_bytes: int = 0
    """Bytes that went in steps that were observed to their end."""
    clear_bytes: int = 0
    """Of those, what went while no operation of training was under way."""
    arrived_bytes: int = 0
    """Of copies that arrived, whatever was sent of them."""
    spared_bytes: int = 0
    """Of those, what the holder had already and was not sent."""

    lately: deque[int] = field(default_factory=lambda: deque[int](maxlen=LATELY))
    """How many sixteenths of each of the last copies were sent, rounded up."""

    def arrived(self, size: int, *, spared: int) -> None:
        spared = min(max(0, spared), size)
        self.arrived_bytes += size
        self.spared_bytes += spared
        self.lately.append(-(-16 * (size - spared) // max(1, size)))

    @property
    def sixteenths(self) -> int:
        """So much of a copy is to be sent, by those of late; 16 before there is one."""
        return max(self.lately, default=16)

    def sent(self, chunk: Sent) -> None:
        self.chunks.append(chunk)
        self.sent_bytes += chunk.size
        if chunk.after is not None:
            self.in_span_bytes += chunk.size

    def over(self, step: Seen) -> None:
        """A step was observed to its end."""
        self.steps.append(step)
        for chunk in self._in(step):
            self.judged_bytes += chunk.size
            self.clear_bytes += round(chunk.size * clear_share(chunk, step))

    def observed(self) -> list[Observed]:
        """The last steps, oldest first."""
        return [
            Observed(step=step, sent=tuple(self._in(step))) for step in list(self.steps)
        ]

    def _in(self, step: Seen) -> list[Sent]:
        end_s = step.began_s + step.length_s
        return [
            chunk
            for chunk in list(self.chunks)
            if step.began_s <= chunk.began_s < end_s
        ]


def clear_share(chunk: Sent, step: Seen) -> float:
    """Returns the share of a chunk's time in which no operation was under way."""
    length_s = max(chunk.ended_s - chunk.began_s, 1e-9)
    clash_s, until_s = 0.0, chunk.began_s
    for start_s, end_s in sorted(step.busy):
        start_s, end_s = step.began_s + start_s, step.began_s + end_s
        start_s = max(start_s, until_s)
        clash_s += max(0.0, min(end_s, chunk.ended_s) - start_s)
        until_s = max(until_s, end_s)
    return max(0.0, 1.0 - clash_s / length_s)
