"""Draws failures for many samples at once: by rates, or as a trace has them.

A block holds the next failures of every sample: how long after the one before, of which
kind, and a number in [0, 1) that decides whether all holders of a shard were among the
lost. The same seed draws the same failures, whatever policies they meet, so that
policies are compared on the same ill luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twinstep.planner.failures import Event, Failures
from twinstep.planner.policy import Cause

BLOCK = 128
"""Failures of each sample drawn at once: 4 MB for 1,000 samples."""

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of failure."""

    cause: Cause
    machines: int
    """Lost at once; 0 for a process."""
    apart: bool
    """Whether holders are kept out of each other's reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The next failures, each array of shape (failures, samples)."""

    gap_s: Floats
    kind: Whole
    luck: Floats


class Draws(Protocol):
    """Where failures come from."""

    kinds: tuple[Kind, ...]

    def block(self) -> Block: ...


class ByRate:
    """Failures as often as rates say, independent of each other."""

    def __init__(
        self, failures: Failures, *, machines: int, samples: int, seed: int
    ) -> None:
        found = failures.rates_per_s(machines)
        self.kinds = tuple(
            Kind(cause=cause, machines=more, apart=apart)
            for cause, more, apart, _ in found
        )
        self._rate = sum(kind[3] for kind in found)
        self._bounds = np.cumsum([kind[3] / self._rate for kind in found])[:-1]
        self._samples = samples
        self._random = np.random.default_rng(seed)

    def block(self) -> Block:
        shape = (BLOCK, self._samples)
        gap_s = self._random.exponential(1 / self._rate, shape)
        kind = np.zeros(shape, np.intp)
        if len(self._bounds):
            kind = np.searchsorted(self._bounds, self._random.random(shape))
        return Block(gap_s=gap_s, kind=kind, luck=self._random.random(shape))


class OfTrace:
    """The failures of a trace, again and again; each sample begins at another one."""

    def __init__(self, trace: Sequence[Event], *, samples: int, seed: int) -> None:
        # Of a trace it is not known which machines were neighbours.
        each = [Kind(cause=e.cause, machines=_lost(e), apart=False) for e in trace]
        self.kinds = tuple(dict.fromkeys(each))
        self._kind = np.array([self.kinds.index(kind) for kind in each], np.intp)
        self._gap_s = np.diff([0.0, *(event.at_s for event in trace)])
        self._random = np.random.default_rng(seed)
        self._next = self._random.integers(len(trace), size=samples)

    def block(self) -> Block:
        which = (self._next + np.arange(BLOCK)[:, None]) % len(self._kind)
        self._next = (self._next + BLOCK) % len(self._kind)
        return Block(
            gap_s=self._gap_s[which],
            kind=self._kind[which],
            luck=self._random.random(which.shape),
        )


def _lost(event: Event) -> int:
    return event.machines if event.cause == "machine" else 0
