"""The small GPT over bytes again, in plain JAX: a dict of arrays and a few functions.

Read bottom-up. The same sizes as gpt.py's, whose words hold here; other bits.
Dropout's numbers come from a key, and the key is part of the training's state.

Shapes: B sequences, T positions, D width, V vocabulary, H heads.
"""

# JAX leaves many types open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Parameters = dict[str, Any]
NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the model is; `context` in bytes of text."""

    layers: int = 2
    width: int = 160
    heads: int = 4
    context: int = 64
    vocabulary: int = 256
    dropout: float = 0.1


def norm(x: Any, scale: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + NORM_EPSILON) * scale


def drop(x: Any, key: Any, size: Size) -> Any:
    kept = jax.random.bernoulli(key, 1 - size.dropout, x.shape)
    return jnp.where(kept, x / (1 - size.dropout), 0.0)


def attention(x_BTD: Any, block: Parameters, size: Size) -> Any:
    """Each position looks at itself and those before it."""
    batch, length, width = x_BTD.shape
    parts = (x_BTD @ block["to_qkv"]).reshape(batch, length, 3, size.heads, -1)
    query, key, value = (parts[:, :, at] for at in range(3))
    scores_BHTT = jnp.einsum("bthd,bshd->bhts", query, key)
    scores_BHTT = scores_BHTT / (width // size.heads) ** 0.5
    seen = jnp.tril(jnp.ones((length, length), bool))
    shares_BHTT = jax.nn.softmax(jnp.where(seen, scores_BHTT, -jnp.inf))
    mixed = jnp.einsum("bhts,bshd->bthd", shares_BHTT, value)
    return mixed.reshape(batch, length, width) @ block["out"]


def feed_forward(x_BTD: Any, block: Parameters) -> Any:
    return jax.nn.gelu(x_BTD @ block["widen"]) @ block["narrow"]


def first_parameters(key: Any, size: Size) -> Parameters:
    """Returns the parameters that a training begins with."""
    width = size.width
    shapes = {
        "to_qkv": (width, 3 * width),
        "out": (width, width),
        "widen": (width, 4 * width),
        "narrow": (4 * width, width),
    }
    keys = iter(jax.random.split(key, 2 + len(shapes) * size.layers))

    def drawn(shape: tuple[int, ...]) -> Any:
        return 0.02 * jax.random.normal(next(keys), shape)

    blocks: list[Parameters] = []
    for _ in range(size.layers):
        block = {name: drawn(shape) for name, shape in shapes.items()}
        norms = {name: jnp.ones(width) for name in ("norm_1", "norm_2")}
        blocks.append(block | norms)
    return {
        "embed": drawn((size.vocabulary, width)),
        "position": drawn((size.context, width)),
        "blocks": blocks,
        "norm": jnp.ones(width),
    }


def loss(
    parameters: Parameters, tokens_BT: Any, targets_BT: Any, key: Any, size: Size
) -> Any:
    """Returns the mean loss of each next byte."""
    keys = iter(jax.random.split(key, 1 + 2 * size.layers))
    x_BTD = parameters["embed"][tokens_BT] + parameters["position"]
    x_BTD = drop(x_BTD, next(keys), size)
    for block in parameters["blocks"]:
        mixed = attention(norm(x_BTD, block["norm_1"]), block, size)
        x_BTD = x_BTD + drop(mixed, next(keys), size)
        wider = feed_forward(norm(x_BTD, block["norm_2"]), block)
        x_BTD = x_BTD + drop(wider, next(keys), size)
    logits_BTV = norm(x_BTD, parameters["norm"]) @ parameters["embed"].T
    chances = jax.nn.log_softmax(logits_BTV)
    return -jnp.take_along_axis(chances, targets_BT[..., None], axis=-1).mean()
