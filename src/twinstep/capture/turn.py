"""Decides when a rank carries out an order to capture a step: now, later or not at all.

An order may name a step that is still ahead, as the way to the root and back may take
longer than a step. Only the state at that step may be written for it: before, the rank
waits until it stands there, and once the next update is about to run it is too late.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from twinstep.capture.snapshot import Held


class Turn(enum.Enum):
    NOW = "now"
    LATER = "later"
    LATE = "late"


@dataclass(slots=True, kw_only=True)
class Standing:
    """The step that a rank stands at."""

    step: int
    held: Held | None
    closed: bool = False
    """The next update is about to run, or has run."""
    copying: bool = False


def turn(ordered: int, *, standing: int, closed: bool) -> Turn:
    """Returns what is due for an order to capture step `ordered`.

    Args:
      standing: the step that the state is at.
      closed: whether the next update is about to change it."""
    if ordered > standing:
        return Turn.LATER
    return Turn.NOW if ordered == standing and not closed else Turn.LATE
