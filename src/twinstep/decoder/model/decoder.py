"""The decoder: tokens and soft tokens in, one vector a position out, and its loss.

    x = where(slot < 0, table[token] * sqrt(D), soft[slot])
    for each layer: x += attention(x); x += mlp(x)
    logits = norm(x) . table^T          tied (Gemma's practice), capped if asked

The report fixes: a decoder, multi-query attention, what goes in, the context. The
embedding's sqrt(D), RoPE with another base in global layers, and the soft cap are
Gemma's published practice.

Small models are unrolled layer by layer; with `scan` each array holds all layers of one
place in the pattern and a loop runs over the pattern's repetitions, recomputing each in
the backward pass: a 32-layer model compiles as one period does.

    layers  [0 .. n]                    unrolled
    periods [place in pattern] x n      scanned
    rest    [layers % pattern]          what no whole period is left for
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.layers import (
    BlockSizes,
    Sight,
    Tree,
    block,
    block_spec,
    rms_norm,
    rope,
)
from twinstep.decoder.model.lookup import lookup, place
from twinstep.decoder.model.placed import placed, share
from twinstep.decoder.model.product import product
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.model.structure import Structure, structure_of
from twinstep.decoder.model.tower import soft_tokens, tower_spec
from twinstep.decoder.spec import Param

LOGITS_MAX = 1 << 23
"""Logits of all rows of a device that exist at once; the loss is taken in chunks of
positions that keep below it (float32: 32 MiB)."""


def decoder_sizes(config: ModelConfig) -> BlockSizes:
    """Sizes of the decoder's blocks."""
    return BlockSizes(
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_size=config.head_size,
        hidden=config.hidden,
        depth=config.layers,
        epsilon=config.norm_epsilon,
    )


def decoder_spec(config: ModelConfig) -> Tree:
    """Returns all parameters of the model, as descriptions."""
    sizes, period = decoder_sizes(config), len(config.pattern)
    spec: Tree = {
        "embed": Param(
            (config.vocabulary, config.width),
            ("vocab", "embed"),
            scale=config.width**-0.5,
        ),
        "tower": tower_spec(config),
        "norm": Param((config.width,), ("embed",), "zeros"),
    }
    if config.scan:
        whole, rest = divmod(config.layers, period)
        spec["periods"] = [block_spec(sizes, whole) for _ in range(period)]
        spec["rest"] = [block_spec(sizes) for _ in range(rest)]
    else:
        spec["layers"] = [block_spec(sizes) for _ in range(config.layers)]
    return spec


def forward(
    params: Tree, batch: Packed, config: ModelConfig, *, backend: str = "auto"
) -> jax.Array:
    """Returns [B, T, D]: each position's vector, normed; see logits()."""
    structure = structure_of(batch)
    sights = sights_of(structure, None, config, backend)
    x = inputs(params, batch, config, backend=backend)
    sizes = decoder_sizes(config)
    if not config.scan:
        for number, layer in enumerate(params["layers"]):
            x, _ = block(layer, x, sizes, sights[config.is_local(number)])
        return rms_norm(params["norm"], x, config.norm_epsilon)

    @jax.checkpoint
    def period(x: jax.Array, layers: list[Tree]) -> tuple[jax.Array, None]:
        for number, layer in enumerate(layers):
            x, _ = block(layer, x, sizes, sights[config.is_local(number)])
        return x, None

    x, _ = jax.lax.scan(period, x, params["periods"])
    for number, layer in enumerate(params["rest"]):
        x, _ = block(layer, x, sizes, sights[config.is_local(number)])
    return rms_norm(params["norm"], x, config.norm_epsilon)


def sights_of(
    queries: Structure, keys: Structure | None, config: ModelConfig, backend: str
) -> dict[bool, Sight]:
    """Returns what local (True) and global (False) layers attend to."""
    sights = {}
    for local in {config.is_local(number) for number in range(config.layers)}:
        base = config.rope_base if local else config.rope_base_global
        sights[local] = Sight(
            queries=queries,
            keys=keys,
            rope=rope(queries.position, config.head_size, base),
            window=config.window if local else None,
            backend=backend,
        )
    return sights


def inputs(
    params: Tree, batch: Packed, config: ModelConfig, *, backend: str = "auto"
) -> jax.Array:
    """Returns [B, T, D]: the tokens' vectors, and soft tokens where slots say so."""
    token, slot = jnp.asarray(batch.token), jnp.asarray(batch.slot)
    table = placed(params["embed"], "vocab", None)
    x = placed(lookup(table, token, config.dtype), "rows", "positions", None)
    x = x * config.width**0.5
    if batch.patch.shape[1] + batch.frame.shape[1] == 0:
        return x
    soft = soft_tokens(params["tower"], batch, config, backend=backend)
    soft = placed(soft, "rows", None, None)
    x = jnp.where((slot < 0)[..., None], x, place(soft, slot))
    return placed(x, "rows", "positions", None)


def layers_of(params: Tree, config: ModelConfig) -> Iterator[Tree]:
    """Yields each layer's parameters in order, cut out of the stacked ones with
    `scan`."""
    if not config.scan:
        yield from params["layers"]
        return
    period = len(config.pattern)
    for number in range(config.layers // period * period):
        stacked = params["periods"][number % period]
        yield jax.tree.map(lambda leaf, n=number // period: leaf[n], stacked)
    yield from params["rest"]


def logits(params: Tree, x: jax.Array, config: ModelConfig) -> jax.Array:
    """Returns float32[..., V] of forward()'s vectors."""
    raw = product(x, params["embed"], over=1, dtype="float32")
    if config.logit_cap is None:
        return raw
    return config.logit_cap * jnp.tanh(raw / config.logit_cap)


def loss(
    params: Tree, batch: Packed, config: ModelConfig, *, backend: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Returns the weighted sum of -log p(token) in nats, each token predicted from the
    position before it, and the sum of the weights."""
    x = forward(params, batch, config, backend=backend)
    nats, _ = token_nats(params, x, batch.token, config)
    weight = jnp.asarray(batch.weight).at[:, 0].set(0.0)
    return jnp.sum(nats * weight), jnp.sum(weight)


def token_nats(
    params: Tree, x: jax.Array, token: Any, config: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns of each position -log p(its token) as the position before it predicts,
    float32[B, T], and whether no other token was more probable, bool[B, T]. Of the
    first positions of rows it returns 0 and False.

    [B, T, V] does not exist for large V: positions come in chunks of which at most
    LOGITS_MAX numbers are there, and the backward pass makes them again."""
    # Whole rows and a last target without meaning: 255 of 256 positions would be
    # copied first.
    target = jnp.roll(jnp.asarray(token), -1, axis=1)
    rows, length = target.shape
    of_position = share((rows, config.vocabulary), "rows", "vocab")
    chunk = max(1, min(length, LOGITS_MAX // of_position))
    # Gathered once and not in each chunk.
    params = {**params, "embed": placed(params["embed"], "vocab", None)}

    def some(x: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        raw = placed(logits(params, x, config), "rows", None, "vocab")
        # A sum and not a gather, whose gradient would be a scatter.
        is_own = jnp.arange(config.vocabulary) == target[..., None]
        own = jnp.sum(jnp.where(is_own, raw, 0.0), axis=-1)
        total = jax.nn.logsumexp(raw, axis=-1)
        return total - own, raw.argmax(-1) == target

    if chunk >= length:
        nats, greedy = some(x, target)
    else:
        nats, greedy = _in_chunks(jax.checkpoint(some), x, target, chunk)
    first = jnp.arange(length) == 0
    return (
        jnp.where(first, 0.0, jnp.roll(nats, 1, axis=1)),
        ~first & jnp.roll(greedy, 1, axis=1),
    )


def _in_chunks(
    some: Any, x: jax.Array, target: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """`some` over chunks of positions, one after the other."""
    rows, length = target.shape
    count = -(-length // chunk)
    extra = count * chunk - length
    x = jnp.pad(x, ((0, 0), (0, extra), (0, 0)))
    target = jnp.pad(target, ((0, 0), (0, extra)))
    pieces = (
        x.reshape(rows, count, chunk, -1).swapaxes(0, 1),
        target.reshape(rows, count, chunk).swapaxes(0, 1),
    )
    nats, greedy = jax.lax.map(lambda piece: some(*piece), pieces)
    return tuple(
        part.swapaxes(0, 1).reshape(rows, -1)[:, :length] for part in (nats, greedy)
    )
