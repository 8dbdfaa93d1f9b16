"""A policy: what is saved where and how often, and what a failure then costs.

    captured        readable           failure
       │◄─ delay_s ─►│                    │◄────── recovery ──────►│ first new step
    ───┴─────────────┴──────┬─────────────x ······················ ├────────
       │◄──── interval_s ───►│            │ detect decide machine  │
       └────────── lost, trained again ───┘ start read warm up

A policy keeps tiers, nearest first. A tier inside the machines (copies >= 1) is lost
with all holders of one shard; storage (copies = 0) is not lost. A failed process loses
no machine's memory or disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from twinstep.errors import ConfigError

Cause = Literal["process", "machine"]
"""What failed: a process that restarts where it was, or a machine that is replaced."""
CAUSES: tuple[Cause, ...] = ("process", "machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A place that checkpoints are kept in. Times in seconds of training."""

    name: str
    interval_s: float
    """Between two checkpoints: 1/f of GEMINI's equation 1."""
    delay_s: float
    """From the instant that is captured until it could be read: t_ckpt."""
    read_s: Mapping[Cause, float]
    """To have the state back: t_rtvl."""
    copies: int = 0
    """Machines that hold each shard, the owner among them; 0: outside the machines."""

    def __post_init__(self) -> None:
        if not 0 < self.interval_s < math.inf or self.delay_s < 0:
            raise ConfigError(
                f"tier {self.name}: interval_s is {self.interval_s:.6g} and delay_s "
                f"{self.delay_s:.6g}; the first must be more than 0, the second at "
                "least 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Seconds from a failure to the first new step, without reading and redoing."""

    detect_s: Mapping[Cause, float]
    decide_s: float = 0.0
    save_s: float = 0.0
    """Of what must be written after the failure, before anything can be read."""
    standby_s: float = 0.0
    """Until a standby has the lost machine's place."""
    replace_s: float
    """Until the cloud has given another machine, where no standby waits."""
    start_s: float
    """Processes, their imports, their connections."""
    warm_up_s: float
    """What the first steps take longer than others: compiling, autotuning, loading."""

    def parts_s(self, cause: Cause) -> dict[str, float]:
        """What does not depend on machines that wait, or on the tier, in order."""
        return {
            "detect": self.detect_s[cause],
            "decide": self.decide_s,
            "save": self.save_s,
            "start": self.start_s,
            "warm up": self.warm_up_s,
        }

    def fixed_s(self, cause: Cause) -> float:
        return sum(self.parts_s(cause).values())

    def machine_s(self, cause: Cause, *, standby: bool) -> float:
        if cause == "process":
            return 0.0
        return self.standby_s if standby else self.replace_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One way to protect a job."""

    name: str
    says: str
    """In a sentence: what is saved when."""
    tiers: tuple[Tier, ...]
    slowdown: float = 0.0
    """By what share a step is longer because of it, while nothing fails."""
    recovery: Recovery
    notes: tuple[str, ...] = field(default=())
    """What did not fit, and what was assumed."""

    def __post_init__(self) -> None:
        assert self.tiers, f"{self.name} keeps nothing"
        assert self.slowdown >= 0, self


def wasted_s(*, checkpoint_s: float, interval_s: float, read_s: float) -> float:
    """Training lost to one failure, and the time to read the state back: equation 1 of
    GEMINI (section 2.1), for failures as likely at any instant.

    Raises: ConfigError where checkpoints would overlap (constraint 2)."""
    if interval_s < checkpoint_s:
        raise ConfigError(
            f"interval_s ({interval_s:.6g}) must be at least checkpoint_s "
            f"({checkpoint_s:.6g}): the next checkpoint would begin before this one "
            "is complete"
        )
    return checkpoint_s + interval_s / 2 + read_s


def interval_min_s(checkpoint_s: float, *, step_s: float) -> float:
    """The shortest interval: whole steps, no checkpoint before the last is complete
    (constraint 2)."""
    # A rounding error above a whole number of steps is no further step.
    return max(1, math.ceil(checkpoint_s / step_s - 1e-9)) * step_s


def interval_best_s(stall_s: float, *, between_s: float) -> float:
    """The interval at which stalls and lost training cost least together, of failures
    `between_s` apart: Daly's (2006, equation 37), which is Young's sqrt(2 stall_s
    between_s) (1974) where stalls are short."""
    if stall_s >= 2 * between_s:
        return between_s
    root = math.sqrt(stall_s / (2 * between_s))
    young_s = math.sqrt(2 * stall_s * between_s)
    return young_s * (1 + root / 3 + root * root / 9) - stall_s
