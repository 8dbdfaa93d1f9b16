"""Counts the reports of a step and gives the answer: what to keep, and capture or not.

The vote (design: two slots, one vote). `keep` is the newest step that is safe on every
machine; `capture` is yes only if nothing is in flight anywhere. The wait until nothing
is in flight is for progress, not for safety: without it a slow network would be
overtaken for ever.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer for a step that every machine stands at."""

    step: int
    first: bool
    """Whether the step is new; a second verdict only says that it is captured."""
    keep: int
    capture: bool
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
    reached: int = 0
    answered: int = 0
    """The newest step that all machines have reported."""
    captured: int = 0
    """The newest step that was told to be captured. Invariant: <= answered."""
    reports: dict[int, dict[str, say.Report]] = field(
        default_factory=dict[int, dict[str, say.Report]]
    )
    differing: set[int] = field(default_factory=set[int])

    def start(self, step: int) -> None:
        """A round starts from `step`, which is not safe until its copies exist."""
        self.keep, self.reached, self.answered = 0, step, step
        self.captured = step
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
        self.keep = max(safe | {self.keep})
        in_flight = any(r.in_flight for r in reports)
        free = report.step > self.captured and not in_flight
        capture = free and self.captures(report.step)
        if capture:
            self.captured = report.step
        if not (first or capture):
            return None
        return Verdict(
            step=report.step,
            first=first,
            keep=self.keep,
            capture=capture,
            notes=notes,
            in_flight=in_flight,
        )

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
