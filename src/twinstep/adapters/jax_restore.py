"""How captured bytes become a state again, bit by bit, wherever it shall lie now.

What is wanted is what the `like` state holds in this process, box by box; what there is
are the boxes of the slots, or those of a stored step. A plan says which part of which
goes where (recovery/reshard.py). When all boxes were found, and not before, arrays are
made with exactly the shardings of `like`.

An array also gets back its weak type as it was captured, and not as `like` has it: the
first update of a fresh state may have changed that, and results depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy

from twinstep.adapters.jax_leaves import (
    Form,
    Kind,
    Leaf,
    api,
    flat,
    form_of,
    generator_of,
    keys_from,
    leaves_of,
    numbers_of,
    unflat,
)
from twinstep.adapters.jax_plan import FRAMEWORK
from twinstep.adapters.jax_spread import spread_of
from twinstep.capture.manifest import ALIGNMENT
from twinstep.errors import ProtocolError, StateError
from twinstep.recovery.reshard import Extent

DIFFERENCES_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Wanted:
    """A leaf of `like`, and the memory that its boxes are read into."""

    leaf: Leaf
    form: Form
    sharding: Any
    boxes: dict[Extent, Any]
    """Arrays of NumPy, once they are to be filled."""


@dataclass(slots=True, kw_only=True)
class Targets:
    """What a restored state is made of; knows all that speaks against it."""

    like: object
    leaves: list[Leaf]
    arrays: dict[str, Wanted]
    plain: dict[str, Leaf]
    differences: list[str] = field(default_factory=list[str])

    @staticmethod
    def of(like: object) -> Targets:
        """Raises: StateError naming what is no state to go by."""
        leaves = leaves_of(like, real=False)
        arrays = {leaf.name: _wanted(leaf) for leaf in leaves if _has_bytes(leaf)}
        plain = {leaf.name: leaf for leaf in leaves if not _has_bytes(leaf)}
        return Targets(like=like, leaves=leaves, arrays=arrays, plain=plain)

    def take(self, name: str, captured: Form) -> Wanted | None:
        """Returns what array the state under `name` goes to; if there is none, it is
        a difference."""
        wanted = self.arrays.get(name)
        if wanted is not None and wanted.form == captured:
            return wanted
        live = "a plain value" if name in self.plain else "nothing of that name"
        if wanted is not None:
            live = f"{wanted.form.dtype} {wanted.form.shape}"
        self.differ(
            f"{name} was captured as {captured.dtype} {captured.shape}, and `like` has "
            f"{live}"
        )
        return None

    def expect(self, captured: set[str], values: Mapping[str, Any]) -> None:
        """What `like` has and was not captured is a difference, and what is there as
        a plain value and not as an array, or with another generator."""
        for name in self.arrays:
            if name not in captured:
                was = "a plain value" if name in values["others"] else "not captured"
                self.differ(f"{name} is an array in `like`, but was {was}")
        for name in self.plain:
            if name not in values["others"] and name not in captured:
                self.differ(f"{name} is in `like`, but was not captured")
        for name, wanted in self.arrays.items():
            was = values["keys"].get(name, "")
            key = wanted.leaf.kind is Kind.KEY
            now = generator_of(wanted.leaf.value) if key else ""
            if name in captured and was != now:
                self.differ(
                    f"{name} was captured as {f'a key of {was}' if was else 'no key'}"
                    f", and is {f'one of {now}' if now else 'none'} in `like`"
                )
        for name in values["others"]:
            if name.partition("[")[0].partition(".")[0] == "state" and not (
                name in self.plain or name in self.arrays
            ):
                self.differ(f"{name} was captured, but is not in `like`")

    def differ(self, what: str) -> None:
        self.differences.append(what)

    def refuse(self) -> None:
        """Raises: StateError naming the first differences, if there are any."""
        if self.differences:
            more = len(self.differences) - DIFFERENCES_SHOWN
            raise StateError(
                "the captured state is not like `like`: "
                + "; ".join(self.differences[:DIFFERENCES_SHOWN])
                + (f"; and {more} more" if more > 0 else "")
                + ". Make the state that restore(like=...) gets as in the run that was "
                "captured"
            )

    def allocate(self) -> None:
        """There is memory for all boxes, which XLA can take over as it is."""
        for wanted in self.arrays.values():
            for extent in wanted.boxes:
                wanted.boxes[extent] = _empty(wanted.form.dtype, extent.shape)

    def state(self, values: Mapping[str, Any]) -> Any:
        """Returns the state, of what was read into the boxes and of plain values."""
        weak = set(values["weak"])
        made: list[Any] = []
        for leaf in self.leaves:
            if leaf.name in self.plain:
                made.append(values["others"][leaf.name])
            else:
                made.append(_made(self.arrays[leaf.name], leaf.name in weak))
        return unflat(flat(self.like)[1], made)


def checked_values(values: object) -> dict[str, Any]:
    """Returns decoded values. Raises: StateError, ProtocolError."""
    if not isinstance(values, dict):
        raise ProtocolError("the values of a manifest are no dict")
    found = cast("dict[str, Any]", values)
    if found.get("framework") != FRAMEWORK:
        raise StateError(
            "the state was captured by another framework's session, and restore("
            "like=...) is JAX's; use another job or storage folder for this run"
        )
    kinds: dict[str, type[Any]] = {"others": dict, "keys": dict, "weak": list}
    for part, kind in kinds.items():
        if type(found.get(part)) is not kind:
            raise ProtocolError(f"the values of a manifest have no {part}")
    return found


def load_others(objects: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """The objects beside the state have theirs. Raises: StateError by name."""
    for name, value in objects.items():
        try:
            value.load_state_dict(values["others"][name])
        except Exception as error:
            raise StateError(f"{name}.load_state_dict() failed: {error!r}") from error


def check_others(objects: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises: StateError when the objects are not those that were captured."""
    state = ("state", "state[", "state.")
    captured = {n for n in values["others"] if n != state[0] and n[:6] not in state}
    if captured != set(objects):
        raise StateError(
            f"captured objects: {sorted(captured)}; given: {sorted(objects)}. Pass the "
            "same objects under the same names to twinstep.Session"
        )


def _has_bytes(leaf: Leaf) -> bool:
    return leaf.kind is not Kind.PLAIN


def _wanted(leaf: Leaf) -> Wanted:
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


def _empty(dtype: str, shape: tuple[int, ...]) -> Any:
    kind: Any = jnp.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = numpy.empty(size + ALIGNMENT, numpy.uint8)
    first = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[first : first + size].view(kind).reshape(shape)


def _made(wanted: Wanted, weak: bool) -> Any:
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
