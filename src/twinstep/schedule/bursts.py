"""Counts the bursts of training's traffic in the present step, as they come.

Where nobody tells of operations, the samples of a network interface do (profile.py,
`from_counters`). That says what a step looked like when it is over; this says, sample
by sample, where in the step training is now: so many bursts have ended, and one is
under way or is not. A burst has ended when the interface was idle for `span_s_min`, as
a shorter pause is one of the burst's own. So its end is known so much later than a
collective's would be, and nothing goes in that time.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.schedule.gate import Moment
from twinstep.schedule.profile import Sample, is_busy


@dataclass(slots=True, kw_only=True)
class Bursts:
    """The bursts of one step.

    Invariant: until_s, the end of the last busy sample, is never before began_s."""

    quiet_bytes_per_s: float
    span_s_min: float
    step: int = -1
    began_s: float = 0.0
    count: int = 0
    """Bursts that have begun in the step."""
    until_s: float = 0.0
    last: Sample | None = None

    def begins(self, step: int, began_s: float) -> None:
        """The machine is in another step since then."""
        self.step, self.began_s = step, began_s
        self.count, self.until_s = 0, began_s
        self.last = None

    @property
    def taken_s(self) -> float:
        """Later samples than this are of use."""
        return self.last.at_s if self.last is not None else self.began_s

    def take(self, sample: Sample) -> None:
        """Samples come in order; those from before the step began are left out."""
        last, self.last = self.last, sample
        if last is None or last.at_s < self.began_s:
            return
        if not is_busy(last, sample, self.quiet_bytes_per_s):
            return
        if self.count == 0 or last.at_s - self.until_s >= self.span_s_min:
            self.count += 1
        self.until_s = sample.at_s

    def moment(self, now_s: float) -> Moment:
        """Returns where in the step training is."""
        under_way = self.count > 0 and now_s - self.until_s < self.span_s_min
        return Moment(
            step=self.step,
            ended=self.count - under_way,
            busy=under_way,
            since_s=self.until_s,
            began_s=self.began_s,
        )
