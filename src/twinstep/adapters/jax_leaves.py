"""What the leaves of a pytree are, and what they are called.

A leaf has the name of its path: `state['params']['w']`, `state[0].mu`. There are four
kinds, and all else is refused by name:

    ARRAY  a jax.Array: its bytes are captured while training goes on
    KEY    a jax.Array of random keys: the numbers behind them are captured, and the
           name of their generator
    HOST   a NumPy array: may be written to at any time, so that it is copied at once
    PLAIN  int, float, str, bytes, bool, complex, None, a NumPy number: copied at once

What is no leaf (containers, their types, static fields of dataclasses) is not captured:
it comes from the state that restore(like=...) is given.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.capture.plain import Blob
from twinstep.errors import ProtocolError, StateError

ROOT = "state"
"""What every leaf's name starts with; no object may be called so."""
api: Any = jax
"""JAX, whose own types are unknown in part."""
NUMBER_KINDS = "biufcSUmM"
PLAIN = (bool, int, float, complex, str, bytes, type(None))
WAY_OUT = (
    "allowed are jax.Array, NumPy arrays and plain values (int, float, bool, complex, "
    "str, bytes). Keep it out of the state, or register its class as a pytree "
    "(jax.tree_util.register_dataclass)"
)


class Kind(enum.Enum):
    ARRAY = "array"
    KEY = "key"
    HOST = "host"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf of a state, or of what a state shall be like."""

    name: str
    kind: Kind
    value: Any


class Form(NamedTuple):
    """What of an array is in a manifest. A key's is that of its numbers."""

    dtype: str
    shape: tuple[int, ...]


def leaves_of(state: object, *, real: bool = True) -> list[Leaf]:
    """Returns the leaves in JAX's order.

    Args:
      real: arrays must have bytes; else a jax.ShapeDtypeStruct will do.

    Raises: StateError naming a leaf that cannot be captured."""
    found: list[tuple[Any, Any]] = api.tree_util.tree_flatten_with_path(state)[0]
    leaves = [
        _leaf(ROOT + api.tree_util.keystr(path), value, real) for path, value in found
    ]
    names: set[str] = set()
    for leaf in leaves:
        if leaf.name in names:
            raise StateError(f"two leaves of the state are called {leaf.name}")
        names.add(leaf.name)
    return leaves


def bare_of(state: object) -> dict[str, str]:
    """Returns the nodes that have nothing in them, of which no leaf tells, by their
    names: what Orbax calls them, to which an empty NamedTuple is a None as well."""
    tree = api.tree_util

    def bare(node: object) -> bool:
        def inner(other: object) -> bool:
            return other is not node

        return not tree.tree_leaves(node, is_leaf=inner)

    nodes: list[tuple[Any, Any]]
    nodes = tree.tree_flatten_with_path(state, is_leaf=bare)[0]
    words: dict[Any, str] = {dict: "Dict", list: "List", tuple: "Tuple"}
    return {
        ROOT + tree.keystr(path): words.get(type(node), "None")
        for path, node in nodes
        if bare(node)
    }


def flat(state: object) -> tuple[list[Any], Any]:
    """Returns the leaves of a state and its structure, in microseconds."""
    return api.tree_util.tree_flatten(state)


def unflat(structure: Any, leaves: list[Any]) -> Any:
    return api.tree_util.tree_unflatten(structure, leaves)


def _leaf(name: str, value: Any, real: bool) -> Leaf:
    kind = kind_of(value)
    if kind is None:
        described = f"{type(value).__module__}.{type(value).__qualname__}"
        raise StateError(
            f"{name} is a {described}, which cannot be captured; {WAY_OUT}"
        )
    if real and isinstance(value, jax.ShapeDtypeStruct):
        raise StateError(
            f"{name} is a jax.ShapeDtypeStruct, which has no bytes; on a first start, "
            "and for after_step, the state must be of arrays"
        )
    if isinstance(value, api.core.Tracer):
        raise StateError(
            f"{name} is traced: call after_step outside of jit, with what it returned"
        )
    if kind is Kind.ARRAY and str(value.dtype) not in ITEM_BYTES:
        raise StateError(
            f"{name} has dtype {value.dtype}; allowed are {', '.join(ITEM_BYTES)}"
        )
    if kind is Kind.HOST and value.dtype.name not in ITEM_BYTES:
        raise StateError(
            f"{name} is a NumPy array of {value.dtype}; allowed are "
            f"{', '.join(ITEM_BYTES)}"
        )
    return Leaf(name=name, kind=kind, value=value)


def kind_of(value: Any) -> Kind | None:
    """Returns the kind of a leaf; None for what cannot be captured."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return Kind.KEY if is_key(value) else Kind.ARRAY
    if isinstance(value, numpy.ndarray):
        return Kind.HOST
    if type(cast("object", value)) in PLAIN or isinstance(value, numpy.generic):
        return Kind.PLAIN
    return None


def is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, api.dtypes.prng_key))


def generator_of(key: Any) -> str:
    """Returns the name of the generator of an array of keys, real or not."""
    if isinstance(key, jax.Array):
        return str(api.random.key_impl(key))
    inside: Any = getattr(key.dtype, "_impl", None)
    return str(getattr(inside, "name", inside))


def numbers_of(key: Any) -> Any:
    """Returns the array of numbers that an array of keys is."""
    return api.random.key_data(key)


def keys_from(numbers: Any, generator: str) -> Any:
    return api.random.wrap_key_data(numbers, impl=generator)


def form_of(leaf: Leaf) -> Form:
    """Returns the dtype and shape that the leaf has in a manifest."""
    if leaf.kind is Kind.KEY:
        data: Any = api.eval_shape(numbers_of, leaf.value)
        return Form(str(data.dtype), tuple(data.shape))
    dtype: Any = leaf.value.dtype
    return Form(getattr(dtype, "name", str(dtype)), tuple(leaf.value.shape))


def to_blob(value: object) -> Blob | None:
    """Returns the blob of a NumPy array or number; None for all else."""
    if not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    kind = "array" if isinstance(value, numpy.ndarray) else "number"
    array: Any = numpy.asarray(cast("Any", value))
    if array.dtype.kind not in NUMBER_KINDS or array.dtype.hasobject:
        return None
    return Blob(
        kind=kind, dtype=array.dtype.str, shape=array.shape, data=array.tobytes()
    )


def from_blob(blob: Blob) -> Any:
    """Returns what to_blob() was given. Raises: ProtocolError."""
    try:
        if blob.kind not in ("array", "number"):
            raise ValueError("a state of another framework's")
        if numpy.dtype(blob.dtype).kind not in NUMBER_KINDS:
            raise ValueError(f"dtype {blob.dtype}")
        array = numpy.frombuffer(bytearray(blob.data), dtype=blob.dtype)
        return array.reshape(blob.shape)[() if blob.kind == "number" else ...]
    except (ValueError, TypeError) as error:
        raise ProtocolError(
            f"a {blob.kind} of {blob.dtype} {blob.shape} in {len(blob.data)} bytes: "
            f"{error}"
        ) from error
