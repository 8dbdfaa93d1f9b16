"""The script that the demo trains in JAX: `twinstep run --machines 4 train_jax.py`.

An ordinary distributed training script with five lines more: they are marked. The
state is one pytree: parameters, AdamW's moments, the key that dropout draws from, the
step, and the position in the data. `dp` keeps it on every process, `fsdp` in parts. The
digests at the end, the padded step and the ballast are for the demo's sake.
"""

# JAX leaves many types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy
import xxhash
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import twinstep
from twinstep.adapters.jax import initialize  # 1 of 5
from twinstep.demo.gpt_jax import Size, first_parameters, loss
from twinstep.demo.library import library_text
from twinstep.demo.options import options, steps_wanted

GENERATOR = "rbg"
"""Of dropout's numbers: one operation of XLA's, where the usual one is compiled from
some hundred."""
RATE, DECAY, MEAN, SQUARE = 2e-3, 0.1, 0.9, 0.999
BALLAST_FIRST = 1 << 23
"""As in ballast.py: whole numbers that float32 holds exactly, which go down by one."""


def first_state(seed: int, size: Size, *, ballast_mb: int, ranks: int) -> Any:
    """Returns the state that a training begins with, on the host."""
    parameters = first_parameters(seed, size)
    key = jax.random.key(seed, impl=GENERATOR)
    zeros = jax.tree.map(numpy.zeros_like, parameters)
    numbers = ballast_mb * 1_000_000 // 4
    first = BALLAST_FIRST - numbers + 1000 * numpy.arange(ranks)[:, None]
    return {
        "parameters": parameters,
        "mean": zeros,
        "square": zeros,
        "dropout": numpy.array(jax.random.key_data(key)),
        "step": numpy.zeros((), numpy.int32),
        "ballast": (first + numpy.arange(numbers)).astype(numpy.float32),
    }


def put(array: Any, sharding: NamedSharding) -> Any:
    """Returns the array as all processes together hold it."""
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])


def placed(shape: Any, style: str, mesh: Mesh) -> NamedSharding:
    """Returns where an array lies: on all processes, or its largest dim cut."""
    ranks, dims = mesh.size, list(shape.shape)
    if style == "dp" or not dims or max(dims) % ranks or max(dims) < ranks:
        return NamedSharding(mesh, PartitionSpec())
    cut: list[str | None] = [None] * len(dims)
    cut[dims.index(max(dims))] = "data"
    return NamedSharding(mesh, PartitionSpec(*cut))


def update(state: Any, windows_BT: Any, *, size: Size) -> tuple[Any, Any]:
    """Returns the state after one step of AdamW, and the loss."""
    dropout, key = jax.random.split(state["dropout"])
    found, slopes = jax.value_and_grad(loss)(
        state["parameters"], windows_BT[:, :-1], windows_BT[:, 1:], key, size
    )
    step = state["step"] + 1
    warm_up = jnp.minimum(step / 20, jnp.sqrt(20 / step))
    norms = sum(jnp.square(slope).sum() for slope in jax.tree.leaves(slopes))
    clip = jnp.minimum(1.0, 1.0 / jnp.sqrt(norms))
    slopes = jax.tree.map(partial(jnp.multiply, clip), slopes)

    def averaged(share: float, power: int) -> Any:
        def one(average: Any, slope: Any) -> Any:
            return share * average + (1 - share) * slope**power

        return one

    mean = jax.tree.map(averaged(MEAN, 1), state["mean"], slopes)
    square = jax.tree.map(averaged(SQUARE, 2), state["square"], slopes)

    def moved(parameter: Any, m: Any, s: Any) -> Any:
        way = m / (1 - MEAN**step) / (jnp.sqrt(s / (1 - SQUARE**step)) + 1e-8)
        return parameter - RATE * warm_up * (way + DECAY * parameter)

    return {
        "parameters": jax.tree.map(moved, state["parameters"], mean, square),
        "mean": mean,
        "square": square,
        "dropout": dropout,
        "step": step,
        "ballast": state["ballast"] - 1,
    }, found


def windows(text: Any, position: int, *, seed: int, batch: int, context: int) -> Any:
    """Returns random windows of the text (B T + 1), by a seed and a position."""
    drawn = numpy.random.default_rng((seed, position))
    starts = drawn.integers(len(text) - context - 1, size=batch)
    return numpy.stack([text[s : s + context + 1] for s in starts]).astype(numpy.int32)


def write_digests(folder: Path, state: Any) -> None:
    """The folder has a digest of every part of this rank's state; the live arrays are
    looked at, and not what twinstep captures."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if (
            isinstance(leaf, jax.Array)
            and leaf.dtype == state["train"]["dropout"].dtype
        ):
            leaf = jax.random.key_data(leaf)
        parts: list[Any] = [leaf]
        if isinstance(leaf, jax.Array):
            parts = [shard.data for shard in leaf.addressable_shards]
        for at, part in enumerate(parts):
            raw = numpy.asarray(part).tobytes()
            name = f"{jax.tree_util.keystr(path)} {at}"
            digest = xxhash.xxh3_128_hexdigest(raw)
            found[name] = {"bytes": len(raw), "xxh3_128": digest}
    folder.mkdir(parents=True, exist_ok=True)
    rank = jax.process_index()
    part_file = folder / f"rank{rank}.part"
    part_file.write_text(json.dumps(found, indent=1))
    part_file.replace(folder / f"rank{rank}.json")


def main() -> None:
    args = options("Trains a small GPT in JAX on CPUs.", ("dp", "fsdp"))
    initialize()  # 2 of 5
    size, ranks, rank = Size(), jax.process_count(), jax.process_index()
    mesh = Mesh(numpy.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    host = first_state(args.seed, size, ballast_mb=args.ballast_mb, ranks=ranks)
    shardings = jax.tree.map(partial(placed, style=args.style, mesh=mesh), host)
    shardings |= {"ballast": rows, "dropout": NamedSharding(mesh, PartitionSpec())}
    train = jax.jit(
        partial(update, size=size),
        out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())),
    )
    first = jax.tree.map(put, host, shardings)
    first["dropout"] = jax.random.wrap_key_data(first["dropout"], impl=GENERATOR)
    state = {"train": first, "position": 0}
    text = numpy.frombuffer(library_text(), numpy.uint8)
    session = twinstep.Session()
    state, step = session.restore(like=state)  # 3 of 5: 0 on a first start
    while step < steps_wanted(args.steps, args.stop_file):
        began_s = time.monotonic()
        drawn = windows(
            text,
            state["position"],
            seed=args.seed * 1000 + rank,
            batch=args.batch,
            context=size.context,
        )
        batch = jax.make_array_from_process_local_data(rows, drawn)
        trained, mean_loss = train(state["train"], batch)
        state = {"train": trained, "position": state["position"] + 1}
        step += 1
        found = float(mean_loss)  # a step is reached when it has been computed
        session.after_step(step, state)  # 4 of 5: returns at once
        if args.losses is not None and rank == 0:
            line = {"step": step, "loss": found, "wall_s": time.time()}
            with args.losses.open("a") as file:
                file.write(json.dumps(line) + "\n")
        time.sleep(max(0.0, began_s + args.step_seconds - time.monotonic()))

    session.close()  # 5 of 5: no further step is to be captured
    if args.digests is not None:
        write_digests(args.digests, state)


if __name__ == "__main__":
    main()
