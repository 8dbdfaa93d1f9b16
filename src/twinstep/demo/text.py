"""A loader of windows of a text, as small as a loader with a state can be.

Which window comes next is decided by a seed and a position, and these two numbers are
its state.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Windows:
    """Random windows of a text in batches; each rank draws its own.

    Its state is (seed, position): a restored loader goes on where it stood."""

    def __init__(self, text: bytes, *, context: int, batch: int, seed: int) -> None:
        self._text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._context, self._batch = context, batch
        self._seed, self._position = seed, 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Returns inputs and targets (each B T): the targets are one byte ahead."""
        generator = torch.Generator()
        generator.manual_seed(self._seed * 1_000_003 + self._position)
        self._position += 1
        last = len(self._text) - self._context - 1
        starts = torch.randint(last, (self._batch,), generator=generator)
        windows = [self._text[s : s + self._context + 1] for s in starts]
        tokens = torch.stack(windows).long()
        return tokens[:, :-1], tokens[:, 1:]

    def state_dict(self) -> dict[str, int]:
        return {"seed": self._seed, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._seed, self._position = state["seed"], state["position"]
