"""The phases of a round, and what its agents have said so far."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Phase(enum.Enum):
    GATHERING = "gathering"
    STOPPING = "stopping"
    PLACING = "placing"
    LOADING = "loading"
    TRAINING = "training"
    OVER = "over"


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the agents have said in the present round."""

    up: set[str] = field(default_factory=set[str])
    loaded: set[str] = field(default_factory=set[str])
    pids: dict[int, int] = field(default_factory=dict[int, int])
    ended: set[int] = field(default_factory=set[int])
