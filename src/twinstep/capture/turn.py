"""Decides when a rank carries out an order to capture a step: now, later or not at all.

An order may name a step that is still ahead, as the way to the root and back may take
longer than a step. Only the state at that step may be written for it: before, the rank
waits until it stands there, and once the next update is about to run it is too late.

What came of the step that a rank stands at is noted beside it, for whoever waits.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

from twinstep.capture.snapshot import Held

AGAIN_S_MAX = 1.0
"""So long is waited for the copies of the step before to arrive: a network that is
slower than steps are made must not hold up training."""


class Turn(enum.Enum):
    NOW = "now"
    LATER = "later"
    LATE = "late"


class Came(enum.Enum):
    """What came of a step."""

    CAPTURED = "captured"
    """This rank's part of it is in its slot."""
    PASSED = "passed over"
    """It is not to be captured; the one before is kept."""
    BUSY = "busy"
    """Not before copies of the one before have arrived; that one is kept."""
    FAILED = "failed"
    """It should have been captured, or nobody said."""

    @staticmethod
    def refused(*, again: bool) -> tuple[Came, str]:
        """Returns what came of a step that is not to be captured now, and why not.

        `again`: copies of an earlier step are on their way, and it may be later."""
        if again:
            return Came.BUSY, "copies of the one before are still on their way"
        return Came.PASSED, "the agents left it out (settings of [schedule] say when)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step, and why; no reason where it was captured."""

    came: Came
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What protection cost this rank so far. Times in seconds."""

    steps: int
    captured: int
    skipped: int
    blocked_s: float
    """Time the training thread spent in after_step, in the fence and in waits."""
    copied_s: float
    """Time the twin thread spent copying."""


@dataclass(slots=True, kw_only=True)
class Standing:
    """The step that a rank stands at."""

    step: int
    held: Held | None
    closed: bool = False
    """The next update is about to run, or has run."""
    copying: bool = False
    outcome: Outcome | None = None
    """None: nothing came of it so far."""

    def settle(self, step: int, outcome: Outcome) -> None:
        """Something came of an order to capture `step`. Where that lies ahead, nothing
        will come of this one."""
        if self.step == step:
            self.outcome = outcome
        elif self.step < step and self.outcome is None:
            reason = f"step {step} is captured instead"
            self.outcome = Outcome(Came.PASSED, reason)

    def wait_settled(
        self, changed: Condition, gone: Callable[[], bool], *, seconds_max: float
    ) -> Outcome:
        """Returns what came of this step, once it is known or the time is over.

        `gone` says that nothing more will come."""
        if self.held is None and not self.closed:
            return Outcome(Came.FAILED, "it could not be held")
        with changed:
            changed.wait_for(lambda: self.outcome is not None or gone(), seconds_max)
            if self._busy():
                again_s_max = min(AGAIN_S_MAX, seconds_max)
                changed.wait_for(lambda: not self._busy() or gone(), again_s_max)
            changed.wait_for(lambda: not self.copying)
        if self.outcome is not None:
            return self.outcome
        late = f"its agent did not call for it within {seconds_max:g} s"
        return Outcome(Came.FAILED, "its agent is gone" if gone() else late)

    def _busy(self) -> bool:
        return self.outcome is not None and self.outcome.came is Came.BUSY


def turn(ordered: int, *, standing: int, closed: bool) -> Turn:
    """Returns what is due for an order to capture step `ordered`.

    Args:
      standing: the step that the state is at.
      closed: whether the next update is about to change it."""
    if ordered > standing:
        return Turn.LATER
    return Turn.NOW if ordered == standing and not closed else Turn.LATE
