"""The loop in JAX that benchmarks/jax_steps.py times; `twinstep run` starts it.

The state is a stack of square matrices with two moments each, of the size asked for;
the batch is chosen at start so that a step takes the time asked for. After every update
the loop reads the loss, as most do, so that a step ends when it has been computed. It
runs in blocks of steps of one kind:

    none      nothing is kept
    twinstep  session.after_step after every update
    copy      numpy.copyto of the whole state, at every step, while training waits

--donate gives the state's memory to the next update; --fence calls session.fence()
before each. All kinds come once in each round, in an order drawn anew; the first step
of a block is not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy

import twinstep
from benchmarks.pairs import alternated, memcpy, seconds, touched_slot
from twinstep.adapters.jax import JaxState

KINDS = ("none", "twinstep", "copy")
SETTLE_S_MAX = 2.0
ROWS_MIN, ROWS_MAX = 16, 1 << 16
CHUNK_BYTES = 512 * 1024


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--tensors", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="counted, a block")
    parser.add_argument("--donate", action="store_true")
    parser.add_argument("--fence", action="store_true")
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


def update(state: dict[str, Any], batch: jax.Array) -> tuple[dict[str, Any], jax.Array]:
    def loss(weights: list[jax.Array]) -> jax.Array:
        x = batch
        for weight in weights:
            x = x + jnp.tanh(x @ weight)
        return jnp.square(x).mean()

    found, slopes = jax.value_and_grad(loss)(state["weights"])
    tree = jax.tree.map
    mean = tree(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], slopes)
    square = tree(lambda s, g: 0.99 * s + 0.01 * g * g, state["square"], slopes)
    weights = tree(
        lambda w, m, s: w - 1e-5 * m / (jnp.sqrt(s) + 1e-8),
        state["weights"],
        mean,
        square,
    )
    return {"weights": weights, "mean": mean, "square": square}, found


class Training:
    """The state, its update and the session that keeps it."""

    def __init__(self, args: argparse.Namespace) -> None:
        layers = max(1, args.tensors // 3)
        self.width = round((args.megabytes * 1e6 / 4 / 3 / layers) ** 0.5)
        keys = jax.random.split(jax.random.key(0), layers)
        weights = [0.01 * jax.random.normal(k, (self.width, self.width)) for k in keys]
        zeros = [jnp.zeros_like(weight) for weight in weights]
        squares = list(map(jnp.copy, zeros))
        state = {"weights": weights, "mean": zeros, "square": squares}
        self.update = jax.jit(update, donate_argnums=0 if args.donate else ())
        self.fences = args.fence
        self.session = twinstep.Session()
        self.state, self.reached = self.session.restore(like=state)
        self.batch = jnp.ones((ROWS_MIN, self.width))
        leaves = jax.tree.leaves(state)
        self.copies = [numpy.zeros(leaf.shape, numpy.float32) for leaf in leaves]
        self.size = sum(leaf.nbytes for leaf in leaves)

    def step(self, kind: str) -> float:
        """Returns for how long the loop was blocked after, or before, the update."""
        blocked_s = 0.0
        if kind == "twinstep" and self.fences:
            blocked_s += seconds(self.session.fence)
        self.state, loss = self.update(self.state, self.batch)
        if kind == "twinstep":
            self.reached += 1
            blocked_s += seconds(
                partial(self.session.after_step, self.reached, self.state)
            )
        loss.block_until_ready()
        if kind == "copy":
            blocked_s += seconds(self.copy)
        return blocked_s

    def copy(self) -> None:
        leaves = jax.tree.leaves(self.state)
        for copy, leaf in zip(self.copies, leaves, strict=True):
            numpy.copyto(copy, numpy.asarray(leaf.addressable_data(0)))

    def choose_batch(self, step_s: float) -> None:
        """A step takes about `step_s` afterwards."""
        rows, took_s = ROWS_MIN, self._took_s(ROWS_MIN)
        while took_s < step_s / 2 and rows < ROWS_MAX:
            rows *= 2
            took_s = self._took_s(rows)
        rows = max(ROWS_MIN, min(ROWS_MAX, round(rows * step_s / took_s)))
        self._took_s(rows)

    def _took_s(self, rows: int) -> float:
        self.batch = jnp.ones((rows, self.width))
        self.step("none")  # compiles
        return min(seconds(partial(self.step, "none")) for _ in range(2))

    def settle(self) -> None:
        """What was told is captured, or skipped; its copies have a moment more."""
        until_s = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < until_s:
            known = self.session.statistics()
            if known.captured + known.skipped >= known.steps:
                break
            time.sleep(0.01)
        time.sleep(0.3)


def run_block(training: Training, *, kind: str, steps: int) -> dict[str, float]:
    steps_s: list[float] = []
    blocked_s: list[float] = []
    for _ in range(steps + 1):
        began_s = time.perf_counter()
        blocked_s.append(training.step(kind))
        steps_s.append(time.perf_counter() - began_s)
    if kind == "twinstep":
        training.settle()
    return {
        "step_s": statistics.median(steps_s[1:]),
        "blocked_s": statistics.median(blocked_s[1:]),
        "blocked_share": sum(blocked_s[1:]) / sum(steps_s[1:]),
    }


def capture(state: Any, size: int, *, pairs: int) -> dict[str, float]:
    """Returns how fast a computed state comes into a slot, over one-thread memcpy."""
    adapter = JaxState({})
    adapter.offer(state)
    layout = adapter.layout()
    own, empty = touched_slot(layout.own_bytes), memoryview(bytearray())
    target = touched_slot(size)
    leaves = [numpy.asarray(leaf) for leaf in jax.tree.leaves(state)]
    place = numpy.frombuffer(target, numpy.uint8).ctypes.data
    sources: list[tuple[int, int, int]] = []
    for leaf in leaves:
        sources.append((place, leaf.ctypes.data, leaf.nbytes))
        place += leaf.nbytes

    def plainly() -> None:
        for source in sources:
            memcpy(*source)

    def captured() -> None:
        held = adapter.hold(1)
        adapter.copy(held, own=own, shared=empty, shared_range=range(0))()

    return alternated(captured, plainly, pairs=pairs, size=size)


def main() -> None:
    args = options()
    training = Training(args)
    training.choose_batch(args.step_s)
    for _ in range(3):  # slots are reserved, and a loop that donates is noticed
        training.step("twinstep")
        training.settle()
    first = training.session.statistics()
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        order: list[Callable[..., Any] | Any] = random.Random(number).sample(
            KINDS, len(KINDS)
        )
        rounds.append(
            {kind: run_block(training, kind=kind, steps=args.steps) for kind in order}
        )
    last = training.session.statistics()
    result = {
        "bytes": training.size,
        "tensors": len(training.copies),
        "rows": len(training.batch),
        "told": last.steps - first.steps,
        "captured": last.captured - first.captured,
        "skipped": last.skipped - first.skipped,
        "rounds": rounds,
        "capture": capture(training.state, training.size, pairs=4 * args.rounds),
    }
    args.result.write_text(json.dumps(result))
    training.session.close()


if __name__ == "__main__":
    main()
