"""Decides for the root which steps are captured, by what that costs training.

Every machine plans for its own link (pacing.py) and says how many steps' idle spans its
copies need; the one that needs most counts. The root sees how long steps take, with
copies on their way and without, and keeps to the budget (schedule/budget.py). A step is
a machine's word later than it was, for all alike, so that differences are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twinstep.agent import messages as say
from twinstep.agent.ballot import Verdict
from twinstep.schedule.budget import Budget, Change
from twinstep.schedule_settings import Schedule


@dataclass(slots=True, kw_only=True)
class Traffic:
    """The traffic of a job's copies, for one term."""

    settings: Schedule
    budget: Budget = field(init=False)
    said: dict[str, say.Profiled] = field(default_factory=dict[str, say.Profiled])
    """What each machine plans with."""
    last: Verdict | None = None
    last_s: float = 0.0
    """The newest step that all have reached, and when."""
    reason: str = ""
    """Why not every step is captured, in words."""

    def __post_init__(self) -> None:
        self.budget = Budget(settings=self.settings)

    @property
    def every(self) -> int:
        """One step in so many is captured."""
        return self.budget.every

    def begins(self, members: Sequence[str]) -> None:
        """A round starts with these machines: the time until its first step is no
        step's."""
        self.last = None
        self.said = {name: one for name, one in self.said.items() if name in members}

    def hears(self, said: say.Profiled) -> list[str]:
        """A machine has a new plan; returns lines for the log."""
        self.said[said.machine] = said
        before = self.every
        slowest = max(
            self.said.values(), key=lambda each: (self._needs(each), each.machine)
        )
        self.budget.fits(self._needs(slowest))
        if self.every == before:
            return []
        self.reason = (
            f"copies of {slowest.machine} take its link {slowest.needs_s:.3g} s, and "
            f"its steps of {slowest.step_s:.3g} s leave it idle for "
            f"{slowest.idle_s:.3g} s"
        )
        return [self._line()]

    def stepped(self, verdict: Verdict, *, captured: int, now_s: float) -> list[str]:
        """All machines have reached a step; returns lines for the log.

        Args:
          captured: the newest step that was captured before this verdict."""
        last, since_s = self.last, self.last_s
        self.last, self.last_s = verdict, now_s
        if last is None or verdict.step != last.step + 1:
            return []
        traffic = captured == last.step or last.in_flight
        change = self.budget.took(now_s - since_s, traffic=traffic)
        return [] if change is None else self._changed(change)

    def _changed(self, change: Change) -> list[str]:
        self.reason = change.reason
        return [self._line()]

    def _needs(self, said: say.Profiled) -> int:
        return said.every or self.settings.every_max

    def _line(self) -> str:
        if self.every == 1:
            return f"every step is captured from now on: {self.reason}"
        return f"one step in {self.every} is captured from now on: {self.reason}"
