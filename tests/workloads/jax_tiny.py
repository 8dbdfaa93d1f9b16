"""A training script in JAX of the size of a test: prints a digest of its final state.

Works with and without agents, in one process or many. `dp` replicates the state, `fsdp`
shards it over the processes; with --donate the update takes the state's memory."""

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

FEATURES, ROWS = 16, 8


def digest(state: Any) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            found.update(numpy.asarray(shard.data).tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--style", choices=("dp", "fsdp"), default="dp")
    parser.add_argument("--donate", action="store_true")
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--fail-at", type=int, default=-1)
    options = parser.parse_args()
    twinstep.adapters.jax.initialize()
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    placed = spread if options.style == "fsdp" else NamedSharding(mesh, PartitionSpec())
    whole = NamedSharding(mesh, PartitionSpec())

    def first() -> dict[str, Any]:
        weights = jnp.sin(jnp.arange(FEATURES * 4.0)).reshape(FEATURES, 4)
        return {"weights": weights, "mean": jnp.zeros((FEATURES, 4)), "step": 0.0}

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
        for step in range(start, options.steps):
            if step == options.fail_at:
                raise ValueError("as was asked for")
            drawn = numpy.random.default_rng((step, jax.process_index()))
            rows = drawn.standard_normal((ROWS, FEATURES), numpy.float32)
            batch = jax.make_array_from_process_local_data(spread, rows)
            state = train(state, batch)
            session.after_step(step + 1, state)
            time.sleep(options.pause_s)
        print(f"digest {digest(state)}")


if __name__ == "__main__":
    main()
