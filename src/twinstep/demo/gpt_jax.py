"""The small GPT over bytes again, in plain JAX: a dict of arrays and a few functions.

Read bottom-up. The same sizes as gpt.py's, whose words hold here; other bits.
Dropout's numbers come from a key, and the key is part of the training's state. The
parameters of all blocks are stacked (L), so that XLA compiles one block and not each.

Shapes: B sequences, T positions, D width, V vocabulary, H heads.
"""

# JAX leaves many types open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy

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


def first_parameters(seed: int, size: Size) -> Parameters:
    """Returns the parameters that a training begins with, as arrays of NumPy: to draw
    them on a device would have to be compiled."""
    width = size.width
    shapes = {
        "to_qkv": (width, 3 * width),
        "out": (width, width),
        "widen": (width, 4 * width),
        "narrow": (4 * width, width),
    }
    numbers = numpy.random.default_rng(seed)

    def drawn(shape: tuple[int, ...]) -> Any:
        return numpy.float32(0.02) * numbers.standard_normal(shape, numpy.float32)

    blocks = {name: drawn((size.layers, *shape)) for name, shape in shapes.items()}
    for name in ("norm_1", "norm_2"):
        blocks[name] = numpy.ones((size.layers, width), "float32")
    return {
        "embed": drawn((size.vocabulary, width)),
        "position": drawn((size.context, width)),
        "blocks": blocks,
        "norm": numpy.ones(width, "float32"),
    }


def loss(
    parameters: Parameters, tokens_BT: Any, targets_BT: Any, key: Any, size: Size
) -> Any:
    """Returns the mean loss of each next byte."""
    first, *rest = jax.random.split(key, 1 + 2 * size.layers)

    def add_block(x_BTD: Any, given: Any) -> Any:
        block, keys = given
        mixed = attention(norm(x_BTD, block["norm_1"]), block, size)
        x_BTD = x_BTD + drop(mixed, keys[0], size)
        wider = feed_forward(norm(x_BTD, block["norm_2"]), block)
        return x_BTD + drop(wider, keys[1], size), None

    x_BTD = parameters["embed"][tokens_BT] + parameters["position"]
    keys = jnp.stack(rest).reshape(size.layers, 2)
    x_BTD = drop(x_BTD, first, size)
    x_BTD, _ = jax.lax.scan(add_block, x_BTD, (parameters["blocks"], keys))
    logits_BTV = norm(x_BTD, parameters["norm"]) @ parameters["embed"].T
    chances = jax.nn.log_softmax(logits_BTV)
    return -jnp.take_along_axis(chances, targets_BT[..., None], axis=-1).mean()
