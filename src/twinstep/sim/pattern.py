"""What the steps of simulated ranks do with the network: the collectives of a step.

A pattern is drawn from the seed: operations at offsets within the step, perhaps none,
perhaps the one in which all ranks meet; lengths that vary; now and then a step with
more operations, as one that evaluates; and in some seeds another pattern from some step
on. All ranks have the same pattern in the same step, whenever they come to it. Of a
rank its operations are known as it would write them on its page: `Beat` while they
come, `Seen` when the step is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from twinstep.schedule.profile import Seen
from twinstep.schedule.pulse import Beat
from twinstep.schedule_settings import Schedule
from twinstep.sim.events import Events
from twinstep.sim.memory import CHUNK_BYTES

NEVER_S = 1e12
DRIFT_STEPS = 2
ODD = ((0.02, 0.05), (0.06, 0.08), (0.1, 0.12))
"""Operations that a step has more which evaluates."""
SILENT_SHARE = 0.7
"""In so many seeds nobody tells of operations, and copies go at once: other damage is
looked for there, and steps of many kinds are seen in the rest."""
LONG = 0.01
"""How often a step takes three times as long as usual."""

Offsets = tuple[tuple[float, float], ...]
"""Start and end of operations, as parts of a step, in the order of their starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """How the steps of a job use the network, and what it has set for its copies."""

    told: bool = True
    """Ranks tell of operations at all."""
    operations: tuple[Offsets, Offsets] = ((), ())
    """Before and after the drift."""
    drifts_at: int = 10**9
    """The step from which the second ones hold."""
    odd_every: int = 10**9
    """One step in so many has more operations."""
    jitter: float = 0.05
    """By so much, as a part, is a step longer or shorter."""
    uneven: float = 1.0
    """How long operations are on every other rank, as a part of what they are."""
    meets: bool = False
    """The collective in which all ranks meet is told as one more operation."""
    rest: float = 0.0
    """The part of a step that comes after it."""
    profile_steps: int = 2
    every_max: int = 4
    withhold_every: int = 4
    hold_steps: float = 3.0
    """hold_s_max, in steps."""
    buffers: int = 2
    piece_chunks: int = 1

    def schedule(self, step_s: float, chunk_s: float, delay_s: float) -> Schedule:
        if not self.told:
            return Schedule()
        return Schedule(
            profile_steps=self.profile_steps,
            span_s_min=step_s / 100,
            startup_s=delay_s,
            link_bytes_per_s=CHUNK_BYTES / chunk_s,
            buffer_bytes=self.buffers * self.piece_chunks * CHUNK_BYTES,
            buffers=self.buffers,
            piece_s_max=1e9,
            poll_s=step_s / 100,
            hold_s_max=self.hold_steps * step_s,
            drift_steps=DRIFT_STEPS,
            every_max=self.every_max,
            withhold_every=self.withhold_every,
            samples_min=2,
            samples_max=16,
        )

    @property
    def steps_until_planned(self) -> int:
        """A machine plans with a pattern that it has seen in so many steps: a profile
        that had been begun ends, steps drift, and another one is made."""
        return 4 * self.profile_steps + 2 * DRIFT_STEPS + 2

    def holds(self, step: int) -> int:
        """Which of the two it is in this step."""
        return int(step >= self.drifts_at)

    def is_odd(self, step: int) -> bool:
        return step % self.odd_every == self.odd_every - 1

    def count(self, step: int) -> int:
        """Operations that a rank tells of in a usual step there."""
        return len(self.operations[self.holds(step)]) + self.meets

    def at(self, step: int) -> Offsets:
        usual = self.operations[self.holds(step)]
        return tuple(sorted(usual + ODD)) if self.is_odd(step) else usual


SILENT = Pattern(told=False)


def draw(random: Random) -> Pattern:
    """Returns a job's pattern; in most seeds nobody tells of any."""
    if random.random() < SILENT_SHARE:
        return SILENT
    first = _operations(random)
    second = _operations(random) if random.random() < 0.5 else first
    return Pattern(
        operations=(first, second),
        drifts_at=random.choice((6, 12)) if second is not first else 10**9,
        odd_every=random.choice((5, 7, 10**9)),
        jitter=random.choice((0.02, 0.1, 0.3)),
        uneven=random.choice((1.0, 1.0, 0.3)),
        meets=random.random() < 0.5,
        rest=random.choice((0.0, 0.0, 0.3)),
        profile_steps=random.choice((2, 2, 3)),
        every_max=random.choice((1, 2, 4)),
        withhold_every=random.choice((0, 2, 4)),
        hold_steps=random.choice((1.0, 3.0, 10.0)),
        buffers=random.choice((1, 2, 4)),
        piece_chunks=random.choice((1, 1, 2)),
    )


def _operations(random: Random) -> Offsets:
    """None, a few or many; now and then they leave no room, and some overlap."""
    count = random.choice((0, 1, 2, 2, 3, 3, 8))
    busy = random.choice((0.2, 0.6, 0.98))
    starts = sorted(0.12 + 0.88 * random.random() for _ in range(count))
    ends = [*starts, 1.0][1:]
    return tuple(
        (start, min(1.0, start + (end - start) * busy * random.choice((1, 1, 1.5))))
        for start, end in zip(starts, ends, strict=True)
    )


class Now(NamedTuple):
    """What a rank's operations are at a moment."""

    step: int
    began_s: float
    operations: list[tuple[float, float]]
    """Start and end of each, of those that are to come too."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Beats:
    """What one rank tells of its steps."""

    pattern: Pattern
    events: Events
    rank: int
    now: Now | None = None
    over: Seen | None = None
    """The last step that is over."""
    _length_s: float = field(default=0.0)

    def begins(self, step: int, step_s: float) -> float:
        """A step begins; returns how long it computes until its ranks meet."""
        if not self.pattern.told:
            return self.events.around(step_s)
        now_s, random = self.events.now_s, self.events.random
        self._close(now_s)
        spread = 1.0 + self.pattern.jitter * (2 * random.random() - 1)
        self._length_s = step_s * spread * (3 if random.random() < LONG else 1)
        before_s = self._length_s * (1 - self.pattern.rest)
        size = self.pattern.uneven if self.rank % 2 else 1.0
        self.now = Now(
            step,
            now_s,
            [
                (now_s + from_s, now_s + from_s + (end - start) * size * before_s)
                for start, end in self.pattern.at(step)
                for from_s in (start * before_s,)
            ],
        )
        return before_s

    def _close(self, now_s: float) -> None:
        if self.now is None:
            return
        step, began_s, operations = self.now
        self.over = Seen(
            step=step,
            length_s=now_s - began_s,
            busy=tuple((start - began_s, end - began_s) for start, end in operations),
            began_s=began_s,
        )

    def meets(self) -> None:
        """The collective of the step begins, for this rank."""
        if self.now is not None and self.pattern.meets:
            self.now.operations.append((self.events.now_s, NEVER_S))

    def met(self) -> float:
        """It has ended; returns how long this rank computes after it."""
        if self.now is None:
            return 0.0
        if self.pattern.meets:
            start_s, _ = self.now.operations[-1]
            self.now.operations[-1] = (start_s, self.events.now_s)
        return self._length_s * self.pattern.rest

    def beat(self, now_s: float) -> Beat | None:
        """What its page says; None before its first step."""
        if self.now is None:
            return None
        step, began_s, operations = self.now
        started = [start for start, _ in operations if start <= now_s]
        ended = [end for _, end in operations if end <= now_s]
        return Beat(
            step=step,
            began_ns=_ns(began_s),
            started=len(started),
            ended=len(ended),
            changed_ns=_ns(max([began_s, *started, *ended])),
        )

    def changes_s(self, now_s: float) -> float:
        """When the next operation starts or ends, as far as is known."""
        if self.now is None:
            return NEVER_S
        times = [each for pair in self.now.operations for each in pair if each > now_s]
        return min(times, default=NEVER_S)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
