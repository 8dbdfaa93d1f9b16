"""The ranks of a run as one mesh, and what of it is this process's.

Data-parallel over processes: the mesh's `pod` axis has a device of each rank, the state
is whole on each, and each feeds its rows of the batch (shard.py). A single process is
the same with an axis of one. Bits depend on the number of threads that compute, so a
rank keeps to as many processors as it is told, chosen by its number.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from twinstep.adapters import jax as processes
from twinstep.decoder.model.segments import BatchShape, Packed
from twinstep.decoder.shard import (
    batch_shardings,
    make_mesh,
    shardings,
    state_shardings,
    whole,
)
from twinstep.decoder.train.step import Shardings
from twinstep.environment import group_place
from twinstep.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """All processes that train together, and which of them this is."""

    rank: int
    ranks: int
    mesh: Any

    def rows(self, shape: BatchShape) -> slice:
        """Returns the rows of a batch that this process feeds.

        Raises: UsageError when the ranks cannot share them evenly."""
        if shape.rows % self.ranks:
            raise UsageError(
                f"a batch of {shape.rows} rows for {self.ranks} ranks; make "
                "train.shape.rows a multiple"
            )
        each = shape.rows // self.ranks
        return slice(self.rank * each, (self.rank + 1) * each)

    def shardings(self, spec: Any, state: Any, shape: BatchShape) -> Shardings:
        """Returns where state, batch and metrics lie; `state` may be abstract."""
        return Shardings(
            state=state_shardings(state, shardings(spec, self.mesh), self.mesh),
            batch=batch_shardings(self.mesh, shape.rows, shape.tokens),
            metrics=whole(self.mesh),
        )


def keep_to_processors(threads: int, *, number: int) -> None:
    """This process computes with `threads` processors at most, chosen by its number.
    To be called before JAX starts its threads."""
    there = sorted(os.sched_getaffinity(0))
    wanted = min(threads, len(there))
    first = number * wanted
    chosen = {there[(first + each) % len(there)] for each in range(wanted)}
    os.sched_setaffinity(0, chosen)


def join(cache: Path) -> Ranks:
    """Returns the mesh of all processes that a launcher has started with this one. What
    is compiled is kept in `cache`, and found there by the next attempt."""
    if group_place() is not None:
        processes.initialize(compiled=cache.resolve())
    else:
        keep_compiled(cache)
    ranks = jax.process_count()
    return Ranks(rank=jax.process_index(), ranks=ranks, mesh=make_mesh(pod=ranks))


def keep_compiled(cache: Path) -> None:
    """What this process compiles is kept there. Paths are part of what XLA's programs
    are found by: they are whole, and without links."""
    processes.keep_compiled(cache.resolve())


def placing(where: Packed) -> Callable[[Packed], Packed]:
    """Returns what makes a batch of this process's rows one of all rows."""

    def place(batch: Packed) -> Packed:
        return jax.tree.map(jax.make_array_from_process_local_data, where, batch)

    return place
