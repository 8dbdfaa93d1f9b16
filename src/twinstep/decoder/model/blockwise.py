"""Attention in blocks: O(T) memory, and no work where nobody attends.

    for each chunk of queries:                    forward
        for each chunk of keys from first[i] to last[i]:
            scores; a running maximum, sum and mean         (online softmax)
    for each chunk of keys:                       backward
        for each chunk of queries that may see it:
            scores again; what they say of q, k and v

What may be skipped is found from the smallest and largest numbers of each chunk, before
any score is computed: what is of later blocks, of other examples, beyond the window.
Nothing is assumed about the order of positions: media that look ahead, packed rows and
caches need no case of their own. The backward pass adds in a fixed order and needs no
atomic additions.

Milakov and Gimelshein's online softmax, in Dao et al.'s FlashAttention form; theirs is
one kernel, this is loops of XLA's products.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from twinstep.decoder.model.structure import HIDDEN, Structure, allowed

QUERIES, KEYS = 128, 256
"""Positions of a chunk. Four heads' scores of one are 512 KiB, which a core's cache
holds: a quarter faster than chunks of 256 and 512."""

FAR = 1 << 30


class Way(NamedTuple):
    """What is known when this is compiled."""

    kv_heads: int
    window: int | None
    queries: int
    keys: int


def blockwise(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    window: int | None,
    *,
    chunks: tuple[int, int] = (QUERIES, KEYS),
) -> jax.Array:
    """The backend of attend(): see there for shapes. `chunks`: positions of queries and
    of keys at a time."""
    rows, length, heads, size = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    way = Way(kv_heads, window, min(chunks[0], length), min(chunks[1], k.shape[1]))
    q = by_key_head(_whole(q, way.queries), kv_heads)
    k, v = (by_key_head(_whole(x, way.keys), kv_heads) for x in (k, v))
    queries = Structure(*(_whole(part, way.queries) for part in queries))
    keys = Structure(*(_whole(part, way.keys) for part in keys))
    q = q * jnp.asarray(size**-0.5, q.dtype)
    mixed = jnp.asarray(_mixed(way, q, k, v, queries, keys))
    return by_position(mixed, rows, kv_heads, q.shape[1] // group)[:, :length]


def by_key_head(x: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, H, d] -> [B * K, T * H/K, d]; moves nothing for one key head."""
    rows, length, heads, size = x.shape
    x = x.reshape(rows, length, kv_heads, heads // kv_heads, size)
    return x.swapaxes(1, 2).reshape(rows * kv_heads, -1, size)


def by_position(x: jax.Array, rows: int, kv_heads: int, length: int) -> jax.Array:
    """[B * K, T * H/K, d] -> [B, T, H, d]: by_key_head's inverse."""
    size = x.shape[-1]
    x = x.reshape(rows, kv_heads, length, -1, size)
    return x.swapaxes(1, 2).reshape(rows, length, -1, size)


def _whole(x: jax.Array, chunk: int) -> jax.Array:
    """Zeros (segment 0: padding) appended up to a whole number of chunks."""
    extra = -x.shape[1] % chunk
    return jnp.pad(x, ((0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)))


def needed(queries: Structure, keys: Structure, way: Way) -> jax.Array:
    """Returns bool[query chunks, key chunks]: False where surely nobody attends.

    Numbers of examples count 65,536 blocks each, so that one comparison tells both an
    earlier example and an earlier block of the same."""

    def bounds(numbers: jax.Array, segment: jax.Array, chunk: int):
        numbers = numbers.reshape(len(numbers), -1, chunk)
        real = segment.reshape(numbers.shape) > 0
        low = jnp.where(real, numbers, FAR).min(-1)
        return low, jnp.where(real, numbers, -FAR).max(-1)

    def of(structure: Structure, chunk: int):
        segment, block, position = structure
        numbers = segment, (segment << 16) + block, (segment << 16) + position
        return [bounds(number, segment, chunk) for number in numbers]

    (segment, block, position), key = of(queries, way.queries), of(keys, way.keys)
    (key_segment, key_block, key_position) = key

    def later(low: jax.Array, high: jax.Array) -> jax.Array:
        """[B, query chunks, key chunks]: the queries' part minus the keys'."""
        return low[:, :, None] - high[:, None, :]

    seen = (later(segment[0], key_segment[1]) <= 0) & (
        later(block[1], key_block[0]) >= 0
    )
    if way.window is not None:
        seen &= later(position[0], key_position[1]) < way.window
    return seen.any(0)


def _range(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each row of bool[n, m] the first True and one past the last; 0, 0 of none."""
    first = seen.argmax(1)
    last = seen.shape[1] - seen[:, ::-1].argmax(1)
    return first, jnp.where(seen.any(1), last, 0)


def _cut(x: jax.Array, number: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis=1)


def _scores(
    way: Way,
    q: jax.Array,
    k: jax.Array,
    queries: Structure,
    keys: Structure,
    i: jax.Array,
    j: jax.Array,
) -> jax.Array:
    """float32[B * K, rows, keys] of one chunk of queries (already cut) with one of
    keys."""
    raw = jnp.matmul(q, k.swapaxes(1, 2), preferred_element_type=jnp.float32)
    some = Structure(*(_cut(part, i, way.queries) for part in queries))
    other = Structure(*(_cut(part, j, way.keys) for part in keys))
    seen = allowed(some, other, way.window)[:, None, :, None, :]
    shape = (seen.shape[0], way.kv_heads, way.queries, -1, way.keys)
    return jnp.where(seen, raw.reshape(shape), HIDDEN).reshape(raw.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mixed(
    way: Way,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
) -> jax.Array:
    return _forward(way, q, k, v, queries, keys)[0]


def _forward(
    way: Way,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
):
    first, last = _range(needed(queries, keys, way))
    height = q.shape[1] // queries.segment.shape[1] * way.queries

    def chunk(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = _cut(q, i, height)

        def more(j: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]):
            top, total, mixed = state
            theirs, value = _cut(k, j, way.keys), _cut(v, j, way.keys)
            scores = _scores(way, own, theirs, queries, keys, i, j)
            higher = jnp.maximum(top, scores.max(-1, keepdims=True))
            parts, less = jnp.exp(scores - higher), jnp.exp(top - higher)
            add = jnp.matmul(
                parts.astype(v.dtype), value, preferred_element_type=jnp.float32
            )
            total = total * less + parts.sum(-1, keepdims=True)
            return higher, total, mixed * less + add

        one = jnp.full((*own.shape[:2], 1), HIDDEN, jnp.float32)
        start = one, jnp.zeros_like(one), jnp.zeros(own.shape, jnp.float32)
        top, total, mixed = jax.lax.fori_loop(first[i], last[i], more, start)
        total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
        return mixed / total, top + jnp.log(total)

    mixed, level = jax.lax.map(chunk, jnp.arange(len(first)))
    mixed, level = (
        part.swapaxes(0, 1).reshape(q.shape[0], q.shape[1], -1)
        for part in (mixed, level)
    )
    valid = _valid(way, queries, q)
    mixed = jnp.where(valid, mixed, 0.0).astype(v.dtype)
    # Padding attended to nothing: at this level every part of it is 0.
    level = jnp.where(valid, level, -HIDDEN)
    return mixed, (q, k, v, queries, keys, mixed, level)


def _valid(way: Way, queries: Structure, q: jax.Array) -> jax.Array:
    """bool[B * K, rows of q, 1]: whether the row is of a real position."""
    segment = queries.segment[:, None, :, None]
    rows, length = queries.segment.shape
    group = q.shape[1] // length
    shape = (rows, way.kv_heads, length, group)
    return jnp.broadcast_to(segment > 0, shape).reshape(q.shape[0], -1, 1)


def _backward(way: Way, kept, gradient: jax.Array):
    q, k, v, queries, keys, mixed, level = kept
    first, last = _range(needed(queries, keys, way).T)
    height = q.shape[1] // queries.segment.shape[1] * way.queries
    gradient = gradient.astype(jnp.float32)
    inner = jnp.sum(gradient * mixed, axis=-1, keepdims=True)

    def chunk(d_q: jax.Array, j: jax.Array):
        theirs, value = _cut(k, j, way.keys), _cut(v, j, way.keys)

        def more(i: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]):
            d_q, d_k, d_v = state
            own, d_mixed = _cut(q, i, height), _cut(gradient, i, height)
            scores = _scores(way, own, theirs, queries, keys, i, j)
            parts = jnp.exp(scores - _cut(level, i, height))
            d_parts = jnp.matmul(d_mixed, value.swapaxes(1, 2).astype(jnp.float32))
            d_scores = parts * (d_parts - _cut(inner, i, height))
            d_v += jnp.matmul(parts.swapaxes(1, 2), d_mixed)
            d_k += jnp.matmul(d_scores.swapaxes(1, 2), own.astype(jnp.float32))
            new = _cut(d_q, i, height) + jnp.matmul(
                d_scores, theirs.astype(jnp.float32)
            )
            d_q = jax.lax.dynamic_update_slice_in_dim(d_q, new, i * height, axis=1)
            return d_q, d_k, d_v

        nothing = jnp.zeros(theirs.shape, jnp.float32)
        start = d_q, nothing, nothing
        d_q, d_k, d_v = jax.lax.fori_loop(first[j], last[j], more, start)
        return d_q, (d_k, d_v)

    start = jnp.zeros(q.shape, jnp.float32)
    d_q, pieces = jax.lax.scan(chunk, start, jnp.arange(len(first)))
    d_k, d_v = (piece.swapaxes(0, 1).reshape(k.shape) for piece in pieces)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_mixed.defvjp(_forward, _backward)
