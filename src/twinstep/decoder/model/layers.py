"""The parts of a Transformer, bottom up: norm, rotation, attention, gated MLP, block.

The decoder and the tower are made of the same block. Weights keep their heads as a
dimension of their own (that is what is split over devices); they are flattened where
they are used, so that every product is one matrix by another.

Gemma's published practice: RMSNorm before each part with a scale of 1 + w, rotary
positions by halves, QK-norm, gated GELU (tanh form). GPT-2's: what writes into the
residual stream starts 1/sqrt(2 layers) smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from twinstep.decoder.model.attention import attend
from twinstep.decoder.model.placed import placed
from twinstep.decoder.model.product import product
from twinstep.decoder.model.structure import Structure
from twinstep.decoder.spec import Param

Tree = dict[str, Any]
Cached = tuple[jax.Array, jax.Array]
"""Keys and values, [B, S, K, d] each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSizes:
    """Sizes of one block. `depth` is how many there are, for the initial scale; `tower`
    whether its logical axes are the tower's."""

    width: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    depth: int
    epsilon: float
    tower: bool = False

    @property
    def axes(self) -> tuple[str, str, str, str]:
        """Logical names of width, heads, kv_heads and hidden."""
        if self.tower:
            return "tower", "tower_heads", "tower_heads", "tower_mlp"
        return "embed", "heads", "kv_heads", "mlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the positions of a call are and what they attend to. `rope` None: positions
    are in the input already."""

    queries: Structure
    keys: Structure | None = None
    rope: Cached | None = None
    window: int | None = None
    backend: str = "auto"


def block_spec(sizes: BlockSizes, stacked: int | None = None) -> Tree:
    """Returns the parameters of one block, or of `stacked` blocks as one array each."""
    width, heads, kv_heads, mlp = sizes.axes
    d, h, k = sizes.head_size, sizes.heads, sizes.kv_heads
    w, f = sizes.width, sizes.hidden
    residual = (2 * sizes.depth) ** -0.5
    front, name = ((), ()) if stacked is None else ((stacked,), ("layers",))

    def weight(shape: tuple[int, ...], axes: Any, fan_in: int, scale: float = 1.0):
        return Param((*front, *shape), (*name, *axes), scale=scale * fan_in**-0.5)

    def norm(size: int, axis: str) -> Param:
        return Param((*front, size), (*name, axis), "zeros")

    return {
        "attention": {
            "norm": norm(w, width),
            "query": weight((w, h, d), (width, heads, "head"), w),
            "key": weight((w, k, d), (width, kv_heads, "head"), w),
            "value": weight((w, k, d), (width, kv_heads, "head"), w),
            "query_norm": norm(d, "head"),
            "key_norm": norm(d, "head"),
            "out": weight((h, d, w), (heads, "head", width), h * d, residual),
        },
        "mlp": {
            "norm": norm(w, width),
            "gate": weight((w, f), (width, mlp), w),
            "up": weight((w, f), (width, mlp), w),
            "down": weight((f, w), (mlp, width), f, residual),
        },
    }


def block(
    params: Tree,
    x: jax.Array,
    sizes: BlockSizes,
    sight: Sight,
    cached: Cached | None = None,
    at: jax.Array | int = 0,
) -> tuple[jax.Array, Cached]:
    """Returns x [B, T, D] after attention and MLP, and the keys and values attended to:
    the positions' own, or `cached` with them written in at `at`."""
    mixed, kept = attention(params["attention"], x, sizes, sight, cached, at)
    x = placed(x + mixed, "rows", "positions", None)
    x = x + gated_mlp(params["mlp"], x, sizes)
    return placed(x, "rows", "positions", None), kept


def attention(
    params: Tree,
    x: jax.Array,
    sizes: BlockSizes,
    sight: Sight,
    cached: Cached | None = None,
    at: jax.Array | int = 0,
) -> tuple[jax.Array, Cached]:
    """The block's attention without the residual; see block()."""
    lead = x.shape[:2]
    x = rms_norm(params["norm"], x, sizes.epsilon)
    x = placed(x, "rows", "positions", None)
    q = project(x, params["query"]).reshape(*lead, sizes.heads, -1)
    k = project(x, params["key"]).reshape(*lead, sizes.kv_heads, -1)
    v = project(x, params["value"]).reshape(*lead, sizes.kv_heads, -1)
    q = rms_norm(params["query_norm"], q, sizes.epsilon)
    k = rms_norm(params["key_norm"], k, sizes.epsilon)
    if sight.rope is not None:
        q, k = rotate(q, sight.rope), rotate(k, sight.rope)
    if cached is not None:
        k, v = (
            jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), at, 1)
            for old, new in zip(cached, (k, v), strict=True)
        )
    mixed = attend(
        q,
        k,
        v,
        sight.queries,
        sight.keys,
        window=sight.window,
        backend=sight.backend,
    )
    out = params["out"].reshape(sizes.heads * sizes.head_size, -1)
    return project(mixed.reshape(*lead, -1), out), (k, v)


def gated_mlp(params: Tree, x: jax.Array, sizes: BlockSizes) -> jax.Array:
    """down(gelu(gate(x)) * up(x)), without the residual."""
    x = rms_norm(params["norm"], x, sizes.epsilon)
    x = placed(x, "rows", "positions", None)
    inner = jax.nn.gelu(project(x, params["gate"])) * project(x, params["up"])
    return project(placed(inner, "rows", "positions", "mlp"), params["down"])


def project(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., D] times weight [D, ...], whose other dimensions come out as one."""
    return product(x, weight.reshape(weight.shape[0], -1))


def rms_norm(scale: jax.Array, x: jax.Array, epsilon: float) -> jax.Array:
    """x over its root mean square in the last dimension, times 1 + scale; the mean is
    taken in float32."""
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(square + epsilon) * (1.0 + scale)).astype(x.dtype)


def rope(position: jax.Array, size: int, base: float) -> Cached:
    """Returns cos and sin, float32[B, T, 1, size / 2], of the positions' angles."""
    rate = base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = position.astype(jnp.float32)[..., None, None] * rate
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, turn: Cached) -> jax.Array:
    """Returns x [B, T, H, d] with element i and i + d/2 turned by the i-th angle."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
