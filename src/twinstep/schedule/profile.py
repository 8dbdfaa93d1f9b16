"""Learns from a few steps when in a step training leaves the network idle.

GEMINI (SOSP 2023, section 5.4, doi 10.1145/3600006.3613145) takes the times of all
communication in the first 20 steps and averages each idle span; the normalised standard
deviation was below 10 %. Here likewise, and again whenever the steps have changed.

A span is named by what can be observed while it comes: how many operations of the step
have ended. `after` operations have started, all of them have ended, the next has not
started. So a step of n operations has n + 1 spans, some of them of length 0:

    operations     ██1██        ███2███              █4█
                                    ███3████
    spans     ─0──      ───1────            ────3────   ──4──      (2 has length 0)

    step begins                                         step ends

Steps are compared only with those of as many operations: a step that logs or evaluates
has more, and would shift all that follow. When no number of operations is the usual
one, the profile says so by having no spans.

All ranks of a machine share its link: their operations are put together (`merge`).
Where nobody sees operations, the counters of the network interface show when it was
busy (`from_counters`).

Left out: who sent what. A collective between ranks of one machine counts as traffic.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from twinstep.schedule_settings import Schedule

HEADERS_SHARE = 0.08
"""Frames' headers and acknowledgements, as a part of the bytes of copies: 66 bytes for
each 1448, and as many for an answer to every second frame."""

FRAMES_BYTES = 4096
"""Between two samples: a few frames of agents' words to each other, which come now and
then, and would make each step look different."""

Busy = tuple[tuple[float, float], ...]
"""Start and end of operations, in seconds since the step began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One step as it was observed, by one rank or by the ranks of a machine."""

    step: int
    length_s: float
    busy: Busy
    """In the order of their starts. They may overlap."""
    began_s: float = 0.0
    """When the step began, on a clock that is the same for all ranks of a machine."""


class Sample(NamedTuple):
    """The counters of a network interface at one moment; all only ever grow."""

    at_s: float
    sent_bytes: int
    received_bytes: int
    own_bytes: int
    """What copies have sent and received of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of a step in which training does not use the network."""

    after: int
    """Operations of the step that have ended when it begins."""
    start_s: float
    """Mean offset from the step's start."""
    mean_s: float
    min_s: float
    """Its mean and its least length."""
    deviation: float
    """Standard deviation of its length, as a part of the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The idle spans of a step, of those that are worth using."""

    step_s: float
    spans: tuple[Span, ...]
    """In their order."""
    steps: int
    """Steps that it is made of; 0 when no two in three were alike, and so no span can
    be named."""
    operations: int
    """In a step."""
    deviation: float
    """How far a step's spans are from these, all together, on average."""
    unnamed_s: float = 0.0
    """Where no span can be named: a step's idle time, on average, all together."""

    @property
    def lengths_s(self) -> tuple[float, ...]:
        """What there is to plan with: each span, or else the idle time as one."""
        named = tuple(span.mean_s for span in self.spans)
        return (self.unnamed_s,) if self.unnamed_s else named


def merge(seens: Sequence[Seen]) -> Seen:
    """Returns the step as the machine saw it whose ranks saw these: busy when any was.
    It begins when the first rank begins it, and ends when the first begins another."""
    assert seens and len({seen.step for seen in seens}) == 1, seens
    began_s = min(seen.began_s for seen in seens)
    return Seen(
        step=seens[0].step,
        length_s=min(seen.began_s + seen.length_s for seen in seens) - began_s,
        busy=tuple(
            sorted(
                (start + seen.began_s - began_s, end + seen.began_s - began_s)
                for seen in seens
                for start, end in seen.busy
            )
        ),
        began_s=began_s,
    )


def from_counters(
    samples: Sequence[Sample],
    *,
    step: int,
    began_s: float,
    ended_s: float,
    quiet_bytes_per_s: float,
    span_s_min: float,
) -> Seen:
    """Returns a step as the counters of the network interface show it.

    Between two samples the link was busy when training moved more than
    `quiet_bytes_per_s`, copies taken off. Pauses shorter than `span_s_min` are those of
    a burst, and joined: they would not be used, and their number changes.

    Args:
      samples: in order of time, about a millisecond apart; from before the step began
        to after it ended."""
    busy: list[list[float]] = []
    for one, two in itertools.pairwise(samples):
        start_s, end_s = max(one.at_s, began_s), min(two.at_s, ended_s)
        if start_s >= end_s or not is_busy(one, two, quiet_bytes_per_s):
            continue
        start_s, end_s = start_s - began_s, end_s - began_s
        if busy and start_s - busy[-1][1] < span_s_min:
            busy[-1][1] = end_s
        else:
            busy.append([start_s, end_s])
    return Seen(
        step=step,
        length_s=ended_s - began_s,
        busy=tuple((start_s, end_s) for start_s, end_s in busy),
        began_s=began_s,
    )


def is_busy(one: Sample, two: Sample, quiet_bytes_per_s: float) -> bool:
    """Returns whether training used the interface between two samples."""
    sent = two.sent_bytes - one.sent_bytes
    received = two.received_bytes - one.received_bytes
    if sent < 0 or received < 0:
        return True  # counters began again: nothing is known, so nothing is idle
    own = (two.own_bytes - one.own_bytes) * (1 + HEADERS_SHARE)
    quiet = max(FRAMES_BYTES, quiet_bytes_per_s * (two.at_s - one.at_s))
    return sent + received - own > quiet


class Gap(NamedTuple):
    """An idle stretch of one step."""

    start_s: float
    length_s: float


def gaps(seen: Seen) -> list[Gap]:
    """Returns the idle stretches after 0, 1, ... n operations."""
    found: list[Gap] = []
    end_s = 0.0
    for start_s, until_s in (*seen.busy, (seen.length_s, seen.length_s)):
        found.append(Gap(end_s, max(0.0, start_s - end_s)))
        end_s = max(end_s, until_s)
    return found


@dataclass(slots=True, kw_only=True)
class Profiler:
    """Takes every step, and says when there is a profile, or a new one."""

    settings: Schedule
    profile: Profile | None = None
    _gaps: list[list[Gap]] = field(default_factory=list[list[Gap]])
    _lengths_s: list[float] = field(default_factory=list[float])
    # Of the steps since the last profile, while one is being made.
    _profiling: bool = True
    _strikes: int = 0
    # Invariant: 0 <= _strikes < settings.drift_steps, and 0 while profiling.

    @property
    def profiling(self) -> bool:
        """A profile is being made: the first, or one after drift."""
        return self._profiling

    def take(self, seen: Seen) -> Profile | None:
        """Returns a profile when this step completes one; the one before holds until
        then. It is made of `profile_steps` steps with one number of operations, or,
        when none comes so often in twice as many steps, says that none is usual."""
        found = gaps(seen)
        if not self._profiling:
            self._watch(found)
            return None
        self._gaps.append(found)
        self._lengths_s.append(seen.length_s)
        counts = Counter(len(each) for each in self._gaps)
        usual, most = max(counts.items(), key=lambda item: (item[1], item[0]))
        if most < self.settings.profile_steps:
            if len(self._gaps) < 2 * self.settings.profile_steps:
                return None
            usual = 0
        before, self.profile = self.profile, self._made(usual)
        self._gaps, self._lengths_s = [], []
        self._profiling = False
        if before is not None and before.steps == self.profile.steps == 0:
            return None  # still none is usual: nothing new
        return self.profile

    def _made(self, usual: int) -> Profile:
        chosen = [i for i, found in enumerate(self._gaps) if len(found) == usual]
        steps = [self._gaps[i] for i in chosen]
        spans = [_span(n, [found[n] for found in steps]) for n in range(usual)]
        used = tuple(s for s in spans if s.mean_s >= self.settings.span_s_min)
        away = [_distance(found, used) for found in steps]
        return Profile(
            step_s=_mean([self._lengths_s[i] for i in chosen] or self._lengths_s),
            spans=used,
            steps=len(steps),
            operations=max(0, usual - 1),
            deviation=_mean(away) if away else 0.0,
            unnamed_s=0.0 if steps else _mean([self._idle_s(g) for g in self._gaps]),
        )

    def _idle_s(self, found: Sequence[Gap]) -> float:
        """What is worth using of a step."""
        worth = [gap.length_s for gap in found]
        return math.fsum(s for s in worth if s >= self.settings.span_s_min)

    def _watch(self, found: list[Gap]) -> None:
        """Counts a step that is unlike the profile, and takes one off for one that is
        like it, so that a lasting change counts and a single evaluation does not."""
        profile = self.profile
        assert profile is not None
        drifts = (
            len(found) != profile.operations + 1
            or _distance(found, profile.spans)
            > self.settings.drift_max + profile.deviation
        )
        self._strikes = max(0, self._strikes + (1 if drifts else -1))
        if self._strikes == self.settings.drift_steps:
            self._strikes = 0
            self._profiling = True


def _span(after: int, gaps: Sequence[Gap]) -> Span:
    lengths_s = [gap.length_s for gap in gaps]
    mean_s = _mean(lengths_s)
    spread_s = math.sqrt(_mean([(length_s - mean_s) ** 2 for length_s in lengths_s]))
    return Span(
        after=after,
        start_s=_mean([gap.start_s for gap in gaps]),
        mean_s=mean_s,
        min_s=min(lengths_s),
        deviation=spread_s / mean_s if mean_s > 0 else 0.0,
    )


def _distance(found: Sequence[Gap], spans: Sequence[Span]) -> float:
    """How far a step's spans are from the profile's, as a part of these; 0 where there
    are none. Long spans count for more, as more is sent in them."""
    off_s = math.fsum(abs(found[s.after].length_s - s.mean_s) for s in spans)
    total_s = math.fsum(span.mean_s for span in spans)
    return off_s / total_s if total_s > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    # fsum is exact, so that the order of the steps leaves no trace.
    return math.fsum(values) / len(values)
