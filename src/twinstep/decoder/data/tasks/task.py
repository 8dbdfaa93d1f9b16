"""What a task is: examples of one kind for both sides, and how to judge a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from twinstep.decoder.data.example import Example, Split
from twinstep.decoder.data.origin import Origin, Pools

Maker = Callable[[Pools, Split, int, np.random.Generator], Iterator[Example]]
"""Makes that many examples of that side, or fewer where there are not as many. Draws
from the generator only, so the same pools and generator give the same examples."""


def always(pools: Pools) -> str | None:
    """For a task that can be made on any machine."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`chance` is what guessing scores: the best fixed answer, or any of the choices.
    `train` and `held_out` are full counts of examples; `version` is raised when the
    same seed would give other examples. `absent` says why it cannot be made here."""

    name: str
    asks: str
    make: Maker
    entity_rule: str
    chance: float
    origins: tuple[Origin, ...]
    train: int
    held_out: int
    version: int = 1
    default: bool = True
    absent: Callable[[Pools], str | None] = always

    def count(self, split: Split, amount: float) -> int:
        """Returns how many examples `amount` of the full count are, at least 8."""
        full = self.train if split == "train" else self.held_out
        return min(full, max(8, round(full * amount)))
