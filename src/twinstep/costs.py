"""What protection cost a rank, as its session has counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """What protection cost this rank so far. Times in seconds."""

    steps: int
    captured: int
    skipped: int
    blocked_s: float
    """Time the training thread spent in after_step and in the fence."""
    copied_s: float
    """Time the twin thread spent copying."""
