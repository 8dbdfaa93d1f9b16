"""How an array of a state is made of its boxes, with the sharding that it shall have.

An array also gets back its weak type as it was captured, and not as `like` has it: the
first update of a fresh state may have changed that, and results depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from twinstep.adapters.jax_leaves import (
    Form,
    Kind,
    Leaf,
    api,
    form_of,
    generator_of,
    keys_from,
    numbers_of,
)
from twinstep.adapters.jax_spread import spread_of
from twinstep.capture.manifest import ALIGNMENT
from twinstep.errors import StateError
from twinstep.recovery.reshard import Extent


@dataclass(slots=True, kw_only=True)
class Wanted:
    """A leaf of `like`, and the memory that its boxes are read into."""

    leaf: Leaf
    form: Form
    sharding: Any
    boxes: dict[Extent, Any]
    """Arrays of NumPy, once they are to be filled."""


def wanted_of(leaf: Leaf) -> Wanted:
    form = form_of(leaf)
    if leaf.kind is Kind.HOST:
        whole = Extent((0,) * len(form.shape), form.shape)
        return Wanted(leaf=leaf, form=form, sharding=None, boxes={whole: None})
    sharding = _sharding_of(leaf)
    boxes = spread_of(sharding, form.shape).boxes
    return Wanted(
        leaf=leaf,
        form=form,
        sharding=sharding,
        boxes={box.extent: None for box in boxes},
    )


def _sharding_of(leaf: Leaf) -> Any:
    """Returns where the array shall lie, or the numbers behind an array of keys."""
    value = leaf.value
    sharding: Any = getattr(value, "sharding", None)
    if sharding is None and api.process_count() > 1:
        raise StateError(
            f"{leaf.name} is a jax.ShapeDtypeStruct without a sharding; with several "
            "processes give it one: jax.ShapeDtypeStruct(shape, dtype, sharding=...)"
        )
    if sharding is None:
        return jax.sharding.SingleDeviceSharding(api.devices()[0])
    if leaf.kind is not Kind.KEY:
        return sharding
    if isinstance(value, jax.Array):
        return numbers_of(value).sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec = jax.sharding.PartitionSpec(
            *(sharding.spec + (None,) * (len(value.shape) - len(sharding.spec))), None
        )
        return jax.sharding.NamedSharding(sharding.mesh, spec)
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        return sharding
    raise StateError(
        f"{leaf.name} are keys with {type(sharding).__name__}; use a NamedSharding, or "
        "pass keys instead of a jax.ShapeDtypeStruct"
    )


def empty(dtype: str, shape: tuple[int, ...]) -> Any:
    kind: Any = jnp.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = numpy.empty(size + ALIGNMENT, numpy.uint8)
    first = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[first : first + size].view(kind).reshape(shape)


def made_of(wanted: Wanted, weak: bool) -> Any:
    """Returns the leaf, of the bytes in its boxes."""
    if wanted.leaf.kind is Kind.HOST:
        return next(iter(wanted.boxes.values()))
    put = api.device_put
    like, sharding = wanted.leaf.value, wanted.sharding
    if isinstance(like, jax.Array) and not like.committed:
        made: Any = put(next(iter(wanted.boxes.values())))
    else:
        make = api.make_array_from_single_device_arrays
        spread = spread_of(sharding, wanted.form.shape)
        arrays = [
            put(wanted.boxes[box.extent], device)
            for box in spread.boxes
            for device in box.devices
        ]
        dtype: Any = jnp.dtype(wanted.form.dtype)
        made = make(wanted.form.shape, sharding, arrays, dtype=dtype)
    if wanted.leaf.kind is Kind.KEY:
        return keys_from(made, generator_of(wanted.leaf.value))
    return _weakened(made) if weak else made


def _weakened(array: Any) -> Any:
    """Returns `array` with a weak type. JAX has no public way to give it one, and what
    converts an array has to be compiled."""
    from jax._src.array import ArrayImpl  # pyright: ignore[reportPrivateUsage]

    make: Any = ArrayImpl
    parts = [shard.data for shard in array.addressable_shards]
    aval = array.aval.update(weak_type=True)
    return make(aval, array.sharding, parts, committed=array.committed)
