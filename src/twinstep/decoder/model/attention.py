"""Attention of many kinds of sequences with one meaning and several ways to compute it.

    reference   dense: all scores at once. What the others are tested against, and the
                fastest for short rows on a CPU
    blockwise   O(T) memory, skips what nobody attends to (model/blockwise.py)
    cudnn       the fused kernel of NVIDIA GPUs, for 2-byte types. It has never run:
                this project's machines have no GPU

`auto` takes the first that fits. More can be added to BACKENDS by name; shard.py does
so with the one that passes keys around a ring of devices.

The dense form keeps queries as [B, T * heads, d]: with one key head (multi-query) that
is what a projection gives, without moving anything, and it multiplies as one matrix per
row. On this project's CPUs that was 2.6 times faster than one product per head.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from twinstep.decoder.model.blockwise import blockwise, by_key_head, by_position
from twinstep.decoder.model.structure import HIDDEN, Structure, allowed
from twinstep.errors import UsageError

Backend = Callable[
    [jax.Array, jax.Array, jax.Array, Structure, Structure, int | None], jax.Array
]

DENSE_MAX = 1 << 20
"""Pairs of a query and a key in a row up to which dense attention is the choice."""

CUDNN_PAIRS_MAX = 1 << 26
"""Pairs up to which a mask may be made for cudnn: it knows no other way to be told of
packed examples and of media. 8,192 positions: 128 MiB a row."""


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure | None = None,
    *,
    window: int | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Returns [B, T, H, d]: for each query the mean of the values it attends to,
    weighted by softmax(q . k / sqrt(d)); zeros for padding.

    q is [B, T, H, d]; k and v are [B, S, K, d] with H a multiple of K. `keys` describes
    the keys where they are not the queries' own positions (a cache).

    Raises: UsageError for a backend that there is not."""
    keys = queries if keys is None else keys
    if backend == "auto":
        backend = choose(q, k)
    if backend not in BACKENDS:
        raise UsageError(
            f"no attention backend {backend!r}; there are auto, "
            f"{', '.join(sorted(BACKENDS))}"
        )
    return BACKENDS[backend](q, k, v, queries, keys, window)


def choose(q: jax.Array, k: jax.Array) -> str:
    """Returns the backend for these shapes where the caller has no wish."""
    if jax.default_backend() == "gpu" and fits_cudnn(q, k):
        return "cudnn"
    if q.shape[1] * k.shape[1] <= DENSE_MAX:
        return "reference"
    return "blockwise"


def reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    window: int | None,
) -> jax.Array:
    """The dense form: B x H x T x S scores in memory."""
    rows, length, heads, size = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    q = by_key_head(q, kv_heads)
    k, v = by_key_head(k, kv_heads), by_key_head(v, kv_heads)
    scores = jnp.matmul(q, k.swapaxes(1, 2), preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, kv_heads, length, group, -1) * size**-0.5
    seen = allowed(queries, keys, window)[:, None, :, None, :]
    scores = jnp.where(seen, scores, HIDDEN)
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    parts = jnp.exp(scores - top)
    total = parts.sum(-1).reshape(rows * kv_heads, length * group, 1)
    parts = parts.reshape(rows * kv_heads, length * group, -1).astype(v.dtype)
    mixed = jnp.matmul(parts, v, preferred_element_type=jnp.float32) / total
    mixed = by_position(mixed, rows, kv_heads, length)
    valid = (queries.segment > 0)[:, :, None, None]
    return jnp.where(valid, mixed, 0.0).astype(v.dtype)


def fits_cudnn(q: jax.Array, k: jax.Array) -> bool:
    """Whether cudnn() can take these shapes and types to its kernel."""
    return (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[3] <= 128
        and q.shape[3] % 8 == 0
        and q.shape[1] * k.shape[1] <= CUDNN_PAIRS_MAX
    )


def cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    window: int | None,
) -> jax.Array:
    """cuDNN's fused kernel where it can be told what is attended to, else blockwise."""
    if not fits_cudnn(q, k):
        return blockwise(q, k, v, queries, keys, window)
    seen = allowed(queries, keys, window)[:, None]
    mixed = jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="cudnn")
    return jnp.where((queries.segment > 0)[:, :, None, None], mixed, 0)


BACKENDS: dict[str, Backend] = {
    "blockwise": blockwise,
    "cudnn": cudnn,
    "reference": reference,
}
