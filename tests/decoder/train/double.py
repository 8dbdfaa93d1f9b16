"""A model of a few thousand numbers that learns which token follows which.

It satisfies what a step asks of a model, and compiles in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twinstep.decoder.config import ModelConfig, TowerConfig
from twinstep.decoder.model.segments import BatchShape, Packed, Text, fill
from twinstep.decoder.spec import Param
from twinstep.decoder.train.settings import TrainConfig

VOCABULARY, WIDTH = 32, 8
CONFIG = ModelConfig(
    name="double", vocabulary=VOCABULARY, width=WIDTH, layers=1, heads=1, hidden=8
)
SHAPE = BatchShape(rows=4, tokens=16, images=1, audio=1)
TRAIN = TrainConfig(steps=40, shape=SHAPE, learning_rate=0.1, warm_up=4)
SPEC: dict[str, Any] = {
    "embed": Param((VOCABULARY, WIDTH), (None, None)),
    "norm": Param((WIDTH,), (None,), "ones"),
    "output": Param((WIDTH, VOCABULARY), (None, None)),
}


def loss(params: Any, batch: Packed) -> tuple[jax.Array, jax.Array]:
    x = params["embed"][batch.token[:, :-1]] * params["norm"]
    logs = jax.nn.log_softmax(x @ params["output"])
    target, weight = batch.token[:, 1:], batch.weight[:, 1:]
    said = jnp.take_along_axis(logs, jnp.asarray(target)[..., None], axis=-1)[..., 0]
    return -jnp.sum(said * weight), jnp.sum(weight)


class Batches(Sequence[Packed]):
    """Batch k is made from k alone: runs of numbers that count up."""

    def __init__(self, steps: int = TRAIN.steps, *, poison: int = -1) -> None:
        self.steps, self.poison = steps, poison

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: Any) -> Any:
        if not 0 <= k < self.steps:
            raise IndexError(k)
        random = np.random.default_rng(k)
        rows = []
        for start in random.integers(6, VOCABULARY, size=SHAPE.rows):
            ids = 6 + (int(start) + np.arange(12)) % (VOCABULARY - 6)
            rows.append([[Text(ids.tolist(), weight=1.0)]])
        batch = fill(rows, SHAPE, TowerConfig())
        if k == self.poison:
            batch.weight[0, 1] = np.nan
        return batch
