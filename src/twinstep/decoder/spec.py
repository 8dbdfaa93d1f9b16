"""What parameters a model has, as one tree of descriptions, before any of them exists.

    spec = decoder_spec(config)          model/decoder.py: a nested dict of Param
    count(spec)                          how many numbers
    init(spec, key)                      the same tree of arrays
    abstract(spec)                       the same tree of shapes, nothing allocated

Sharding, counting, lowering and saving are each one walk over this tree, which is why
the state is plain nested dicts and lists and no framework's modules.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. `axes` are the logical names of its dimensions, which shard.py
    maps to axes of the mesh. `init` is "normal" (standard deviation `scale`, or
    1/sqrt(the first dimension's size) without), "zeros" or "ones"."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"
    scale: float | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), (self.shape, self.axes)
        assert self.init in ("normal", "zeros", "ones"), self.init


def is_param(leaf: object) -> bool:
    return isinstance(leaf, Param)


def walk(function: Any, spec: Any, *rest: Any) -> Any:
    """Returns the tree of `function(param, ...)` of each parameter."""
    return jax.tree.map(function, spec, *rest, is_leaf=is_param)


def names(spec: Any) -> list[str]:
    """Names of all parameters, such as layers/0/attention/query, in order."""
    paths = jax.tree_util.tree_flatten_with_path(spec, is_leaf=is_param)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def count(spec: Any) -> int:
    """How many numbers the parameters are."""
    leaves = jax.tree.leaves(spec, is_leaf=is_param)
    return sum(math.prod(leaf.shape) for leaf in leaves)


def init(spec: Any, key: jax.Array) -> Any:
    """Returns initial parameters. Each parameter's numbers depend on its name and the
    key only, so that one more parameter changes none of the others."""
    leaves, tree = jax.tree.flatten(spec, is_leaf=is_param)
    arrays = [
        _initial(leaf, jax.random.fold_in(key, zlib.crc32(name.encode())))
        for name, leaf in zip(names(spec), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, arrays)


def _initial(param: Param, key: jax.Array) -> jax.Array:
    dtype = jnp.dtype(param.dtype)
    if param.init == "zeros":
        return jnp.zeros(param.shape, dtype)
    if param.init == "ones":
        return jnp.ones(param.shape, dtype)
    scale = param.scale if param.scale is not None else param.shape[0] ** -0.5
    return (scale * jax.random.normal(key, param.shape, jnp.float32)).astype(dtype)


def abstract(spec: Any) -> Any:
    """Returns the tree of shapes and dtypes, with nothing allocated."""
    return walk(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.dtype(p.dtype)), spec)
