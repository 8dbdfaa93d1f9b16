"""A model of a few thousand parameters, and examples of every mix of media for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from twinstep.decoder import spec
from twinstep.decoder.config import ModelConfig, TowerConfig
from twinstep.decoder.model.decoder import decoder_spec
from twinstep.decoder.model.segments import BOS, EOS, Audio, Image, Segment, Text

TOWER = TowerConfig(
    patch=2, pool=2, mel=4, stack=3, width=16, layers=1, hidden=16, grid=8, frames=60
)
SMALL = ModelConfig(
    name="small",
    vocabulary=48,
    width=32,
    layers=2,
    heads=2,
    hidden=48,
    head_size=16,
    pattern="LG",
    window=5,
    context=128,
    tower=TOWER,
)


@functools.cache
def initial(config: ModelConfig, seed: int = 0):
    """Parameters as spec.init() makes them, but by NumPy: nothing to compile."""
    random = np.random.default_rng(seed)

    def made(param: spec.Param) -> jax.Array:
        if param.init != "normal":
            return jnp.asarray(np.full(param.shape, param.init == "ones", np.float32))
        scale = param.scale or param.shape[0] ** -0.5
        return jnp.asarray(random.normal(0, scale, param.shape).astype(np.float32))

    return spec.walk(made, decoder_spec(config))


def text(random: np.random.Generator, size: int, weight: float = 1.0) -> Text:
    return Text([int(n) for n in random.integers(6, 48, size)], weight)


def image(random: np.random.Generator, height: int = 4, width: int = 4) -> Image:
    return Image(random.integers(0, 256, (height, width, 1)).astype(np.uint8))


def sound(random: np.random.Generator, frames: int) -> Audio:
    return Audio(random.normal(-6, 4, (frames, 4)).astype(np.float16))


def mixes(seed: int = 0) -> list[list[Segment]]:
    """Text alone, images of three sizes, sounds of whole and broken length, a video."""
    random = np.random.default_rng(seed)
    start, end = Text([BOS]), Text([EOS], 1.0)
    return [
        [start, text(random, 7), end],
        [start, image(random), text(random, 3), end],
        [start, text(random, 2), sound(random, 7), text(random, 2), end],
        [start, image(random, 6, 9), image(random, 4, 4), text(random, 2), end],
        [start, sound(random, 9), image(random, 3, 8), text(random, 1), end],
        [
            start,
            *(part for _ in range(3) for part in (text(random, 1), image(random))),
            text(random, 2),
            end,
        ],
    ]
