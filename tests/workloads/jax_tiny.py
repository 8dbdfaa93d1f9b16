"""A training script in JAX of the size of a test: prints a digest of its final state.

Works with and without agents, in one process or many. `dp` replicates the state, `fsdp`
shards it over the processes, `hsdp` over each half of them; with --donate the update
takes the state's memory."""

from __future__ import annotations

import argparse
import hashlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy
from jax.sharding import NamedSharding, PartitionSpec

import twinstep

ROWS = 8


class Compiled:
    """How many programs this process asked its cache for, and found there."""

    def __init__(self) -> None:
        self.asked = self.found = 0
        jax.monitoring.register_event_listener(self.hear)

    def hear(self, event: str, **_: object) -> None:
        self.asked += event.endswith("/compile_requests_use_cache")
        self.found += event.endswith("/cache_hits")


def digest(state: Any) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            found.update(numpy.asarray(shard.data).tobytes())
    return found.hexdigest()[:16]


def show_rows(step: int, array: jax.Array) -> None:
    """Prints the rows of an array that this process holds, each with its number."""
    for shard in array.addressable_shards:
        first = shard.index[0].start or 0
        for at, row in enumerate(numpy.asarray(shard.data), first):
            print(f"step {step} row {at} {row.tobytes().hex()}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--style", choices=("dp", "fsdp", "hsdp"), default="dp")
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--donate", action="store_true")
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--rows", action="store_true", help="Shows weights by step.")
    options = parser.parse_args()
    compiled = Compiled()
    twinstep.adapters.jax.initialize()
    features, count = options.features, jax.device_count()
    pods = 2 if options.style == "hsdp" else 1
    mesh = jax.make_mesh((pods, count // pods), ("pod", "data"))
    spread = NamedSharding(mesh, PartitionSpec(("pod", "data")))
    whole = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec("data"))
    placed = whole if options.style == "dp" else sharded

    def first() -> dict[str, Any]:
        weights = jnp.sin(jnp.arange(features * 4.0)).reshape(features, 4)
        return {"weights": weights, "mean": jnp.zeros((features, 4)), "step": 0.0}

    def update(state: dict[str, Any], batch: jax.Array) -> dict[str, Any]:
        def loss(weights: jax.Array) -> jax.Array:
            return jnp.square(jnp.tanh(batch @ weights)).mean()

        slope = jax.grad(loss)(state["weights"])
        mean = 0.9 * state["mean"] + slope
        weights = state["weights"] - 0.1 * mean
        return {"weights": weights, "mean": mean, "step": state["step"] + 1}

    shardings = {"weights": placed, "mean": placed, "step": whole}
    state = jax.jit(first, out_shardings=shardings)()
    donated = (0,) if options.donate else ()
    train = jax.jit(update, out_shardings=shardings, donate_argnums=donated)
    with twinstep.Session() as session:
        state, start = session.restore(like=state)
        print(f"starts from {start}")
        if options.rows:
            show_rows(start, state["weights"])
        for step in range(start, options.steps):
            drawn = numpy.random.default_rng((step, jax.process_index()))
            rows = drawn.standard_normal((ROWS, features), numpy.float32)
            batch = jax.make_array_from_process_local_data(spread, rows)
            state = train(state, batch)
            session.after_step(step + 1, state)
            if options.rows:
                show_rows(step + 1, state["weights"])
            time.sleep(options.pause_s)
        print(f"compiled {compiled.asked - compiled.found} of {compiled.asked}")
        print(f"digest {digest(state)}")


if __name__ == "__main__":
    main()
