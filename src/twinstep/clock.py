"""The time, read in one place.

Decisions take `now_s` as an argument and never look. What carries them out looks
here: `monotonic_s` for every deadline and duration, since it never steps, and
`wall_s` only for what a person reads. The two are not to be mixed or subtracted.
"""

from __future__ import annotations

import time
from typing import Protocol, final


class Clock(Protocol):
    """Where `now_s` comes from; the simulator and the tests bring their own."""

    def monotonic_s(self) -> float:
        """Seconds since some moment, equal for all processes of one machine."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970; may step, and differs between machines."""
        ...


def monotonic_s() -> float:
    """Seconds since some moment, equal for all processes of one machine."""
    return time.monotonic()


def monotonic_ns() -> int:
    """As monotonic_s, in nanoseconds: for what is told from one process to another."""
    return time.monotonic_ns()


def wall_s() -> float:
    """Seconds since 1970; may step, and differs between machines."""
    return time.time()


_STARTED_S = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since 1970 that never step: the wall clock at this process's start, and
    monotonic from there. What decisions are given, and what timelines record."""
    return _STARTED_S + time.monotonic()


@final
class SystemClock:
    """The computer's own clock."""

    def monotonic_s(self) -> float:
        return monotonic_s()

    def wall_s(self) -> float:
        return wall_s()
