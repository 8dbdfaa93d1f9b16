"""What the tests of sharding compare, computed on 8 virtual devices of one process.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.decoder.eight

prints JSON. The number of devices is fixed when jax starts, so this is no test itself
but the script of one process for all of them; LLVM's optimisations are off, since
compiling takes longer than anything else here.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twinstep.adapters.jax_spread import spread
from twinstep.decoder import shard
from twinstep.decoder.collectives import collectives
from twinstep.decoder.config import ModelConfig, TowerConfig
from twinstep.decoder.model.attention import reference
from twinstep.decoder.model.decoder import decoder_spec, loss
from twinstep.decoder.model.ring import ring
from twinstep.decoder.model.segments import BatchShape, Image, Packed, Text, fill
from twinstep.decoder.model.structure import Structure
from twinstep.decoder.spec import abstract, count, names, walk
from twinstep.decoder.train.together import mean_of, mean_over_pods, only_pods

# No two sizes are alike, so that a shape says what it is of.
CONFIG = ModelConfig(
    name="eight",
    vocabulary=96,
    width=32,
    layers=2,
    heads=4,
    head_size=8,
    hidden=80,
    pattern="L",
    window=5,
    scan=True,
    tower=TowerConfig(width=16, layers=0),
)
SHAPE = BatchShape(rows=8, tokens=24, images=4, audio=0)
LAYOUTS = {"8x1x1": {"data": 8}, "2x2x2": {"pod": 2, "data": 2, "model": 2}}
RINGS = {
    "4 devices, 1 key head": ({"context": 4}, 1, None),
    "heads apart, with a window": ({"model": 2, "context": 4}, 2, 6),
}


def batch() -> Packed:
    """Rows of one or two examples with an image in the middle, and padding."""
    draw = np.random.default_rng(7)

    def words(count: int) -> Text:
        return Text(draw.integers(6, CONFIG.vocabulary, count).tolist(), 1.0)

    def example() -> list[Text | Image]:
        pixels = draw.integers(0, 255, (8, 16, 1)).astype(np.uint8)
        return [words(4), Image(pixels), words(3)]

    rows = [[example() for _ in range(1 + row % 2)] for row in range(SHAPE.rows)]
    return jax.tree.map(jnp.asarray, fill(rows, SHAPE, CONFIG.tower))


def mean_loss(params: Any, data: Packed, backend: str) -> jax.Array:
    nats, weight = loss(params, data, CONFIG, backend=backend)
    return nats / weight


def drawn(spec: Any) -> Any:
    """Parameters none of which is like another."""
    draw = np.random.default_rng(1)
    return walk(
        lambda p: jnp.asarray(0.2 * draw.normal(size=p.shape), jnp.float32), spec
    )


def losses() -> dict[str, Any]:
    """Of each layout: the loss, the largest difference of each gradient from those on
    one device, and the collectives of the compiled step."""
    spec, data = decoder_spec(CONFIG), batch()
    params = drawn(spec)
    plain = jax.jit(jax.value_and_grad(lambda p, b: mean_loss(p, b, "reference")))
    value, gradients = plain(params, data)
    found: dict[str, Any] = {"1x1x1": {"loss": float(value)}}
    for name, sizes in LAYOUTS.items():
        mesh = shard.make_mesh(**sizes)
        laid = shard.shardings(spec, mesh)
        rows = shard.batch_shardings(mesh, SHAPE.rows, SHAPE.tokens)
        with shard.on(mesh):
            compiled = (
                jax.jit(
                    jax.value_and_grad(lambda p, b: mean_loss(p, b, "ring")),
                    in_shardings=(laid, rows),
                    out_shardings=(shard.whole(mesh), laid),
                )
                .lower(params, data)
                .compile()
            )
        value, ours = compiled(jax.device_put(params, laid), jax.device_put(data, rows))
        traffic = collectives(compiled.as_text(), mesh.shape)
        found[name] = {
            "loss": float(value),
            "gradients": dict(
                zip(names(spec), differences(ours, gradients), strict=True)
            ),
            "collectives": {key: asdict(one) for key, one in traffic.items()},
        }
    return found


def pods() -> dict[str, Any]:
    """Of eight pods that sum once: loss, differences of gradients, and how many sums
    the compiled step has."""
    spec, data = decoder_spec(CONFIG), batch()
    params = drawn(spec)

    def nats(params: Any, rows: Packed) -> tuple[jax.Array, jax.Array]:
        return loss(params, rows, CONFIG, backend="reference")

    mesh = shard.make_mesh(pod=8)
    rows = shard.batch_shardings(mesh, SHAPE.rows, SHAPE.tokens)
    value, gradients = jax.jit(mean_of(nats))(params, data)
    compiled = jax.jit(mean_over_pods(nats, rows)).lower(params, data).compile()
    laid = jax.device_put(params, shard.whole(mesh))
    ours, theirs = compiled(laid, jax.device_put(data, rows))
    return {
        "losses": [float(value), float(ours)],
        "gradients": max(differences(theirs, gradients)),
        "sums": compiled.as_text().count(" all-reduce("),
        "only_pods": only_pods(shard.whole(mesh)),
    }


def rings() -> dict[str, list[float]]:
    """Of each ring: how far result and gradients are from the dense form's."""
    draw = np.random.default_rng(3)
    rows, length, heads, size = 2, 24, 4, 8
    # Three segments and padding, some of them with media that see both ways.
    segment = np.sort(draw.integers(0, 4, (rows, length)), axis=1)[:, ::-1].copy()
    block = np.arange(length) - np.arange(length) % 3
    structure = Structure(
        jnp.asarray(segment, jnp.int32),
        jnp.broadcast_to(jnp.asarray(block, jnp.int32), segment.shape),
        jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment.shape),
    )
    in_pieces = functools.partial(ring, chunk=4)  # of 6 keys on a device
    found = {}
    for name, (sizes, kv_heads, window) in RINGS.items():
        shapes = [(heads, size), (kv_heads, size), (kv_heads, size), (heads, size)]
        q, k, v, weight = (
            jnp.asarray(draw.normal(size=(rows, length, *shape)), jnp.float32)
            for shape in shapes
        )

        def result(q, k, v, backend, weight=weight, window=window):
            mixed = backend(q, k, v, structure, structure, window)
            return jnp.sum(mixed * weight), mixed

        mesh = shard.make_mesh(**sizes)
        take = jax.value_and_grad(result, argnums=(0, 1, 2), has_aux=True)
        everywhere = jax.jit(
            lambda q, k, v, take=take: take(q, k, v, in_pieces),
            in_shardings=shard.whole(mesh),
        )
        with shard.on(mesh):
            (_, mixed), gradients = everywhere(q, k, v)
        alone = jax.jit(lambda q, k, v, take=take: take(q, k, v, reference))
        (_, wanted), wanted_gradients = alone(q, k, v)
        found[name] = differences((mixed, gradients), (wanted, wanted_gradients))
    return found


class Device(NamedTuple):
    """A device of one of two processes that need not be."""

    id: int
    process_index: int


def spreads() -> dict[str, dict[str, int]]:
    """Of meshes over two processes of 4 devices: bytes of the parameters that process 1
    captures in a region of its own, that both share, and of all."""
    spec = decoder_spec(CONFIG)
    found = {}
    for name, sizes in (
        ("pod 2", {"pod": 2, "data": 2, "model": 2}),
        ("data 2", {"data": 8}),
    ):
        laid = jax.tree.leaves(shard.shardings(spec, shard.make_mesh(**sizes)))
        params = jax.tree.leaves(abstract(spec))
        bytes_of = {"own": 0, "shared": 0, "all": 4 * count(spec)}
        for sharding, param in zip(laid, params, strict=True):
            indices = {
                Device(device.id, device.id // 4): index
                for device, index in sharding.devices_indices_map(param.shape).items()
            }
            here = spread(indices, param.shape, here=1, processes=2)
            region = "shared" if here.shared else "own"
            for box in here.boxes:
                items = math.prod(box.extent.shape)
                bytes_of[region] += items * param.dtype.itemsize
        found[name] = bytes_of
    return found


def differences(ours: Any, others: Any) -> list[float]:
    """The largest difference of each array, in parts of the largest number there."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(others), strict=True)
    return [
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        / max(float(np.abs(np.asarray(b)).max()), 1e-6)
        for a, b in pairs
    ]


if __name__ == "__main__":
    found: dict[str, Any] = {"losses": losses(), "rings": rings()}
    found |= {"spreads": spreads(), "pods": pods()}
    print(json.dumps({**found, "jax": jax.__version__}))
