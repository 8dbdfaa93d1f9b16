"""Where activations lie when a mesh is set (shard.on), and nothing where none is.

The partitioner derives layouts from those of the parameters and the batch, but at the
residual stream it has a choice: weights and rows are both split over `data`, and one of
them has to be gathered. The weights, we say: that is what fully sharded means.

    rows       pod and data        positions    context
    heads      model               mlp, vocab   model
"""

from __future__ import annotations

import math

import jax
from jax.sharding import NamedSharding, PartitionSpec

AXES_OF: dict[str | None, tuple[str, ...]] = {
    None: (),
    "rows": ("pod", "data"),
    "positions": ("context",),
    "heads": ("model",),
    "mlp": ("model",),
    "vocab": ("model",),
}


def placed(x: jax.Array, *names: str | None) -> jax.Array:
    """Returns x, whose dimensions have these names, laid out over the mesh that is set;
    x itself if there is none, or within a shard_map, where x is one device's own. A
    dimension that its axes do not divide stays whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, spec_of(x.shape, names))


def share(shape: tuple[int, ...], *names: str | None) -> int:
    """Returns how many numbers of an array of this shape one device has."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return math.prod(shape)
    return math.prod(NamedSharding(mesh, spec_of(shape, names)).shard_shape(shape))


def spec_of(shape: tuple[int, ...], names: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the layout of an array of this shape over the mesh that is set."""
    sizes = jax.sharding.get_abstract_mesh().shape
    parts: list[tuple[str, ...] | None] = []
    for size, name in zip(shape, names, strict=True):
        axes = AXES_OF[name]
        divides = size % math.prod(sizes[axis] for axis in axes) == 0
        parts.append(axes if axes and divides else None)
    return PartitionSpec(*parts)
