"""Where a run stands in its data, when a trainer and not the user holds the loop.

A DataLoader cannot say where it stands. Indices takes the place of its batch sampler:
it gives the same batches of indices, and keeps what is needed to give them again.

    epoch begins      random state, and the samplers' own generators: the order of the
                      epoch follows from them
    before a batch    random state, for a dataset or a collate function that draws

A trainer may have fetched batches that it has not used yet: Lightning one, transformers
all of the next update and one more. After a restart the epoch's order is made again,
the used batches are passed over as indices only, and those fetched ahead are fetched
again, each from the random state that it was fetched from.

Continues exactly: loaders of map-style datasets whose order follows from the global
generators, from a torch.Generator named `generator`, or from set_epoch(). With worker
processes the order does; what a dataset draws in a worker does not. Left out: iterable
datasets, which can only be read again from the start of the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy
import torch
from torch.utils.data import DataLoader, IterableDataset

from twinstep.adapters import torch_values
from twinstep.errors import StateError

DEPTH_MAX = 8
"""Samplers inside samplers that are looked into."""
INNER = ("batch_sampler", "sampler", "source", "generator")


class Indices:
    """A loader's batch sampler that can begin in the middle of an epoch.

    Unknown attributes are those of the sampler inside."""

    def __init__(self, source: Any, *, loader: Any) -> None:
        """`source` is what `loader` took its indices from so far."""
        self.source = source
        self._draws_here = loader.num_workers == 0
        self._generators = [
            item for item in _inside(loader) if isinstance(item, torch.Generator)
        ]
        self._began: dict[str, Any] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self._again: dict[str, Any] | None = None
        self._skip = False

    def begin_at(self, position: dict[str, Any], *, skip: bool) -> None:
        """The next epoch is the one of `position`, made again.

        Args:
          skip: the used batches are passed over here; else whoever iterates does it.

        Raises: StateError when the loader has other generators than it had."""
        generators = len(position["began"]["own"])
        if generators != len(self._generators):
            raise StateError(
                f"the loader was captured with {generators} generators of its own, and "
                f"has {len(self._generators)}; build it as before"
            )
        self._again, self._skip = position, skip

    def position(self, used: int) -> dict[str, Any]:
        """Returns plain data: that `used` batches of this epoch are done with."""
        if self._again is not None:  # not one batch was asked for since
            return self._again
        for number in [each for each in self._before if each <= used]:
            del self._before[number]
        ahead = [self._before[number] for number in sorted(self._before)]
        # Most datasets draw nothing: one state stands for those that follow it.
        shown = [
            None if index and _same(state, ahead[index - 1]) else state
            for index, state in enumerate(ahead)
        ]
        return {"used": used, "began": self._began, "ahead": shown}

    def __iter__(self) -> Iterator[Any]:
        again, self._again = self._again, None
        skipped = again["used"] if again is not None and self._skip else 0
        if again is not None:
            torch_values.set_generators(again["began"]["random"])
            own = again["began"]["own"]
            for generator, state in zip(self._generators, own, strict=True):
                generator.set_state(state)
        before = _ahead(again) if again is not None else {}
        self._before = {}
        self._began = {
            "random": torch_values.generators(),
            "own": [each.get_state() for each in self._generators],
        }
        source, number = iter(self.source), 0
        while True:
            number += 1
            if number in before:
                torch_values.set_generators(before[number])
            if self._draws_here and number > skipped:
                self._before[number] = torch_values.generators()
            try:
                batch = next(source)
            except StopIteration:
                return
            if number > skipped:
                yield batch

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.source, name)


def watch(loader: Any) -> Indices | None:
    """`loader` takes its indices from what is returned; None for other loaders than
    a DataLoader of a map-style dataset, which stay as they are."""
    if not isinstance(loader, DataLoader):
        return None
    found = cast("Any", loader)
    return None if isinstance(found.dataset, IterableDataset) else _watch(found)


def _watch(loader: Any) -> Indices:
    # A DataLoader refuses assignment to these two after it was made.
    name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    found = loader.__dict__[name]
    if isinstance(found, Indices):
        return found
    indices = loader.__dict__[name] = Indices(found, loader=loader)
    return indices


def watched(loader: Any) -> Indices | None:
    """Returns what watch() returned for this loader."""
    for name in ("batch_sampler", "sampler"):
        found = getattr(loader, name, None)
        if isinstance(found, Indices):
            return found
    return None


def set_epoch(loader: Any, epoch: int) -> None:
    """Every sampler of `loader` that asks for the number of the epoch has it."""
    for item in _inside(loader):
        if callable(getattr(cast("Any", type(item)), "set_epoch", None)):
            item.set_epoch(epoch)


def _inside(loader: Any) -> list[Any]:
    """Returns the samplers of a loader and their generators, outermost first."""
    found: dict[int, Any] = {}
    layer = [loader]
    for _ in range(DEPTH_MAX):
        inner = [getattr(item, name, None) for item in layer for name in INNER]
        fresh = {id(item): item for item in inner if item is not None}
        layer = [item for key, item in fresh.items() if key not in found]
        found |= fresh
    return list(found.values())


def _ahead(position: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Returns the random state by the number of the batch fetched from it."""
    states: dict[int, dict[str, Any]] = {}
    for number, state in enumerate(position["ahead"], position["used"] + 1):
        states[number] = states[number - 1] if state is None else state
    return states


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        _equal(value, other[key]) for key, value in one.items()
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        pairs = zip(cast("list[Any]", one), other, strict=True)
        return all(_equal(a, b) for a, b in pairs)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, numpy.ndarray):
        return bool(numpy.array_equal(cast("Any", one), other))
    return one == other
