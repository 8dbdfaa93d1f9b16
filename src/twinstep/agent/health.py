"""Decides when a running job has stopped moving, and who holds it up.

A rank that exits is noticed by its agent at once, and a machine by its lease; what is
left is the rank that lives and does nothing: stopped, deadlocked, or waiting in a
collective for one that is. The deadline is learnt from the job's own steps: the
larger of a floor and a multiple of the median step. Then all ranks are looked at. A
process that a signal has stopped is the culprit, at once. If all of them run, it may
be an evaluation or a save: only a second, long deadline makes that a hang, and then
the ranks that are behind are named.

Leaves out: health probes of disks and devices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from twinstep.config import Timing

STEPS_REMEMBERED = 50
STOPPED_STATES = ("T", "t")


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

    @property
    def patience_s_max(self) -> float:
        """How long a step may take while all ranks run."""
        timing = self.timing
        return timing.hang_s_max if self.steps else timing.first_step_s_max

    def late(self, now_s: float) -> bool:
        return now_s - self.last_s > self.silence_s_max


def culprits(
    states: Mapping[int, str], steps: Mapping[int, int]
) -> tuple[list[int], str]:
    """Returns the ranks that hold the others up, and how that was told.

    `states` are process states as /proc gives them, `steps` the last step of each
    rank."""
    assert states, "nobody was probed"
    stopped = sorted(rank for rank, state in states.items() if state in STOPPED_STATES)
    if stopped:
        return stopped, "stopped by a signal"
    behind = min(steps.values())
    slow = sorted(rank for rank, step in steps.items() if step == behind)
    if len(slow) < len(steps):
        return slow, f"still at step {behind} while others went on"
    return slow, f"all ranks stand at step {behind}; no culprit can be told"


def ending(status: int) -> str:
    """How a process ended, in words."""
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

    def report(self, reason: str, tail: list[str]) -> str:
        rounds = f"{self.fruitless} rounds in a row made no new step"
        if self.furthest:
            rounds += f" after step {self.furthest}"
        lines = "\n".join(["", *tail]) if tail else " (it printed nothing)"
        return f"{reason}; {rounds}. Its last lines:{lines}"


@dataclass(slots=True, kw_only=True)
class Probing:
    """Collects what the ranks of all machines are doing, to find the culprit."""

    machines: int
    until_s: float
    """When it is asked again: a machine may have been lost meanwhile."""
    heard: set[str] = field(default_factory=set[str])
    states: dict[int, str] = field(default_factory=dict[int, str])
    steps: dict[int, int] = field(default_factory=dict[int, int])

    def late(self, now_s: float) -> bool:
        return now_s > self.until_s

    def take(
        self, machine: str, states: Mapping[int, str], steps: Mapping[int, int]
    ) -> tuple[str, str, bool] | None:
        """Returns the culprits' names, how that was told, and whether it is certain,
        once all machines are heard."""
        self.heard.add(machine)
        self.states.update(states)
        self.steps.update(steps)
        if len(self.heard) < self.machines or not self.states:
            return None
        who, how = culprits(self.states, self.steps)
        certain = any(state in STOPPED_STATES for state in self.states.values())
        return ", ".join(f"rank {rank}" for rank in who), how, certain
