"""ONE bidirectional encoder for patches of images, frames of videos and sound.

    patch [S, k, P] -- linear + row + column --\
                                                blocks, within one image or sound
    frame [A, r * M] -- linear + time ---------/        |
                                                        v
    soft tokens [S + A, D]  <- linear <- norm <- the k patches of a slot side by side

All images and sounds of a row are one sequence; the number of the image or sound says
who attends to whom, as segments do in the decoder (NaViT's practice: any number of
images of any size in one compiled shape). Rows and columns have learned vectors that
are added (factorised positions, NaViT's practice); times are sines (the Transformer's
and Whisper's). The patches of a soft token are put side by side before the projection
to the decoder's width rather than averaged, as Gemma 3 does: at these sizes (a digit of
8 x 8 pixels is one soft token) an average loses where a stroke was. The frames of a
soft token are put side by side before the blocks. Report: the encoding is "inspired by"
Flamingo, CoCa and PaLI, and sound comes as features of USM; there is no USM here, sound
is log-mel and learnt with the rest. Depth 0 leaves the two linear maps.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from twinstep.decoder.config import ModelConfig, TowerConfig
from twinstep.decoder.model.layers import (
    BlockSizes,
    Sight,
    Tree,
    block,
    block_spec,
    project,
    rms_norm,
)
from twinstep.decoder.model.lookup import lookup
from twinstep.decoder.model.placed import placed
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.model.structure import Structure
from twinstep.decoder.spec import Param

MEL_MEAN, MEL_SCALE = -13.0, 5.0
"""What is taken from a log-mel bin and what it is divided by. Words of a synthesiser
had mean -15 and deviation 5.3 with the silence around them (model/audio.py)."""

SOUND = 1 << 20
"""Added to a sound's number, so that no image has it."""


def tower_sizes(config: ModelConfig) -> BlockSizes:
    """Sizes of the tower's blocks: one key head as in the decoder (own choice)."""
    tower = config.tower
    return BlockSizes(
        width=tower.width,
        heads=tower.heads,
        kv_heads=1,
        head_size=tower.width // tower.heads,
        hidden=tower.hidden,
        depth=max(tower.layers, 1),
        epsilon=config.norm_epsilon,
        tower=True,
    )


def tower_spec(config: ModelConfig) -> Tree:
    """Returns the tower's parameters."""
    tower = config.tower
    width, out = tower.width, config.width
    bins = tower.stack * tower.mel

    def linear(rows: int, columns: int, axes: tuple[str | None, str]) -> Param:
        return Param((rows, columns), axes)

    def places(count: int) -> Param:
        return Param((count, width), (None, "tower"), scale=0.5)

    return {
        "image": {
            "embed": linear(tower.pixels, width, (None, "tower")),
            "row": places(tower.grid),
            "column": places(tower.grid),
            "norm": Param((tower.window * width,), ("tower",), "zeros"),
            "out": linear(tower.window * width, out, (None, "embed")),
        },
        "audio": {
            "embed": linear(bins, width, (None, "tower")),
            "norm": Param((width,), ("tower",), "zeros"),
            "out": linear(width, out, (None, "embed")),
        },
        "layers": [block_spec(tower_sizes(config)) for _ in range(tower.layers)],
    }


def soft_tokens(
    params: Tree, batch: Packed, config: ModelConfig, *, backend: str = "auto"
) -> jax.Array:
    """Returns [B, S + A, D]: what the decoder reads at soft positions. Slots that no
    image or sound fills hold numbers without meaning; nothing reads them."""
    tower = config.tower
    rows, images, k = batch.patch.shape[:3]
    sounds = batch.frame.shape[1]
    parts, docs = [], []
    if images:
        parts.append(_patches(params["image"], batch, config))
        docs.append(jnp.repeat(jnp.asarray(batch.patch_doc), k, axis=1))
    if sounds:
        parts.append(_frames(params["audio"], batch, config))
        number = jnp.asarray(batch.frame_doc)
        docs.append(jnp.where(number > 0, number + SOUND, 0))
    x, doc = (
        placed(jnp.concatenate(parts, axis=1), "rows", None, None),
        jnp.concatenate(docs, axis=1),
    )
    nowhere = jnp.zeros_like(doc)
    sight = Sight(queries=Structure(doc, nowhere, nowhere), backend=backend)
    for layer in params["layers"]:
        x, _ = block(layer, x, tower_sizes(config), sight)
    seen = x[:, : images * k].reshape(rows, images, k * tower.width)
    heard = x[:, images * k :]
    epsilon = config.norm_epsilon
    soft = [
        project(rms_norm(own["norm"], part, epsilon), own["out"])
        for own, part in ((params["image"], seen), (params["audio"], heard))
        if part.shape[1]
    ]
    return jnp.concatenate(soft, axis=1)


def _patches(params: Tree, batch: Packed, config: ModelConfig) -> jax.Array:
    """[B, S * k, W] of the patches and where they lie."""
    rows, _, _, pixels = batch.patch.shape
    value = jnp.asarray(batch.patch).astype(config.dtype) / 127.5 - 1.0
    x = project(value.reshape(rows, -1, pixels), params["embed"])
    place = jnp.asarray(batch.patch_at).reshape(rows, -1, 2)
    row = lookup(params["row"], place[..., 0], config.dtype)
    column = lookup(params["column"], place[..., 1], config.dtype)
    return x + placed(row, "rows", None, None) + placed(column, "rows", None, None)


def _frames(params: Tree, batch: Packed, config: ModelConfig) -> jax.Array:
    """[B, A, W] of the stacked frames and their times; frames that are missing to a
    whole soft token are 0 after normalisation."""
    rows, sounds = batch.frame.shape[:2]
    value = (jnp.asarray(batch.frame).astype(jnp.float32) - MEL_MEAN) / MEL_SCALE
    time = jnp.asarray(batch.frame_at)
    value = jnp.where((time >= 0)[..., None], value, 0.0)
    x = project(value.reshape(rows, sounds, -1).astype(config.dtype), params["embed"])
    return x + sines(time[..., 0], config.tower).astype(x.dtype)


def sines(time: jax.Array, tower: TowerConfig) -> jax.Array:
    """Returns float32[..., W]: sines and cosines of the time in frames at rates from 1
    to 1/10,000 of a radian per soft token."""
    half = tower.width // 2
    rate = jnp.exp(-math.log(10_000.0) * jnp.arange(half) / max(half - 1, 1))
    angle = (time / tower.stack).astype(jnp.float32)[..., None] * rate
    both = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(both, [(0, 0)] * (both.ndim - 1) + [(0, tower.width % 2)])
