"""Which samples each rank takes, so that the number of ranks may change in between.

    sampler = GlobalSampler(len(data), batch=96, seed=1, rank=rank, world=world)
    loader = DataLoader(data, batch_sampler=sampler, num_workers=4)
    session = twinstep.Session(model=model, optimizer=optimizer, sampler=sampler)
    start = session.restore()
    while training:
        for samples in sampler.counted(loader):  # to the end of an epoch
            ...

An epoch is one order of all samples, drawn from seed and epoch. Every update takes
the next `batch` samples of it, of which each rank has its slice. So the position is two
numbers, the same on all ranks: whatever number of ranks goes on from there, no sample
is skipped or repeated. Workers of a loader read ahead; what counts is what came out
of the loader, so it is counted there. At the end of an epoch less than a batch is left
out, other samples each time.

Pass the sampler to Session, not the loader: only one of them can set the position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy

T = TypeVar("T")


class GlobalSampler:
    """A batch sampler for torch's DataLoader, and any other that takes one."""

    def __init__(
        self, length: int, *, batch: int, seed: int, rank: int, world: int
    ) -> None:
        """`batch` samples an update, of all ranks together; of `length`.

        A batch that `world` does not divide gives ranks slices that differ by one: a
        mean over ranks then weighs samples a little differently."""
        if not 0 < world <= batch <= length or not 0 <= rank < world:
            raise ValueError(
                f"batch {batch} of {length} samples for rank {rank} of {world}; a "
                "batch has a sample for each rank at least, and the data a batch"
            )
        self.length, self.batch, self.seed = length, batch, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.consumed = 0
        """Samples of this epoch that all ranks together have trained on."""

    def __len__(self) -> int:
        return (self.length - self.consumed) // self.batch

    def __iter__(self) -> Iterator[list[int]]:
        # RandomState's numbers never change with NumPy's version.
        order = numpy.random.RandomState([self.seed, self.epoch]).permutation(
            self.length
        )
        first = self.batch * self.rank // self.world
        final = self.batch * (self.rank + 1) // self.world
        for start in range(self.consumed, self.length - self.batch + 1, self.batch):
            yield order[start + first : start + final].tolist()

    def counted(self, loader: Iterable[T]) -> Iterator[T]:
        """Yields what comes out of `loader`, and the position is behind it. At its
        end the next epoch begins."""
        for samples in loader:
            self.consumed += self.batch
            yield samples
        self.epoch += 1
        self.consumed = 0

    def state_dict(self) -> dict[str, int]:
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "seed": self.seed,
            "length": self.length,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises: ValueError when the order of samples is another one."""
        now = self.state_dict()
        if any(state[key] != now[key] for key in ("seed", "length")):
            raise ValueError(
                f"the position {state} is not of this order: {now}; give the sampler "
                "the seed and the length it had"
            )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    def load_state_dicts(
        self, states: Sequence[dict[str, Any]], *, rank: int, world_size: int
    ) -> None:
        """The position is that of all ranks of then, which is one.

        Raises: ValueError when they differ."""
        if any(state != states[0] for state in states):
            raise ValueError(
                f"ranks stood at different samples: {states}; pass every batch through "
                "counted() on all ranks"
            )
        self.load_state_dict(states[0])
