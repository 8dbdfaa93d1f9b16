"""Decides how often a step is captured, so that copies cost training what was agreed.

The timetables say how many steps' spans a capture needs. Whether copies then really
cost no more than `overhead_max` of the mean step is measured: now and then a single
capture is left out, and the step without traffic is compared with those before it:

    traffic    ■ ■ ■ ■ ■ ■ ■ □ ■ ■ ■ ■ ■ ■ ■ □ ...
               └── median ──┘ └─ the step without; the difference is one sample

Neighbours are compared, so that steps which grow longer over the hours do not count as
overhead. Of the samples the median is taken, as a step may wait for a disk or an
evaluation; the noise of that median follows from the median absolute deviation. Only
a difference above the noise counts, at NOISE standard errors: it is judged with each
new sample, and a job takes many steps.

When the budget is exceeded, captures are made rarer by as much as it is surely
exceeded, since the cost of one is spread over more steps (GEMINI, SOSP 2023, section
5.3, doi 10.1145/3600006.3613145). They come oftener again, one step at a time, when
even the upper end of what was measured would then be within the budget.

Left out: who makes the step slow. All machines' copies are one traffic here.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from twinstep.schedule_settings import Schedule

NOISE = 4.0
"""Standard errors that a difference must have; at half of them it is sure enough to say
by how much the budget is exceeded. At 3, a job of a million steps would see false ones.
"""
# Of a normal distribution: standard deviation from the median absolute deviation, and
# the standard error of a median from that of a mean.
SIGMA_OF_MAD = 1.4826
ERROR_OF_MEDIAN = 1.2533


class Change(NamedTuple):
    """From now on one step in `every` is captured."""

    every: int
    reason: str


class Overhead(NamedTuple):
    """By how much copies lengthen the mean step, as a part of a step without."""

    mean: float
    noise: float
    """What it may be more, or less."""
    samples: int


@dataclass(slots=True, kw_only=True)
class Budget:
    """The frequency of a job's captures. One of it, at the root."""

    settings: Schedule
    _least: int = 1
    _asked: int = 1
    # What the timetables need, and what the budget wants; the larger counts.
    _captured: int | None = None
    # The last step that was captured.
    _count: int = 0
    # Captures since one was left out.
    _before_s: deque[float] = field(init=False)
    # Steps with traffic since the last one without.
    _without_s: deque[float] = field(init=False)
    _more_s: deque[float] = field(init=False)
    # Invariant: len(_more_s) == len(_without_s) <= samples_max.
    _with: int = 0
    _steps: int = 0

    def __post_init__(self) -> None:
        most = self.settings.samples_max
        self._before_s = deque(maxlen=most)
        self._without_s = deque(maxlen=most)
        self._more_s = deque(maxlen=most)

    @property
    def every(self) -> int:
        """One step in so many is captured."""
        return min(max(self._least, self._asked), self.settings.every_max)

    def fits(self, every: int) -> None:
        """The timetables of all machines need so many steps for a capture; 0: no
        number that is allowed does."""
        before = self.every
        self._least = every or self.settings.every_max
        if self.every != before:
            self._forget()

    def captures(self, step: int) -> bool:
        """Returns whether this step, which could be captured, is. Asked once a step.
        One capture in `withhold_every` is left out, never two in a row."""
        last = self._captured
        if last is not None and last < step < last + self.every:
            return False
        self._count += 1
        if self._count == self.settings.withhold_every:
            self._count = 0
            return False
        self._captured = step
        return True

    def took(self, step_s: float, *, traffic: bool) -> Change | None:
        """A step took so long, with or without copies on the network in it. Returns
        the new frequency, if it changes."""
        self._steps += 1
        if traffic:
            self._with += 1
            self._before_s.append(step_s)
            return None
        if not self._before_s:
            return None
        self._more_s.append(median(self._before_s) - step_s)
        self._without_s.append(step_s)
        self._before_s.clear()
        return self._judge()

    @property
    def overhead(self) -> Overhead | None:
        """What copies cost at the present frequency; None before it is known."""
        samples = len(self._more_s)
        if samples < self.settings.samples_min or median(self._without_s) <= 0:
            return None  # words that were held up came at one moment: no step's time
        more_s = median(self._more_s)
        away_s = median(abs(each - more_s) for each in self._more_s)
        error_s = ERROR_OF_MEDIAN * SIGMA_OF_MAD * away_s / math.sqrt(samples)
        share = self._with / self._steps / median(self._without_s)
        return Overhead(more_s * share, NOISE * error_s * share, samples)

    def _judge(self) -> Change | None:
        overhead = self.overhead
        if overhead is None:
            return None
        most, every = self.settings.overhead_max, self.every
        says = f"copies lengthen steps by {overhead.mean:.1%} ± {overhead.noise:.1%}"
        surely = overhead.mean - overhead.noise / 2
        if overhead.mean > overhead.noise and surely > most:
            asked = min(math.ceil(every * surely / most), self.settings.every_max)
            if asked == every:
                return None  # it cannot be rarer
            return self._change(asked, f"{says}, more than {most:.1%}")
        if every > self._least:
            oftener = (overhead.mean + overhead.noise) * every / (every - 1)
            if oftener <= most:
                return self._change(every - 1, f"{says}, and {most:.1%} are allowed")
        return None

    def _change(self, every: int, reason: str) -> Change:
        self._asked = every
        self._forget()
        return Change(self.every, reason)

    def _forget(self) -> None:
        """What was measured at another frequency says nothing about this one."""
        self._before_s.clear()
        self._without_s.clear()
        self._more_s.clear()
        self._with = self._steps = 0
