"""How a model is trained, as plain data.

The Gemini report names no optimizer. AdamW with clipping, warm-up, and a cosine or a
flat rate with a decay at the end (WSD, Hu et al. 2024, MiniCPM) are our own choices.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.decoder.model.segments import BatchShape
from twinstep.errors import UsageError

SCHEDULES = ("cosine", "wsd")
SHAPE = BatchShape(rows=8, tokens=512, images=64, audio=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a model is trained. Rates are for each step; shares are of 1."""

    steps: int = 1000
    shape: BatchShape = SHAPE
    learning_rate: float = 3e-3
    """At its highest."""
    warm_up: int = 50
    """Steps in which the rate rises from almost 0."""
    schedule: str = "cosine"
    """cosine: falls from the end of the warm-up on. wsd: flat, and falls at last."""
    decay_share: float = 0.2
    """Of the steps, in which a wsd rate falls."""
    final_share: float = 0.05
    """Of the highest rate, in the last step."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    """The longest the gradient may be."""
    seed: int = 0
    """Of the initial parameters and of the order of the data."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UsageError(
                f"schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}"
            )
        if not 0 <= self.warm_up < self.steps:
            raise UsageError(
                f"warm_up ({self.warm_up}) must be at least 0 and less than steps "
                f"({self.steps})"
            )
        for name in ("decay_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"{name} is {getattr(self, name):g}; it must be within 0 and 1"
                )
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name):g}; it must be > 0")
