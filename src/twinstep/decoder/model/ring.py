"""Attention over many devices: heads apart, and keys passed around a ring.

Rows lie along pod and data, heads along model, positions along context. Each device
keeps its queries; keys and values, with what they say of themselves, go from neighbour
to neighbour until each has been everywhere:

    device            0        1        2        3
    first turn        k0       k1       k2       k3
    second            k3       k0       k1       k2       each attends to what it has
    ...                                                   and adds it to what it had

A part's result is kept with the largest score and the sum below the line, so that parts
add up to what one softmax over all keys gives (Liu et al., Ring Attention; the merging
is FlashAttention's). Passing on the next keys does not depend on attending to these:
where the hardware can, both happen at once.

With one device along context this is another backend with its heads apart, which the
partitioner would not find by itself: they fold heads into positions.

Left out: dealing positions so that all devices have equal work. With a causal structure
the first device attends to one part, the last to all; the ring is as slow as the last.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from twinstep.decoder.model.attention import attend
from twinstep.decoder.model.blockwise import KEYS
from twinstep.decoder.model.placed import spec_of
from twinstep.decoder.model.structure import HIDDEN, Structure, allowed
from twinstep.errors import UsageError

Part = tuple[jax.Array, jax.Array, jax.Array]
"""Mixed values [B, T, H, d], largest score and sum of exponentials [B, T, H]."""


def ring(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    window: int | None,
    *,
    chunk: int = KEYS,
) -> jax.Array:
    """Returns what attention.reference does, for arrays over the mesh that is set
    (shard.on). What an axis does not divide (one key head, an image's few positions) is
    whole on every device of that axis. `chunk`: keys at a time.

    Raises: UsageError when no mesh with these axes is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise UsageError(
            "attention backend 'ring', and no mesh is set; call it within "
            "shard.on(mesh), or use another backend"
        )
    turns = mesh.shape["context"]
    apart = q.shape[1] % turns == k.shape[1] % turns == 0
    positions = "positions" if apart else None
    # A device's queries must not belong to several of its key heads.
    fits = k.shape[2] == 1 or k.shape[2] % mesh.shape["model"] == 0
    of_queries = spec_of(q.shape, ("rows", positions, "heads" if fits else None, None))
    of_keys = spec_of(k.shape, ("rows", positions, "heads", None))
    of_structure = PartitionSpec(*of_queries[:2])
    return jax.shard_map(
        functools.partial(_turns, turns=turns, chunk=chunk, window=window)
        if apart and turns > 1
        else functools.partial(_alone, window=window),
        mesh=mesh,
        in_specs=(of_queries, of_keys, of_keys, of_structure, of_structure),
        out_specs=of_queries,
        check_vma=False,
    )(q, k, v, queries, keys)


def _turns(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    *,
    turns: int,
    chunk: int,
    window: int | None,
) -> jax.Array:
    """What one device does in a ring."""
    attended = functools.partial(part_of, chunk=min(chunk, k.shape[1]), window=window)
    found = attended(q, k, v, queries, keys)
    pairs = [(source, (source + 1) % turns) for source in range(turns)]

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        found, held = carry
        held = jax.lax.ppermute(held, "context", pairs)
        here_k, here_v, here_keys = held
        more = attended(q, here_k, here_v, queries, here_keys)
        return (merged(found, more), held), None

    (found, _), _ = jax.lax.scan(turn, (found, (k, v, keys)), length=turns - 1)
    mixed, _, total = found
    return (mixed / jnp.where(total > 0, total, 1.0)[..., None]).astype(v.dtype)


def _alone(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    *,
    window: int | None,
) -> jax.Array:
    """What one device does that has all positions."""
    return attend(q, k, v, queries, keys, window=window)


def part_of(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    *,
    chunk: int,
    window: int | None,
) -> Part:
    """Returns what the queries find in these keys, not yet divided by its sum. Scores
    of one chunk of keys exist at a time; the backward pass makes them again."""
    extra = -k.shape[1] % chunk
    some = jax.checkpoint(functools.partial(_chunk, window=window))

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def add(found: Part, piece: Any) -> tuple[Part, None]:
        return merged(found, some(q, *piece[:2], queries, piece[2])), None

    lowest = jnp.full(q.shape[:3], HIDDEN, jnp.float32)
    nothing = jnp.zeros(q.shape, jnp.float32), lowest, jnp.zeros_like(lowest)
    return jax.lax.scan(add, nothing, jax.tree.map(cut, (k, v, keys)))[0]


def _chunk(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    queries: Structure,
    keys: Structure,
    *,
    window: int | None,
) -> Part:
    rows, length, heads, size = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(rows, length, kv_heads, heads // kv_heads, size)
    scores = jnp.einsum("btkgd,bskd->btkgs", q, k, preferred_element_type=jnp.float32)
    seen = allowed(queries, keys, window)[:, :, None, None, :]
    scores = jnp.where(seen, scores * size**-0.5, HIDDEN)
    top = jax.lax.stop_gradient(scores.max(-1))
    # Where nothing here is seen, all scores are HIDDEN and would each count as 1.
    parts = jnp.where(seen, jnp.exp(scores - top[..., None]), 0.0)
    mixed = jnp.einsum(
        "btkgs,bskd->btkgd",
        parts.astype(v.dtype),
        v,
        preferred_element_type=jnp.float32,
    )
    flat = (rows, length, heads)
    return mixed.reshape(*flat, size), top.reshape(flat), parts.sum(-1).reshape(flat)


def merged(one: Part, other: Part) -> Part:
    """Returns what both found, as if in one go."""
    top = jnp.maximum(one[1], other[1])
    first, second = jnp.exp(one[1] - top), jnp.exp(other[1] - top)
    mixed = one[0] * first[..., None] + other[0] * second[..., None]
    return mixed, top, one[2] * first + other[2] * second
