"""Decides which strangers are dropped, and how much of the log they may fill.

A connection is a stranger until it has proved itself. There is room for so many; one
more, and the oldest that has said nothing is dropped, or the oldest if all have said
something. So a flood of silent connections drops itself: one that proves itself needs
a few milliseconds, and is dropped only if as many others as there is room for come
within them. It then tries again.

Lines about strangers come in a burst, then one a second; what was left out is counted
by reason. Both tables are bounded, whatever comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LINE_S = 1.0
"""After the burst, one line in so many seconds."""
REASONS_MAX = 8
"""Different reasons that are counted while no line may be written."""
REASON_CHARS_MAX = 160


@dataclass(slots=True, kw_only=True)
class Waiting:
    """Connections that have not proved themselves, oldest first."""

    strangers_max: int
    # Invariant: len(silent) + len(speaking) <= strangers_max. In order of arrival.
    silent: dict[int, None] = field(default_factory=dict[int, None])
    speaking: dict[int, None] = field(default_factory=dict[int, None])

    def came(self, number: int) -> int | None:
        """A new connection; returns the one to drop for it, if any."""
        dropped = None
        if len(self.silent) + len(self.speaking) >= self.strangers_max:
            dropped = next(iter(self.silent or self.speaking))
            self.gone(dropped)
        self.silent[number] = None
        return dropped

    def spoke(self, number: int) -> None:
        """It has sent something that may be the beginning of a proof."""
        if number in self.silent:
            del self.silent[number]
            self.speaking[number] = None

    def gone(self, number: int) -> None:
        """It has proved itself, or its connection has ended."""
        self.silent.pop(number, None)
        self.speaking.pop(number, None)


@dataclass(slots=True, kw_only=True)
class Lines:
    """What is written about strangers."""

    lines_max: int
    _left: float = -1.0
    _last_s: float = 0.0
    _unsaid: dict[str, int] = field(default_factory=dict[str, int])

    def say(self, peer: str, reason: str, now_s: float) -> str | None:
        """Returns the line to write about one that was dropped, or None for none."""
        reason = cut(reason)
        if not self._may(now_s):
            known = reason in self._unsaid or len(self._unsaid) < REASONS_MAX
            key = reason if known else "other reasons"
            self._unsaid[key] = self._unsaid.get(key, 0) + 1
            return None
        return f"dropped {peer}: {reason}"

    def rest(self, now_s: float) -> str | None:
        """Returns a line about those that `say` had no line for, once it may be
        written."""
        if not self._unsaid or not self._may(now_s):
            return None
        said = ", ".join(f"{n} x {reason}" for reason, n in self._unsaid.items())
        self._unsaid.clear()
        return f"dropped more: {said}"

    def _may(self, now_s: float) -> bool:
        """Whether a line may be written now; then it is counted."""
        if self._left < 0:
            self._left, self._last_s = float(self.lines_max), now_s
        passed_s = max(0.0, now_s - self._last_s)
        self._left = min(self.lines_max, self._left + passed_s / LINE_S)
        self._last_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def cut(reason: str) -> str:
    """A reason as one short line, whatever a peer has put into it."""
    line = "".join(c if c.isprintable() else "?" for c in reason[:REASON_CHARS_MAX])
    return line + ("..." if len(reason) > REASON_CHARS_MAX else "")
