"""Decides when a running job has stopped moving, and who holds it up.

A rank that exits is noticed by its agent at once, and a machine by its lease; what is
left is the rank that lives and does nothing: stopped, deadlocked, or waiting in a
collective for one that is. The deadline is learnt from the job's own steps: the
larger of a floor and a multiple of the median step. Then all ranks are looked at.
What was seen is judged in culprits.py; how long each verdict must wait is said here
(`patience_s`), and what a round that bore no fruit adds to it.

Leaves out: the health of machines (probes.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from twinstep.agent.culprits import Verdict
from twinstep.agent.messages import Sight
from twinstep.config import Timing

STEPS_REMEMBERED = 50


@dataclass(slots=True, kw_only=True)
class StepWatch:
    """Learns how long a step takes and says when one takes too long."""

    timing: Timing
    last_s: float
    steps: int = 0
    durations_s: deque[float] = field(
        default_factory=lambda: deque[float](maxlen=STEPS_REMEMBERED)
    )

    def restart(self, now_s: float) -> None:
        """A new round begins; the first step of it may compile."""
        self.last_s = now_s
        self.steps = 0

    def stepped(self, now_s: float) -> None:
        """All ranks reached a new step."""
        if self.steps > 0:
            self.durations_s.append(now_s - self.last_s)
        self.last_s = now_s
        self.steps += 1

    @property
    def silence_s_max(self) -> float:
        """How long a step may take before the ranks are looked at."""
        if self.steps == 0 or not self.durations_s:
            return self.timing.hang_s_min
        learnt_s = self.timing.hang_steps * median(self.durations_s)
        return max(self.timing.hang_s_min, learnt_s)

    def patience_s(self, verdict: Verdict, *, fruitless: int) -> float:
        """How long a step may take before such a verdict ends the round.

        Each round that ended without a new step doubles it: an evaluation that was
        ended too early gets through the second or third time."""
        if verdict.stopped:
            return 0.0
        timing = self.timing
        if self.steps == 0:
            wait_s = timing.first_step_s_max
        else:
            wait_s = timing.deadlock_s_min if verdict.proven else timing.hang_s_max
        return max(wait_s * 2**fruitless, self.silence_s_max)

    def late(self, now_s: float) -> bool:
        return now_s - self.last_s > self.silence_s_max


UNKNOWN = 256
"""The status of a process that ended, and whose parent alone knows how."""


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status == UNKNOWN:
        return "ended (its launcher knows how)"
    if status < 0:
        return f"was killed by signal {-status}"
    return f"ended with status {status}"


@dataclass(slots=True, kw_only=True)
class CrashGuard:
    """Tells a script that cannot work from one that was hit: it dies, or hangs, by
    itself again and again, without a new step in between.

    Only a step that no round has reached before is new: a script that always dies at
    step 100 reaches step 99 in every round."""

    rounds_max: int
    fruitless: int = 0
    """Rounds in a row that a rank ended by itself before there was a new step."""
    furthest: int = 0
    fruitful: bool = False
    """Whether the present round has made a new step."""

    def begins(self, *, reached: int) -> None:
        """A round begins, after earlier ones have come as far as `reached`."""
        self.furthest, self.fruitful = max(self.furthest, reached), False

    def stepped(self, step: int) -> None:
        """All ranks have reached a step."""
        if step > self.furthest:
            self.furthest, self.fruitless, self.fruitful = step, 0, True

    def failed(self) -> bool:
        """A rank ended or hung; returns whether that was once too often."""
        self.fruitless += not self.fruitful
        return self.fruitless >= self.rounds_max

    def report(self, reason: str, tail: list[str] | None) -> str:
        """Why the job ends. `tail` is what the rank printed last; None for a hang."""
        rounds = f"{self.fruitless} rounds in a row made no new step"
        if self.furthest:
            rounds += f" after step {self.furthest}"
        if tail is None:
            return f"{reason}; {rounds}"
        lines = "\n".join(["", *tail]) if tail else " (it printed nothing)"
        return f"{reason}; {rounds}. Its last lines:{lines}"


@dataclass(slots=True, kw_only=True)
class Looking:
    """Collects what the ranks of all machines are doing, once."""

    machines: int
    asked_s: float
    threads: bool = False
    """The ranks are about to be ended: all their threads are looked at."""
    heard: set[str] = field(default_factory=set[str])
    sights: dict[int, Sight] = field(default_factory=dict[int, Sight])

    @property
    def complete(self) -> bool:
        return len(self.heard) >= self.machines and bool(self.sights)

    def take(self, machine: str, sights: Mapping[int, Sight]) -> bool:
        """A machine has answered; returns whether it was the last to."""
        self.heard.add(machine)
        self.sights.update(sights)
        return self.complete
