"""Which device holds which part of the parameters, the state and the batch.

    mesh     pod x data x model x context           make_mesh(pod=2, data=2, model=2)
    rules    logical name of a dimension -> axis of the mesh
    layout   one parameter's dimensions by these rules, with the reason for each that
             stays whole

A parameter is described by the logical names of its dimensions (spec.Param.axes), so
that no layer knows of devices; XLA's partitioner (GSPMD, as in the Gemini 1.0 report)
derives the collectives from the layouts of what goes into a jitted step and comes out.

    pod       rows of the batch. The state is whole in every pod: this axis is the
              report's "redundant in-memory copies of the model state"
    data      rows of the batch, and the state's `embed` dimensions (fully sharded)
    model     heads, the inside of the MLP, the vocabulary
    context   positions of the batch (model/ring.py attends across it)

Model parallelism within a pod and data parallelism across pods is in the report; the
split within a pod is a common practice (fully sharded data parallelism x Megatron).
Left out: pipelines, experts, and dimensions that a device has an uneven part of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from twinstep.decoder.model.attention import BACKENDS
from twinstep.decoder.model.ring import ring
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.spec import Param, is_param, names, walk
from twinstep.errors import UsageError

AXES = ("pod", "data", "model", "context")
BATCH_AXES = ("pod", "data")
Rules = Mapping[str, str | None]
RULES: Rules = {
    "vocab": "model",
    "embed": "data",
    "heads": "model",
    "kv_heads": "model",
    "head": None,
    "mlp": "model",
    "layers": None,
    "tower": "data",
    "tower_heads": "model",
    "tower_mlp": "model",
}
"""Give `{**RULES, "embed": None}` to change some."""

BACKENDS["ring"] = ring

VECTOR = "a vector: gathering it costs more than its bytes"
OF_POSITIONS = ("token", "segment", "block", "position", "slot", "weight")
"""What of a batch has a position dimension, which is split over `context`."""


def make_mesh(
    *,
    pod: int = 1,
    data: int = 1,
    model: int = 1,
    context: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Returns a mesh of the first pod * data * model * context devices, in which the
    partitioner decides where collectives go (axis type Auto).

    Raises: UsageError when there are fewer devices."""
    shape = (pod, data, model, context)
    found = jax.devices() if devices is None else devices
    if len(found) < math.prod(shape):
        raise UsageError(
            f"a mesh of {_drawn(shape)} needs {math.prod(shape)} devices, there are "
            f"{len(found)}; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count="
            f"{math.prod(shape)} makes so many"
        )
    return jax.make_mesh(
        shape,
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=found[: math.prod(shape)],
    )


def abstract_mesh(
    *, pod: int = 1, data: int = 1, model: int = 1, context: int = 1
) -> AbstractMesh:
    """Returns a mesh without devices: enough to lay out and to lower for."""
    shape = (pod, data, model, context)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@contextmanager
def on(mesh: Mesh | AbstractMesh) -> Iterator[None]:
    """Within this, functions are traced for `mesh`: attention backend "ring" needs to
    know it."""
    with jax.sharding.use_abstract_mesh(_abstract(mesh)):
        yield


def _abstract(mesh: Mesh | AbstractMesh) -> AbstractMesh:
    return mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh


@dataclass(frozen=True, slots=True)
class Layout:
    """The mesh axis of each dimension, and why those stay whole that a rule would
    split."""

    axes: tuple[str | None, ...]
    whole: tuple[str, ...] = ()

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(*self.axes)


def layout(
    name: str, param: Param, mesh: Mesh | AbstractMesh, rules: Rules = RULES
) -> Layout:
    """Returns how the parameter is split over the mesh. A dimension whose size the
    axis does not divide stays whole: with multi-query attention there is one head of
    keys for all of `model`. Scales of norms stay whole.

    Raises: UsageError for a logical name without a rule, a rule for `pod` or for no
        axis of the mesh, and two dimensions on one axis."""
    if sum(logical != "layers" for logical in param.axes) < 2:
        return Layout((None,) * len(param.axes), (VECTOR,))
    axes: list[str | None] = []
    whole: list[str] = []
    for logical, size in zip(param.axes, param.shape, strict=True):
        axis = _axis(name, logical, mesh, rules)
        if axis is not None and size % mesh.shape[axis]:
            whole.append(
                f"{logical} has {size}, which {mesh.shape[axis]} devices along "
                f"{axis} do not divide"
            )
            axis = None
        axes.append(axis)
    used = [axis for axis in axes if axis is not None]
    for axis in used:
        if used.count(axis) > 1:
            both = [
                str(logical)
                for logical, at in zip(param.axes, axes, strict=True)
                if at == axis
            ]
            raise UsageError(
                f"{name}: the rules put {' and '.join(both)} on the mesh axis {axis}; "
                "one array has each axis once: change a rule, or give None for one"
            )
    return Layout(tuple(axes), tuple(whole))


def _axis(
    name: str, logical: str | None, mesh: Mesh | AbstractMesh, rules: Rules
) -> str | None:
    if logical is None:
        return None
    if logical not in rules:
        raise UsageError(
            f"{name}: no rule for the dimension {logical!r}; there are "
            f"{', '.join(sorted(rules))}"
        )
    axis = rules[logical]
    if axis == "pod":
        raise UsageError(
            f"{name}: a rule splits {logical} over pod; the state is whole in every "
            "pod, which is what a lost pod comes back from: use data or model"
        )
    if axis is not None and axis not in mesh.shape:
        raise UsageError(
            f"{name}: a rule splits {logical} over {axis!r}; the mesh has "
            f"{', '.join(mesh.shape)}"
        )
    return axis


def layouts(
    spec: Any, mesh: Mesh | AbstractMesh, rules: Rules = RULES
) -> dict[str, Layout]:
    """Returns the layout of every parameter by name. Raises: UsageError as layout."""
    params = jax.tree.leaves(spec, is_leaf=is_param)
    return {
        name: layout(name, param, mesh, rules)
        for name, param in zip(names(spec), params, strict=True)
    }


def shardings(spec: Any, mesh: Mesh | AbstractMesh, rules: Rules = RULES) -> Any:
    """Returns the tree of NamedSharding, as jit's in_shardings and out_shardings take
    it. Raises: UsageError as layout."""
    found = iter(layouts(spec, mesh, rules).values())
    return walk(lambda _: NamedSharding(mesh, next(found).spec), spec)


def whole(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Of what every device holds all of: a step's number, a loss, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the shardings of a training state: each subtree of the shape of the
    parameters (they themselves, an optimizer's moments) is laid out as `params`, their
    tree of shardings; all else is whole."""
    tree = jax.tree.structure(params)

    def alike(subtree: Any) -> bool:
        return jax.tree.structure(subtree) == tree

    def one(subtree: Any) -> Any:
        return params if alike(subtree) else whole(mesh)

    return jax.tree.map(one, state, is_leaf=alike)


def batch_shardings(mesh: Mesh | AbstractMesh, rows: int, tokens: int) -> Packed:
    """Returns a Packed of NamedSharding: rows over pod and data, positions over
    context. The pools of patches and frames of a row are whole in its `context`.

    Raises: UsageError when rows or tokens do not divide: parts that several devices
        would compute alike are a mistake, not a layout."""
    parts = mesh.shape["pod"] * mesh.shape["data"]
    if rows % parts:
        raise UsageError(
            f"a batch of {rows} rows over pod x data of {parts}; use a multiple"
        )
    if tokens % mesh.shape["context"]:
        raise UsageError(
            f"{tokens} positions over a context axis of {mesh.shape['context']}; use a "
            "multiple"
        )
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    by_position = NamedSharding(mesh, PartitionSpec(BATCH_AXES, "context"))
    return Packed(
        **{
            field.name: by_position if field.name in OF_POSITIONS else by_row
            for field in fields(Packed)
        }  # pyright: ignore[reportArgumentType]
    )


def _drawn(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
