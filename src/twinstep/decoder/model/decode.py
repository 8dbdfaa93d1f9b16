"""What is compiled for sampling and scoring: reading a prompt, saying the next tokens.

    row of the cache:   prompt . . . . | padding | said 0  said 1  said 2 ...
    segment             1 1 1 1 1 1 1 1   0 0 0     1       1       1
    block               0 1 2 2 2 3 4 5   0 0 0     6       7       8

What is said is kept behind the longest prompt of the shape, at the same place in every
row, so that writing is one slice. The numbers of what is not said yet are there
already: its blocks are later than every query's, so nobody attends to it.

Rows share nothing: no result of one depends on what the others hold, nor on which row
it is in. That is what makes a batch's answers those of its items alone.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.decoder import (
    decoder_sizes,
    forward,
    inputs,
    layers_of,
    logits,
    sights_of,
    token_nats,
)
from twinstep.decoder.model.layers import Cached, Tree, block, rms_norm
from twinstep.decoder.model.lookup import lookup
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.model.structure import Structure, structure_of


class Read(NamedTuple):
    """A batch of prompts as the layers keep it. `cache` is of [B, T + room, K, d];
    `raw` float32[B, V] says what comes next, and `last` where that will stand; `front`
    is T."""

    front: jax.Array
    cache: list[Cached]
    keys: Structure
    last: Structure
    raw: jax.Array


class Choice(NamedTuple):
    """How the next token is taken from its logits: noise is of the row's seed and
    number and of the token's own number. Temperature 0 takes the most probable."""

    seed: jax.Array
    number: jax.Array
    temperature: jax.Array


@functools.partial(jax.jit, static_argnames=("config", "room"))
def read(params: Tree, batch: Packed, *, config: ModelConfig, room: int) -> Read:
    """Reads one prompt a row, and makes room for as many tokens behind."""
    structure = structure_of(batch)
    real = structure.segment[:, :1]
    length = structure.segment.sum(1, keepdims=True)
    end = jnp.maximum(length - 1, 0)
    ends = jnp.take_along_axis(structure.block, end, axis=1)
    ahead = jnp.arange(room)
    said = Structure(
        jnp.broadcast_to(real, (len(length), room)), ends + 1 + ahead, length + ahead
    )
    keys = Structure(
        *(jnp.concatenate(pair, 1) for pair in zip(structure, said, strict=True))
    )
    sights = sights_of(structure, None, config, "auto")
    x, cache = inputs(params, batch, config), []
    for number, layer in enumerate(layers_of(params, config)):
        sight = sights[config.is_local(number)]
        x, kept = block(layer, x, decoder_sizes(config), sight)
        cache.append(
            tuple(jnp.pad(part, ((0, 0), (0, room), (0, 0), (0, 0))) for part in kept)
        )
    x = jnp.take_along_axis(x, end[..., None], axis=1)
    x = rms_norm(params["norm"], x, config.norm_epsilon)
    last = Structure(*(part[:, :1] for part in said))
    front = jnp.asarray(structure.segment.shape[1])
    return Read(front, cache, keys, last, logits(params, x, config)[:, 0])


@functools.partial(jax.jit, static_argnames=("config", "steps", "top_k"))
def say(
    params: Tree,
    state: Read,
    choice: Choice,
    said: jax.Array,
    *,
    config: ModelConfig,
    steps: int,
    top_k: int | None,
) -> tuple[jax.Array, Read]:
    """Returns the next int32[B, steps] tokens, `said` of them having been said, and
    what has been read with them."""
    sizes = decoder_sizes(config)

    def one(state: Read, step: jax.Array) -> tuple[Read, jax.Array]:
        token = pick(state.raw, choice, step, top_k)
        sights = sights_of(state.last, state.keys, config, "auto")
        x = lookup(params["embed"], token[:, None], config.dtype) * config.width**0.5
        cache = []
        for number, layer in enumerate(layers_of(params, config)):
            sight = sights[config.is_local(number)]
            x, kept = block(
                layer, x, sizes, sight, state.cache[number], state.front + step
            )
            cache.append(kept)
        x = rms_norm(params["norm"], x, config.norm_epsilon)
        segment, block_, position = state.last
        last = Structure(segment, block_ + 1, position + 1)
        raw = logits(params, x, config)[:, 0]
        return Read(state.front, cache, state.keys, last, raw), token

    state, tokens = jax.lax.scan(one, state, said + jnp.arange(steps))
    return tokens.T, state


def pick(
    raw: jax.Array, choice: Choice, number: jax.Array, top_k: int | None
) -> jax.Array:
    """Returns int32[B]: each row's token of this number, taken from its logits."""
    if top_k is not None:
        least = jax.lax.top_k(raw, top_k)[0][:, -1:]
        raw = jnp.where(raw >= least, raw, -jnp.inf)

    def drawn(raw: jax.Array, seed: jax.Array, row: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), row)
        key = jax.random.fold_in(key, number)
        return jax.random.categorical(key, raw / choice.temperature)

    return jax.lax.cond(
        choice.temperature > 0,
        lambda: jax.vmap(drawn)(raw, choice.seed, choice.number),
        lambda: raw.argmax(-1),
    )


@functools.partial(jax.jit, static_argnames="config")
def judge(
    params: Tree, batch: Packed, *, config: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """Returns token_nats() of the batch: -log p of each token, and whether it was the
    most probable one."""
    return token_nats(params, forward(params, batch, config), batch.token, config)
