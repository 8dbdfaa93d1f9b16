"""Tokens a second of a whole training step, ours against plain Flax NNX.

    python -m benchmarks.decoder_speed [--json FILE] [--preset tiny] [--rounds 9]

Both have the same parameters, batch (text, images and sound, packed) and AdamW; before
anything is measured their losses must be equal. Steps are alternated, one of each a
round in changing order, so that what else the computer does meets both alike; the ratio
is the median of the rounds' ratios. Tokens are positions that are no padding.

Beside it what a step costs that computes almost nothing, with as many small parameters
as a model of 168 has: the Python in front of the device. nnx.jit walks the module at
each call; nnx.cached_partial, which Flax offers against that, is measured too.

Needs flax: pip install 'twinstep[bench]'.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import decoder_reference as reference
from twinstep.decoder.config import ModelConfig, preset
from twinstep.decoder.model.decoder import loss
from twinstep.decoder.model.segments import (
    BOS,
    Audio,
    BatchShape,
    Image,
    Packed,
    Text,
    fill,
    size_of,
)
from twinstep.decoder.train.initial import initial_state
from twinstep.decoder.train.settings import TrainConfig
from twinstep.decoder.train.step import make_step

SHAPE = BatchShape(rows=8, tokens=512, images=64, audio=64)
SMALL = 168
APART_MAX = 1e-5
"""By how much the losses may differ, in parts of 1."""


def make_batch(config: ModelConfig, shape: BatchShape, seed: int = 0) -> Packed:
    """Rows filled with text, an image of 16 x 16 and a short sound each, in turn."""
    draw = np.random.default_rng(seed)
    tower = config.tower

    def example() -> list[Any]:
        side = 2 * tower.patch * tower.pool
        pixels = draw.integers(0, 255, (side, side, tower.channels)).astype(np.uint8)
        frames = draw.normal(-6, 4, (4 * tower.stack, tower.mel)).astype(np.float16)
        words = draw.integers(6, config.vocabulary, 40).tolist()
        parts = [Text([BOS]), Image(pixels), Audio(frames), Text(words, 1.0)]
        return parts

    rows = []
    for _ in range(shape.rows):
        row, used = [], size_of([], tower)
        while True:
            one = example()
            used += size_of(one, tower)
            if not used.fits(shape):
                break
            row.append(one)
        rows.append(row)
    return jax.tree.map(jnp.asarray, fill(rows, shape, tower))


def measure(name: str, *, rounds: int, shape: BatchShape) -> dict[str, Any]:
    """Returns the seconds of steps of both, and the ratio.

    Raises: RuntimeError when they do not compute the same."""
    config = preset(name)
    batch = make_batch(config, shape)
    train = TrainConfig(steps=1000, shape=shape)
    state = initial_state(config, train, 0)
    model = reference.Decoder(config, nnx.Rngs(0))
    reference.copy_params(model, state["params"])
    nats, weight = jax.jit(lambda p, b: loss(p, b, config))(state["params"], batch)
    ours, theirs = (
        float(nats / weight),
        float(nnx.jit(reference.loss)(model, batch)),
    )
    if abs(ours - theirs) > APART_MAX * abs(theirs):
        raise RuntimeError(
            f"a loss of {ours}, and {theirs} in Flax: not the same model"
        )
    optimizer = reference.make_optimizer(model, train.clip, train.learning_rate)
    step = make_step(config, train, donate=True)
    plain = nnx.jit(reference.train_step)

    def our_step() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    def their_step() -> None:
        jax.block_until_ready((plain(model, optimizer, batch), nnx.state(model)))

    seconds = alternated({"ours": our_step, "flax": their_step}, rounds)
    tokens = int(np.sum(np.asarray(batch.segment) > 0))
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["flax"], strict=True)]
    return {
        "preset": name,
        "tokens": tokens,
        "loss": {"ours": ours, "flax": theirs},
        "step_s": {key: statistics.median(of) for key, of in seconds.items()},
        "tokens_per_s": {
            key: tokens / statistics.median(of) for key, of in seconds.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_low": sorted(ratios)[len(ratios) // 4],
        "ratio_high": sorted(ratios)[3 * len(ratios) // 4],
        "rounds": rounds,
        "load": os.getloadavg()[0],
    }


class Small(nnx.Module):
    """So many parameters of 8 x 8."""

    def __init__(self, count: int, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(
            nnx.Linear(8, 8, use_bias=False, rngs=rngs) for _ in range(count)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def dispatch(*, count: int = SMALL, rounds: int = 30) -> dict[str, float]:
    """Returns milliseconds of a step of forward, backward and Adam on small arrays."""
    model = Small(count, nnx.Rngs(0))
    x, adam = jnp.ones((1, 8)), optax.adam(1e-3)
    optimizer = nnx.Optimizer(model, adam, wrt=nnx.Param)

    def theirs(model: Small, optimizer: nnx.Optimizer, x: jax.Array) -> jax.Array:
        take = nnx.value_and_grad(lambda model: jnp.sum(model(x) ** 2))
        value, gradients = take(model)
        optimizer.update(model, gradients)
        return value

    def value_of(params: list[jax.Array], x: jax.Array) -> jax.Array:
        for weight in params:
            x = jnp.tanh(x @ weight)
        return jnp.sum(x**2)

    @jax.jit
    def step(params: list[jax.Array], moments: Any, x: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(value_of)(params, x)
        updates, moments = adam.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    params = [jnp.array(layer.kernel.get_value()) for layer in model.layers]
    kept: Any = (params, adam.init(params))
    walked = nnx.jit(theirs)

    def our_step() -> None:
        nonlocal kept
        *kept, value = step(*kept, x)
        jax.block_until_ready(value)

    cached = nnx.cached_partial(nnx.jit(theirs), model, optimizer)
    ways = {
        "ours": our_step,
        "nnx.jit": lambda: jax.block_until_ready(walked(model, optimizer, x)),
        "nnx.cached_partial": lambda: jax.block_until_ready(cached(x)),
    }
    found = alternated(ways, rounds)
    return {name: 1e3 * statistics.median(times) for name, times in found.items()}


def alternated(
    ways: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each way in each round, after two that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        names = list(ways)
        for name in names if number % 2 else reversed(names):
            began = time.perf_counter()
            ways[name]()
            if number >= 2:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(found: dict[str, Any]) -> Table:
    title = (
        f"{found['preset']}: {found['tokens']} tokens a step, forward, backward and "
        f"AdamW; load {found['load']:.1f}"
    )
    drawn = Table("", "ours", "Flax NNX", "ratio", title=title)
    step, rate = found["step_s"], found["tokens_per_s"]
    spread = (
        f"{found['ratio']:.2f} ({found['ratio_low']:.2f}-{found['ratio_high']:.2f})"
    )
    drawn.add_row("step, s", f"{step['ours']:.3f}", f"{step['flax']:.3f}", spread)
    drawn.add_row("tokens/s", f"{rate['ours']:,.0f}", f"{rate['flax']:,.0f}", "")
    if dispatched := found.get("dispatch_ms"):
        ours, walked = dispatched["ours"], dispatched["nnx.jit"]
        what = f"dispatch, {SMALL} parameters, ms"
        drawn.add_row(what, f"{ours:.1f}", f"{walked:.1f}", f"{walked / ours:.1f}")
        cached = dispatched["nnx.cached_partial"]
        drawn.add_row(
            "  with cached_partial", "", f"{cached:.1f}", f"{cached / ours:.1f}"
        )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=SHAPE.rows)
    parser.add_argument("--tokens", type=int, default=SHAPE.tokens)
    parser.add_argument("--no-dispatch", action="store_true")
    options = parser.parse_args()
    soft = max(8, options.tokens // 8)
    shape = BatchShape(
        rows=options.rows, tokens=options.tokens, images=soft, audio=soft
    )
    found = measure(options.preset, rounds=options.rounds, shape=shape)
    if not options.no_dispatch:
        found["dispatch_ms"] = dispatch()
    Console().print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
