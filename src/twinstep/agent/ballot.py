"""Counts the reports of a step and gives the answer: what to keep, and capture or not.

The vote (design: two slots, one vote). `keep` is the newest step that is safe on every
machine; `capture` is yes only if nothing is in flight anywhere. The wait until nothing
is in flight is for progress, not for safety: without it a slow network would be
overtaken for ever.

Where the way to the root and back takes longer than a step, every answer for the step
that a rank stands at comes too late. So the step that is captured may lie ahead. How
far is learnt: one that was to be captured, and is not safe once all have passed it and
nothing is in flight, was told too late. Nothing else is told to be captured until all
machines have passed that step: what is still on its way, or waits for its step, is then
done or never will be. So whoever acts on an answer acts on its `keep`, and no slot is
given away twice.

State that all machines say is the same must have the same digests on all of them. A
step at which it has not is not safe: nobody knows whose bytes are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twinstep.agent import messages as say

STEPS_OPEN_MAX = 4096
"""Reports of so many steps may be incomplete at a time: with steps of 10 ms, a machine
whose words are 40 s late. Of more, the oldest are forgotten, and those steps skipped.
"""
AHEAD_MAX = 256
"""A capture is told at most so many steps before: with steps of 5 ms, to machines whose
answers take 1.3 s."""
LATE_MIN = 2
"""One answer that is late is an accident: a capture that lies ahead comes every other
step at most, which is worth it only where so many in a row are late."""
CAUGHT_MIN = 16
"""After so many captures that were told in time the next is told a little later: where
that is too late, it costs one capture of so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for a step that every machine stands at."""

    step: int
    first: bool
    """Whether the step is new; a second verdict only says that it is captured."""
    keep: int
    capture: bool
    at: int
    """The step that is captured, if one is."""
    notes: list[str]
    in_flight: bool = False
    """Copies of an earlier step were still on their way."""


def always(_step: int) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class Ballot:
    """The open reports of one round.

    Invariant: keep never falls in a round."""

    machines: int
    captures: Callable[[int], bool] = always
    """Asked once for each step that can be captured: whether it is (traffic.py)."""
    keep: int = 0
    began: int = 0
    """The step that the round started from: an older one that a machine still holds is
    none to go back to any more."""
    reached: int = 0
    answered: int = 0
    """The newest step that all machines have reported."""
    captured: int = 0
    """The newest step that was told to be captured; it may lie ahead."""
    ahead: int = 0
    """How many steps ahead the next one is. Invariant: <= AHEAD_MAX."""
    caught: int = 0
    """So many in a row were told in time; below 0: too late."""
    ordered: bool = False
    """Whether a capture was told of which it is not known what came."""
    reports: dict[int, dict[str, say.Report]] = field(
        default_factory=dict[int, dict[str, say.Report]]
    )
    differing: set[int] = field(default_factory=set[int])

    def start(self, step: int) -> None:
        """A round starts from `step`, which is not safe until its copies exist."""
        self.keep, self.reached, self.answered = 0, step, step
        self.began = step
        self.captured = step
        self.ordered = False
        self.reports.clear()
        self.differing.clear()

    def take(self, report: say.Report) -> Verdict | None:
        """Returns the verdict once every machine has reported the step.

        A machine reports a step again when what was in flight there has arrived. If
        nothing is in flight any more, there is a second verdict: capture it now."""
        self.reached = max(self.reached, report.step)
        if report.step < self.answered:
            return None
        at_step = self.reports.setdefault(report.step, {})
        at_step[report.machine] = report
        if len(at_step) < self.machines:
            if len(self.reports) > STEPS_OPEN_MAX:
                del self.reports[min(self.reports)]
            return None
        reports = [at_step[name] for name in sorted(at_step)]
        for old in [step for step in self.reports if step < report.step]:
            del self.reports[old]
        first, self.answered = report.step > self.answered, report.step
        notes = self._compare(reports)
        safe = set[int].intersection(*(set(r.safe) for r in reports)) - self.differing
        self.keep = max({step for step in safe if step >= self.began} | {self.keep})
        in_flight = any(r.in_flight for r in reports)
        free = report.step > self.captured and not in_flight
        if free:
            self._learn(safe)
        at = report.step + self.ahead
        capture = free and self.captures(at)
        if capture:
            self.captured, self.ordered = at, True
        if not (first or capture):
            return None
        return Verdict(
            step=report.step,
            first=first,
            keep=self.keep,
            capture=capture,
            at=at if capture else report.step,
            notes=notes,
            in_flight=in_flight,
        )

    def _learn(self, safe: set[int]) -> None:
        """Of the last order it is known now what came of it."""
        if not self.ordered or self.captured in self.differing:
            return
        self.ordered = False
        if self.captured in safe or self.captured < self.keep:
            self.caught = max(self.caught, 0) + 1
            if self.caught >= CAUGHT_MIN and self.ahead:
                self.ahead -= max(1, self.ahead // 8)
                self.caught = 0
        else:
            self.caught = min(self.caught, 0) - 1
            if self.ahead or self.caught <= -LATE_MIN:
                self.ahead = min(AHEAD_MAX, max(self.ahead + 1, self.ahead * 3 // 2))

    def _compare(self, reports: list[say.Report]) -> list[str]:
        """Finds steps whose shared state differs between machines."""
        notes: list[str] = []
        for step in sorted({step for r in reports for step in r.digests}):
            if step in self.differing:
                continue
            by_digest: dict[tuple[bytes, ...], list[str]] = {}
            for r in reports:
                if step in r.digests:
                    by_digest.setdefault(tuple(r.digests[step]), []).append(r.machine)
            if len(by_digest) > 1:
                self.differing.add(step)
                sides = " | ".join(", ".join(names) for names in by_digest.values())
                notes.append(
                    f"step {step} is not safe: state that is the same on all ranks "
                    f"differs between machines: {sides}"
                )
        return notes
