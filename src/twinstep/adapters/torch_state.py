"""Which tensors and values make up the live state of torch objects, and their names.

A survey walks the objects the user named and returns a cell for each tensor: its
name, where it hangs (so that a later look can tell whether it is still the one), the
part of it that this rank holds, and when it may change:

    parameters, optimizer state    only in an update: copied while training runs on
    buffers, tensors given by name also in a forward pass: copied at once (staged)

Names are those of the user's objects: `model.blocks.0.weight`, and for optimizer
state the position and the parameter, `optimizer[3:model.blocks.0.weight].exp_avg`.
DDP's and torch.compile's shells leave no trace in names. A parameter reached twice
(tied weights) is one cell. What a DDP module over all ranks holds is shared, and so
is its optimizer state. Left out, as state_dict() does: gradients, buffers registered
with persistent=False, and attributes that are neither parameter nor buffer.
"""

# Parameters, buffers and local shards have no public door.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import msgspec
import numpy
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from twinstep.adapters import torch_values
from twinstep.adapters.torch_box import box_of
from twinstep.adapters.torch_refusal import kind_of, refusal_of, tensor_refusal
from twinstep.capture.plain import encode_plain
from twinstep.errors import StateError

Bin = dict[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a manifest says of a tensor, but for where its bytes lie."""

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    box_offsets: tuple[int, ...]
    box_shape: tuple[int, ...]
    shared: bool
    staged: bool
    replica: int = 0

    @property
    def size(self) -> int:
        count = 1
        for extent in self.box_shape:
            count *= extent
        return count * torch_values.DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One live tensor: `container[key] is tensor`, of which `local` is our part."""

    place: Place
    container: Bin
    key: Any
    tensor: torch.Tensor
    local: torch.Tensor


def flatten(objects: Mapping[str, object]) -> dict[str, object]:
    """Returns the named objects with lists, tuples and dicts taken apart."""
    flat: dict[str, object] = {}

    def add(name: str, value: object) -> None:
        if type(value) in (list, tuple):
            for index, item in enumerate(cast("list[object]", value)):
                add(f"{name}[{index}]", item)
        elif type(value) is dict:
            for key, item in cast("dict[object, object]", value).items():
                add(f"{name}[{key!r}]", item)
        else:
            flat[name] = value

    for name, value in objects.items():
        add(name, value)
    return flat


def is_shell(module: torch.nn.Module) -> bool:
    """DDP and torch.compile put a module inside another; names skip the outer."""
    return isinstance(module, DistributedDataParallel) or "_orig_mod" in _inside(module)


def ddp_size(module: DistributedDataParallel) -> int:
    """Returns how many ranks hold the module's parameters identically."""
    return dist.get_world_size(cast("Any", module).process_group)


def _inside(module: torch.nn.Module) -> dict[str, torch.nn.Module | None]:
    return module._modules


@dataclass(slots=True, kw_only=True)
class Inventory:
    """The live objects by kind. Every object is one that can be captured."""

    modules: dict[str, torch.nn.Module] = field(
        default_factory=dict[str, torch.nn.Module]
    )
    optimizers: dict[str, Optimizer] = field(default_factory=dict[str, Optimizer])
    tensors: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    others: dict[str, Any] = field(default_factory=dict[str, Any])
    names: dict[str, dict[str, msgspec.Raw]] = field(
        default_factory=dict[str, dict[str, msgspec.Raw]]
    )
    """As the last survey found them, encoded: each optimizer's parameters by groups,
    and tied parameters' other names. For readers that have no live objects."""

    @staticmethod
    def of(objects: Mapping[str, object]) -> Inventory:
        """Raises: StateError naming the first object that cannot be captured."""
        inventory = Inventory()
        for name, value in flatten(objects).items():
            refusal = refusal_of(value)
            if refusal:
                raise StateError(f"{name} is a {kind_of(value)}: {refusal}")
            if isinstance(value, torch.nn.Module):
                inventory.modules[name] = value
            elif isinstance(value, Optimizer) and _is_stock(value):
                inventory.optimizers[name] = value
            elif isinstance(value, torch.Tensor):
                inventory.tensors[name] = value
            else:
                inventory.others[name] = value
        return inventory

    def updaters(self) -> list[Optimizer]:
        """All optimizers, those that keep their state their own way too."""
        own_way = [item for item in self.others.values() if isinstance(item, Optimizer)]
        return [*self.optimizers.values(), *own_way]

    def submodules(self) -> Iterator[tuple[str, torch.nn.Module, bool]]:
        """Yields every module's name, the module, and whether DDP shares it."""
        for name, module in self.modules.items():
            yield from _walk(name, module, False)

    def survey(self, *, sharing: bool) -> list[Cell]:
        """Returns a cell for each tensor of the state that exists now."""
        _reshard(self.modules.values())
        cells: list[Cell] = []
        tied: dict[str, msgspec.Raw] = {}
        params: dict[str, msgspec.Raw] = {}
        seen: dict[int, str] = {}
        shared_ids: set[int] = set()
        for path, module, shared in self.submodules():
            shared = shared and sharing
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) in seen:
                    other = seen[id(parameter)]
                    tied[f"{path}.{key}"] = _encoded(path, other)
                    continue
                name = seen[id(parameter)] = f"{path}.{key}"
                if shared:
                    shared_ids.add(id(parameter))
                cells.append(cell_of(name, module._parameters, key, shared=shared))
            for key, buffer in module._buffers.items():
                if buffer is None or key in module._non_persistent_buffers_set:
                    continue
                if id(buffer) not in seen:
                    name = seen[id(buffer)] = f"{path}.{key}"
                    cells.append(cell_of(name, module._buffers, key, staged=True))
        for name, tensor in self.tensors.items():
            if id(tensor) not in seen:
                seen[id(tensor)] = name
                cells.append(cell_of(name, self.tensors, name, staged=True))
        for name, optimizer in self.optimizers.items():
            labels: list[str] = []
            for index, parameter in enumerate(parameters_of(optimizer)):
                if id(parameter) not in seen:
                    seen[id(parameter)] = f"{name}[{index}]"
                    bin = {"parameter": parameter}
                    cells.append(
                        cell_of(f"{name}[{index}].parameter", bin, "parameter")
                    )
                labels.append(seen[id(parameter)])
                path = f"{name}[{index}:{labels[index]}]"
                state = cast("Bin", optimizer.state.get(parameter, {}))
                shared = id(parameter) in shared_ids
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):
                        cells.append(
                            cell_of(f"{path}.{key}", state, key, shared=shared)
                        )
            params[name] = _encoded(name, _by_groups(optimizer, labels))
        self.names = {"params": params, "tied": tied}
        return cells

    def values(self) -> bytes:
        """Returns the values of the state, encoded: a copy of what they are now.

        Raises: StateError naming the path of a value that is not plain data."""
        parts: dict[str, dict[str, msgspec.Raw]] = {
            "random": {"random": _encoded("random", torch_values.generators())},
            "optimizers": {
                name: _encoded(name, _optimizer_values(optimizer))
                for name, optimizer in self.optimizers.items()
            },
            "extra": {
                path: _encoded(f"{path}.extra_state", module.get_extra_state())
                for path, module, _ in self.submodules()
                if has_extra_state(module)
            },
            "others": {
                name: _encoded(f"{name}.state", state_of(name, value))
                for name, value in self.others.items()
            },
            **self.names,
        }
        return msgspec.msgpack.encode(parts)


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    return [item for group in optimizer.param_groups for item in group["params"]]


def has_extra_state(module: torch.nn.Module) -> bool:
    return type(module).get_extra_state is not torch.nn.Module.get_extra_state


def state_of(name: str, value: Any) -> Any:
    """Returns the state of an object that is neither module nor optimizer."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, numpy.random.Generator):
        return value.bit_generator.state
    try:
        return value.state_dict()
    except Exception as error:
        raise StateError(f"{name}.state_dict() failed: {error!r}") from error


def set_state_of(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, numpy.random.Generator):
        value.bit_generator.state = state
    else:
        value.load_state_dict(state)


def _encoded(path: str, value: Any) -> msgspec.Raw:
    return msgspec.Raw(encode_plain(value, path=path, to_blob=torch_values.to_blob))


def _by_groups(optimizer: Optimizer, labels: list[str]) -> list[list[str]]:
    rest = iter(labels)
    return [
        list(islice(rest, len(group["params"]))) for group in optimizer.param_groups
    ]


def _optimizer_values(optimizer: Optimizer) -> dict[str, Any]:
    positions = {id(item): i for i, item in enumerate(parameters_of(optimizer))}
    state: dict[int, Any] = {}
    # By items, for to look up a parameter costs ten times as much as to pass it.
    for parameter, items in cast("dict[torch.Tensor, Bin]", optimizer.state).items():
        plain = {
            key: value
            for key, value in items.items()
            if not isinstance(value, torch.Tensor)
        }
        if plain and id(parameter) in positions:
            state[positions[id(parameter)]] = plain
    groups: list[dict[str, Any]] = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return {"groups": groups, "state": state}


def _walk(
    path: str, module: torch.nn.Module, shared: bool
) -> Iterator[tuple[str, torch.nn.Module, bool]]:
    if is_shell(module):
        if isinstance(module, DistributedDataParallel):
            shared = ddp_size(module) == dist.get_world_size()
            shared = shared and not cast("Any", module).parameters_to_ignore
        for inner in _inside(module).values():
            assert inner is not None
            yield from _walk(path, inner, shared)
        return
    yield path, module, shared
    for key, inner in _inside(module).items():
        if inner is not None:
            yield from _walk(f"{path}.{key}", inner, shared)


def _reshard(modules: Any) -> None:
    """FSDP2 parameters are the sharded ones afterwards, though an evaluation left
    them gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in modules:
        for inner in module.modules():
            if isinstance(inner, FSDPModule):
                inner.reshard()


def cell_of(
    name: str, bin: Any, key: Any, *, shared: bool = False, staged: bool = False
) -> Cell:
    """Returns the cell of the tensor `bin[key]`. Raises: StateError by name."""
    tensor: torch.Tensor = bin[key]
    refusal = tensor_refusal(tensor)
    if refusal:
        raise StateError(f"{name} is {refusal}")
    local, offsets, replica = box_of(name, tensor)
    place = Place(
        name=name,
        dtype=torch_values.NAMES[local.dtype],
        global_shape=tuple(tensor.shape),
        box_offsets=offsets,
        box_shape=tuple(local.shape),
        shared=shared and not isinstance(tensor, DTensor),
        staged=staged,
        replica=replica,
    )
    return Cell(place=place, container=bin, key=key, tensor=tensor, local=local)


def _is_stock(optimizer: Optimizer) -> bool:
    kind = type(optimizer)
    return (
        kind.load_state_dict is Optimizer.load_state_dict
        and kind.state_dict is Optimizer.state_dict
    )
