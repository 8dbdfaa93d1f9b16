"""Decides whether a machine is well, from what its probes find.

One failed look is not a failing machine: a probe must say so several times in a row.
A warning is told at once, and never costs a machine its place. A probe that does not
answer warns: what it would have found, nobody knows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

WORDS_MAX = 200
"""Of what a probe says, as much is told."""


class Level(enum.IntEnum):
    """How a machine is, as one probe sees it."""

    OK = 0
    WARNING = 1
    FAILING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a probe found; `words` say it to a person, and are empty if all is well."""

    level: Level = Level.OK
    words: str = ""


def warning(words: str) -> Finding:
    """Something that a person should know of."""
    return Finding(level=Level.WARNING, words=words)


def failing(words: str) -> Finding:
    """Something for which the machine should not train any more."""
    return Finding(level=Level.FAILING, words=words)


@dataclass(slots=True, kw_only=True)
class Wellbeing:
    """What the probes of one machine have found so far."""

    failures_max: int
    found: dict[str, Finding] = field(default_factory=dict[str, Finding])
    """The last word of each probe."""
    in_a_row: dict[str, int] = field(default_factory=dict[str, int])
    """How many times each probe has last said that the machine fails."""

    def take(self, probe: str, finding: Finding) -> bool:
        """A probe has looked; returns whether there is something new to tell."""
        before = self.failing, self.warnings
        words = " ".join(finding.words.split())[:WORDS_MAX]
        self.found[probe] = Finding(level=finding.level, words=words)
        fails = finding.level is Level.FAILING
        self.in_a_row[probe] = self.in_a_row.get(probe, 0) + 1 if fails else 0
        return (self.failing, self.warnings) != before

    def late(self, probe: str, after_s: float) -> bool:
        """A probe has not answered in time; returns as `take` does."""
        return self.take(probe, warning(f"has not answered for {after_s:g} s"))

    @property
    def failing(self) -> str:
        """What the machine fails for, in words; empty while it does not."""
        return "; ".join(
            f"{probe}: {self.found[probe].words}"
            for probe, count in sorted(self.in_a_row.items())
            if count >= self.failures_max
        )

    @property
    def warnings(self) -> list[str]:
        """What a person should know, failures among them that have yet to repeat."""
        return [
            f"{probe}: {finding.words}"
            for probe, finding in sorted(self.found.items())
            if finding.level is not Level.OK
            and self.in_a_row[probe] < self.failures_max
        ]
