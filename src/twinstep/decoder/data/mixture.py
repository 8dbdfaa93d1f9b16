"""Which example is the n-th: a closed form of n, so that nothing need be remembered.

The Gemini 1.0 report (section 4): "we stage training to alter the mixture composition
during training, increasing the weight of domain-relevant data towards the end". A
mixture is stages, each with a share of the training steps and a weight for each task.

Every block of 256 examples holds the same number of examples of each task (the weights
in 256ths, by largest remainder), spread evenly over the block: a batch has what its
stage says. The i-th example of a task is found without the ones before it: epoch
i // size visits all `size` examples once, in an order that a seeded permutation gives.

    n -> stage -> block, place in it -> task, i -> epoch, item

Where stages begin is counted in examples, and known once the rows before are packed
(packing.py); `Table` is a mixture with that settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import xxhash

from twinstep.errors import UsageError

BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the training: its share of the steps, and weights by task (any
    positive numbers; a task that is not named, or has 0, is not shown)."""

    weights: Mapping[str, float]
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Stages, in order; shares are relative to their sum."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("a mixture without stages; it needs at least one")
        for number, stage in enumerate(self.stages):
            if stage.share <= 0 or not any(w > 0 for w in stage.weights.values()):
                raise UsageError(
                    f"stage {number} has share {stage.share} and weights "
                    f"{dict(stage.weights)}; the share and one weight at least must be "
                    "above 0"
                )
            bad = [task for task, weight in stage.weights.items() if weight < 0]
            if bad:
                raise UsageError(f"stage {number}: weights below 0 for {bad}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks that some stage shows, sorted."""
        shown = {t for s in self.stages for t, w in s.weights.items() if w > 0}
        return tuple(sorted(shown))

    def steps(self, total: int) -> list[int]:
        """Returns how many of `total` steps each stage takes."""
        shares = np.cumsum([stage.share for stage in self.stages])
        ends = np.round(shares / shares[-1] * total).astype(int)
        return [int(n) for n in np.diff(ends, prepend=0)]


def uniform(tasks: Sequence[str]) -> Mixture:
    """One stage in which all tasks weigh the same."""
    return Mixture(stages=(Stage(weights=dict.fromkeys(tasks, 1.0)),))


def apportion(weights: Sequence[float], places: int) -> list[int]:
    """Returns how many of `places` each weight gets, by largest remainder; the sum is
    `places`. Raises: UsageError when a weight above 0 would get none."""
    total = sum(weights)
    quotas = [weight / total * places for weight in weights]
    counts = [int(quota) for quota in quotas]
    order = sorted(
        range(len(quotas)), key=lambda i: (counts[i] - quotas[i], i)
    )  # largest remainder first
    for i in order[: places - sum(counts)]:
        counts[i] += 1
    for weight, count in zip(weights, counts, strict=True):
        if weight > 0 and count == 0:
            raise UsageError(
                f"a weight of {weight} of {total} is less than 1/{places}: leave the "
                "task out, or give it more"
            )
    return counts


@dataclass(frozen=True, slots=True)
class Place:
    """Task (its number in the table's tasks) and item of one example."""

    task: int
    item: int


@dataclass(frozen=True)
class Table:
    """A mixture whose stages begin at known examples, over tasks of known sizes."""

    mixture: Mixture
    sizes: tuple[int, ...]
    """Examples of each of mixture.tasks."""
    seed: int
    begins: tuple[int, ...] = (0,)
    """First example of each stage that is settled; multiples of BLOCK."""
    _orders: dict[tuple[int, int], Permutation] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        tasks = self.mixture.tasks
        assert len(self.sizes) == len(tasks), (self.sizes, tasks)
        empty = [task for task, size in zip(tasks, self.sizes, strict=True) if not size]
        if empty:
            raise UsageError(
                f"no training examples of {', '.join(empty)}; make them, or leave the "
                "tasks out of the mixture"
            )
        assert all(begin % BLOCK == 0 for begin in self.begins)

    @cached_property
    def _patterns(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each stage: the task at each place of a block, its rank among those of its
        task, and the count of each task."""
        return [_pattern(stage, self.mixture.tasks) for stage in self.mixture.stages]

    @cached_property
    def _earlier(self) -> list[np.ndarray]:
        """Of each stage that is settled: examples of each task in the stages before."""
        before = [np.zeros(len(self.sizes), np.int64)]
        for stage, (begin, end) in enumerate(
            zip(self.begins, self.begins[1:], strict=False)
        ):
            counts = self._patterns[stage][2]
            before.append(before[-1] + counts * ((end - begin) // BLOCK))
        return before

    def after(self, count: int) -> Table:
        """Returns the table whose next stage begins at the first block that starts at
        example `count` or later."""
        begin = -(-count // BLOCK) * BLOCK
        begins = (*self.begins, max(begin, self.begins[-1]))
        return Table(self.mixture, self.sizes, self.seed, begins, self._orders)

    def __getitem__(self, n: int) -> Place:
        """Returns which example is the n-th; any n from 0 on, in any order."""
        assert n >= 0, n
        stage = int(np.searchsorted(self.begins, n, side="right")) - 1
        block, place = divmod(n - self.begins[stage], BLOCK)
        tasks, ranks, counts = self._patterns[stage]
        task = int(tasks[place])
        index = int(self._earlier[stage][task] + block * counts[task] + ranks[place])
        epoch, at = divmod(index, self.sizes[task])
        order = self._orders.get((task, epoch))
        if order is None:
            name = f"{self.seed} {self.mixture.tasks[task]} {epoch}"
            order = Permutation(self.sizes[task], xxhash.xxh64_intdigest(name.encode()))
            self._orders[task, epoch] = order
        return Place(task, order[at])


def _pattern(
    stage: Stage, tasks: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = [stage.weights.get(task, 0.0) for task in tasks]
    counts = apportion(weights, BLOCK)
    # The k-th of a task's c examples wants to stand at (k + 1/2) / c of the block.
    wanted = sorted(
        ((k + 0.5) / count, task, k)
        for task, count in enumerate(counts)
        for k in range(count)
    )
    return (
        np.array([task for _, task, _ in wanted]),
        np.array([k for _, _, k in wanted]),
        np.array(counts),
    )


class Permutation:
    """A seeded order of 0..size-1, of which any member is found by itself.

    A Feistel network of four rounds on the smallest even number of bits that holds
    `size`; a result outside is put in again until it is inside (cycle walking: under
    four turns on average)."""

    def __init__(self, size: int, seed: int) -> None:
        assert size > 0, size
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [xxhash.xxh64_intdigest(f"{seed} {i}".encode()) for i in range(4)]

    def __getitem__(self, index: int) -> int:
        assert 0 <= index < self.size, (index, self.size)
        while True:
            index = self._mixed(index)
            if index < self.size:
                return index

    def _mixed(self, index: int) -> int:
        left, right = index >> self._half, index & self._mask
        for key in self._keys:
            turned = ((right + key) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            turned = ((turned ^ (turned >> 29)) * 0xBF58476D1CE4E5B9) >> 17
            left, right = right, left ^ (turned & self._mask)
        return left << self._half | right
