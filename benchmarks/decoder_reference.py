"""The same decoder as twinstep.decoder's, written plainly in Flax NNX.

What one writes who knows Flax and wants this model: modules, nnx.Linear and nnx.Einsum,
a dense mask, jax.nn's attention, an nnx.Optimizer, nnx.jit. Sizes, batch and maths are
the same (copy_params() gives it our parameters, and then the loss is the same), so that
benchmarks.decoder_speed compares two ways to write one computation.

flax is for benchmarks only: pip install 'twinstep[bench]'.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.model.tower import MEL_MEAN, MEL_SCALE, SOUND


class Attention(nnx.Module):
    """Multi-query attention with QK-norm, and rotary positions where given."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        size: int,
        epsilon: float,
        rngs: nnx.Rngs,
    ) -> None:
        def project(count: int) -> nnx.Einsum:
            return nnx.Einsum("btd,dhk->bthk", (width, count, size), rngs=rngs)

        self.query, self.key, self.value = map(project, (heads, kv_heads, kv_heads))
        self.out = nnx.Einsum("bthk,hkd->btd", (heads, size, width), rngs=rngs)
        self.query_norm = nnx.RMSNorm(size, epsilon=epsilon, rngs=rngs)
        self.key_norm = nnx.RMSNorm(size, epsilon=epsilon, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, turn: tuple[jax.Array, ...] | None
    ) -> jax.Array:
        q, k, v = self.query(x), self.key(x), self.value(x)
        q, k = self.query_norm(q), self.key_norm(k)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        return self.out(jax.nn.dot_product_attention(q, k, v, mask=mask[:, None]))


class Block(nnx.Module):
    """Attention and a gated MLP, each after a norm."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        kv_heads: int,
        size: int,
        hidden: int,
        epsilon: float,
        rngs: nnx.Rngs,
    ) -> None:
        self.attention_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.attention = Attention(width, heads, kv_heads, size, epsilon, rngs)
        self.mlp_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, turn: tuple[jax.Array, ...] | None = None
    ) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask, turn)
        y = self.mlp_norm(x)
        return x + self.down(nnx.gelu(self.gate(y)) * self.up(y))


class Tower(nnx.Module):
    """Patches and frames to soft tokens."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        tower, epsilon = config.tower, config.norm_epsilon
        width, window = tower.width, tower.window * tower.width

        def linear(size: int, out: int) -> nnx.Linear:
            return nnx.Linear(size, out, use_bias=False, rngs=rngs)

        self.width = width
        self.stack = tower.stack
        self.image_embed = linear(tower.pixels, width)
        self.row = nnx.Embed(tower.grid, width, rngs=rngs)
        self.column = nnx.Embed(tower.grid, width, rngs=rngs)
        self.image_norm = nnx.RMSNorm(window, epsilon=epsilon, rngs=rngs)
        self.image_out = linear(window, config.width)
        self.audio_embed = linear(tower.stack * tower.mel, width)
        self.audio_norm = nnx.RMSNorm(width, epsilon=epsilon, rngs=rngs)
        self.audio_out = linear(width, config.width)
        self.layers = nnx.List(
            Block(
                width=width,
                heads=tower.heads,
                kv_heads=1,
                size=width // tower.heads,
                hidden=tower.hidden,
                epsilon=epsilon,
                rngs=rngs,
            )
            for _ in range(tower.layers)
        )

    def __call__(self, batch: Packed) -> jax.Array:
        rows, images, k, pixels = batch.patch.shape
        sounds = batch.frame.shape[1]
        at = batch.patch_at.reshape(rows, -1, 2)
        patches = batch.patch.reshape(rows, -1, pixels).astype(jnp.float32)
        seen = self.image_embed(patches / 127.5 - 1.0)
        seen += self.row(at[..., 0]) + self.column(at[..., 1])
        time = batch.frame_at
        frames = (batch.frame.astype(jnp.float32) - MEL_MEAN) / MEL_SCALE
        frames = jnp.where((time >= 0)[..., None], frames, 0.0)
        heard = self.audio_embed(frames.reshape(rows, sounds, -1))
        heard += sines(time[..., 0] / self.stack, self.width)
        number = batch.frame_doc
        doc = jnp.concatenate(
            [
                jnp.repeat(batch.patch_doc, k, axis=1),
                jnp.where(number > 0, number + SOUND, 0),
            ],
            axis=1,
        )
        x = jnp.concatenate([seen, heard], axis=1)
        mask = (doc[:, :, None] == doc[:, None, :]) & (doc > 0)[:, :, None]
        for layer in self.layers:
            x = layer(x, mask)
        seen = x[:, : images * k].reshape(rows, images, -1)
        return jnp.concatenate(
            [
                self.image_out(self.image_norm(seen)),
                self.audio_out(self.audio_norm(x[:, images * k :])),
            ],
            axis=1,
        )


class Decoder(nnx.Module):
    """The whole model; returns logits [B, T, V]."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.tower = Tower(config, rngs)
        self.layers = nnx.List(
            Block(
                width=config.width,
                heads=config.heads,
                kv_heads=config.kv_heads,
                size=config.head_size,
                hidden=config.hidden,
                epsilon=config.norm_epsilon,
                rngs=rngs,
            )
            for _ in range(config.layers)
        )
        self.norm = nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, rngs=rngs)

    def __call__(self, batch: Packed) -> jax.Array:
        config = self.config
        soft = jnp.take_along_axis(
            self.tower(batch), jnp.maximum(batch.slot, 0)[..., None], axis=1
        )
        x = self.embed(batch.token) * math.sqrt(config.width)
        x = jnp.where((batch.slot < 0)[..., None], x, soft)
        segment, block, position = batch.segment, batch.block, batch.position
        mask = (
            (segment[:, :, None] == segment[:, None, :])
            & (segment > 0)[:, :, None]
            & (block[:, None, :] <= block[:, :, None])
        )
        near = position[:, :, None] - position[:, None, :] < config.window
        for number, layer in enumerate(self.layers):
            local = config.is_local(number)
            base = config.rope_base if local else config.rope_base_global
            turn = angles(position, config.head_size, base)
            x = layer(x, mask & near if local else mask, turn)
        return self.embed.attend(self.norm(x))


def angles(position: jax.Array, size: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary positions, [B, T, 1, size / 2]."""
    rate = base ** (-jnp.arange(0, size, 2) / size)
    angle = position[..., None, None] * rate
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x with its halves turned against each other."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1)


def sines(time: jax.Array, width: int) -> jax.Array:
    """Sinusoidal times, [B, A, width]."""
    half = width // 2
    rate = jnp.exp(-math.log(10_000.0) * jnp.arange(half) / max(half - 1, 1))
    angle = time[..., None] * rate
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def loss(model: Decoder, batch: Packed) -> jax.Array:
    """Nats a token that counts."""
    logits, target = model(batch)[:, :-1], batch.token[:, 1:]
    weight = batch.weight[:, 1:]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    return jnp.sum(nats * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def make_optimizer(model: nnx.Module, clip: float, rate: float) -> nnx.Optimizer:
    """AdamW with clipping, as train/step.py has it."""
    chain = optax.chain(
        optax.clip_by_global_norm(clip), optax.adamw(rate, b2=0.95, weight_decay=0.1)
    )
    return nnx.Optimizer(model, chain, wrt=nnx.Param)


def train_step(model: Decoder, optimizer: nnx.Optimizer, batch: Packed) -> jax.Array:
    """One step in place; returns the loss. For nnx.jit."""
    value, gradients = nnx.value_and_grad(loss)(model, batch)
    optimizer.update(model, gradients)
    return value


def copy_params(model: Decoder, params: dict[str, Any]) -> None:
    """The model has our parameters (of a config without `scan`)."""

    def weight(layer: Any, value: jax.Array) -> None:
        found = layer.kernel
        assert found.get_value().shape == value.shape, (layer, value.shape)
        found.set_value(value)

    def norm(layer: nnx.RMSNorm, value: jax.Array) -> None:
        layer.scale.set_value(1.0 + value)

    def block(layer: Block, ours: dict[str, Any]) -> None:
        attention, mlp = ours["attention"], ours["mlp"]
        norm(layer.attention_norm, attention["norm"])
        norm(layer.mlp_norm, mlp["norm"])
        norm(layer.attention.query_norm, attention["query_norm"])
        norm(layer.attention.key_norm, attention["key_norm"])
        for name in ("query", "key", "value", "out"):
            weight(getattr(layer.attention, name), attention[name])
        for name in ("gate", "up", "down"):
            weight(getattr(layer, name), mlp[name])

    model.embed.embedding.set_value(params["embed"])
    norm(model.norm, params["norm"])
    tower, ours = model.tower, params["tower"]
    for name in ("image", "audio"):
        weight(getattr(tower, f"{name}_embed"), ours[name]["embed"])
        weight(getattr(tower, f"{name}_out"), ours[name]["out"])
        norm(getattr(tower, f"{name}_norm"), ours[name]["norm"])
    tower.row.embedding.set_value(ours["image"]["row"])
    tower.column.embedding.set_value(ours["image"]["column"])
    for layer, given in zip(tower.layers, ours["layers"], strict=True):
        block(layer, given)
    for layer, given in zip(model.layers, params["layers"], strict=True):
        block(layer, given)
