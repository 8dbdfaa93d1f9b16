"""How the bytes of a shard become the live state of torch objects again, bit by bit.

First everything that could be wrong is looked at, and the differences between what
was captured and the live objects are named; only then is anything written. Live
tensors are written in place, so that optimizers, DDP and schedulers keep the objects
they refer to. Optimizer state is set directly: Optimizer.load_state_dict casts it to
the parameter's dtype, which changes bits where they differ. State that a fresh
optimizer does not have is made like its parameter (sharded as it is), or as a plain
tensor where the shape is its own, such as Adam's step count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from twinstep.adapters import torch_values
from twinstep.adapters.torch_plan import is_dense
from twinstep.adapters.torch_state import (
    Bin,
    Cell,
    Inventory,
    has_extra_state,
    parameters_of,
    set_state_of,
)
from twinstep.capture.manifest import Entry, Manifest, read_manifest, values_of
from twinstep.capture.snapshot import Piece, clip, cut, restore_pieces
from twinstep.errors import ProtocolError, StateError

DIFFERENCES_SHOWN = 5


def restore(inventory: Inventory, own: memoryview, shared: Sequence[memoryview]) -> int:
    """The live objects have the state in the slots afterwards; returns its step.

    Raises: StateError naming the first differences, ProtocolError; both before
    anything was written."""
    manifest = read_manifest(own)
    spans = _spans(manifest, shared)
    values = _values(inventory, manifest)
    targets, states = _targets(inventory, manifest, values)
    for entry, tensor in targets:
        _fill(entry, tensor, own, shared, spans)
    for optimizer, parameter, state in states:
        live = cast("Bin", optimizer.state[parameter])
        live.clear()
        live.update(state)
        if not live:
            del optimizer.state[parameter]
    _load_values(inventory, values)
    return manifest.step


def _spans(manifest: Manifest, shared: Sequence[memoryview]) -> list[range]:
    if not manifest.shared_bytes:
        return []
    if not shared:
        raise StateError(
            f"the state has {manifest.shared_bytes} shared bytes, but no shared slots "
            "were given; pass all ranges of the shared region, in order"
        )
    parts = len(shared)
    spans = [cut(manifest.shared_bytes, parts=parts, index=i) for i in range(parts)]
    for span, view in zip(spans, shared, strict=True):
        if len(view) < len(span):
            raise StateError(f"a shared slot of {len(view)} bytes for {span}")
    return spans


def _values(inventory: Inventory, manifest: Manifest) -> dict[str, dict[str, Any]]:
    values = values_of(manifest, from_blob=torch_values.from_blob)
    wanted = {
        "random": ["random"],
        "optimizers": list(inventory.optimizers),
        "extra": [
            path
            for path, module, _ in inventory.submodules()
            if has_extra_state(module)
        ],
        "others": list(inventory.others),
    }
    # What is beyond these is for readers that have no live objects.
    if not isinstance(values, dict) or not set(cast("Bin", values)) >= set(wanted):
        raise ProtocolError("the values of a manifest are not those of torch objects")
    parts = cast("dict[str, dict[str, Any]]", values)
    for part, names in wanted.items():
        if set(parts[part]) != set(names):
            raise StateError(
                f"captured {part}: {sorted(parts[part])}; live: {sorted(names)}. Pass "
                "the same objects under the same names to twinstep.Session"
            )
    for name, optimizer in inventory.optimizers.items():
        captured, live = parts["optimizers"][name]["groups"], optimizer.param_groups
        if len(captured) != len(live):
            raise StateError(
                f"{name} was captured with {len(captured)} parameter groups, and has "
                f"{len(live)}; build it as before"
            )
    return parts


def _targets(
    inventory: Inventory, manifest: Manifest, values: dict[str, dict[str, Any]]
) -> tuple[list[tuple[Entry, torch.Tensor]], list[tuple[Optimizer, Any, Bin]]]:
    """Returns where each entry's bytes go, and the new state of each parameter."""
    live = {cell.place.name: cell for cell in inventory.survey(sharing=False)}
    names = {id(cell.tensor): cell.place.name for cell in live.values()}
    owners: dict[str, tuple[Optimizer, torch.Tensor]] = {}
    states: dict[str, Bin] = {}
    for name, optimizer in inventory.optimizers.items():
        plain = values["optimizers"][name]["state"]
        for index, parameter in enumerate(parameters_of(optimizer)):
            label = names[id(parameter)]
            if label == f"{name}[{index}].parameter":
                label = f"{name}[{index}]"
            path = f"{name}[{index}:{label}]"
            owners[path] = (optimizer, parameter)
            states[path] = dict(plain.get(index, {}))
    targets: list[tuple[Entry, torch.Tensor]] = []
    differences: list[str] = []
    captured = {entry.name for entry in manifest.entries}
    for name in live:
        if name not in captured and name.rpartition("].")[0] + "]" not in owners:
            differences.append(f"{name} is live but was not captured")
    for entry in manifest.entries:
        path, _, key = entry.name.rpartition("].")
        owner = owners.get(path + "]")
        cell = live.get(entry.name)
        if cell is not None and not _difference(entry, cell):
            tensor = cell.tensor
        elif owner is not None:
            tensor = _new_state(entry, key, *owner)
        else:
            tensor = None
        if tensor is None:
            differences.append(
                f"{entry.name} {entry.dtype} {entry.box_shape} was captured but "
                + (_difference(entry, cell) if cell else "is not in the live objects")
            )
            continue
        if owner is not None:
            states[path + "]"][key] = tensor
        targets.append((entry, _local(tensor)))
    if differences:
        more = len(differences) - DIFFERENCES_SHOWN
        raise StateError(
            "the captured state is not that of the live objects: "
            + "; ".join(differences[:DIFFERENCES_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ". Build model and optimizer as in the run that was captured"
        )
    return targets, [(*owners[path], state) for path, state in states.items()]


def _difference(entry: Entry, cell: Cell) -> str:
    place = cell.place
    captured = (entry.dtype, entry.global_shape, entry.box_offsets, entry.box_shape)
    live = (place.dtype, place.global_shape, place.box_offsets, place.box_shape)
    if captured == live:
        return ""
    return f"is live as {place.dtype} {place.box_shape} of {place.global_shape}"


def _new_state(
    entry: Entry, key: str, optimizer: Optimizer, parameter: torch.Tensor
) -> torch.Tensor | None:
    """Returns a tensor for state that is not live, None if its kind is not known."""
    dtype = torch_values.DTYPES[entry.dtype]
    if entry.global_shape == tuple(parameter.shape) and parameter.dim():
        tensor = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        return tensor if tuple(_local(tensor).shape) == entry.box_shape else None
    if entry.global_shape != entry.box_shape or (
        isinstance(parameter, DTensor) and entry.size > 16
    ):
        return None
    device = parameter.device
    if key == "step":
        groups = optimizer.param_groups
        group = next(
            group
            for group in groups
            if any(item is parameter for item in group["params"])
        )
        if not (group.get("capturable") or group.get("fused")):
            device = torch.device("cpu")
    return torch.zeros(entry.box_shape, dtype=dtype, device=device)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return cast("Any", tensor)._local_tensor if isinstance(tensor, DTensor) else tensor


def _fill(
    entry: Entry,
    tensor: torch.Tensor,
    own: memoryview,
    shared: Sequence[memoryview],
    spans: list[range],
) -> None:
    """The tensor has the entry's bytes afterwards."""
    direct = tensor.device.type == "cpu" and is_dense(tensor)
    target = tensor if direct else torch.empty(entry.size, dtype=torch.uint8)
    piece = Piece(target.data_ptr(), entry.size, entry.offset)
    if entry.region == "own":
        restore_pieces([piece], own)
    else:
        for span, view in zip(spans, shared, strict=True):
            restore_pieces(clip([piece], span), view)
    if not direct:
        with torch.no_grad():
            dense = torch_values.from_raw(target, entry.dtype, entry.box_shape)
            tensor.detach().copy_(dense)


def _load_values(inventory: Inventory, values: dict[str, dict[str, Any]]) -> None:
    for name, optimizer in inventory.optimizers.items():
        captured = values["optimizers"][name]["groups"]
        for group, saved in zip(optimizer.param_groups, captured, strict=True):
            for key in [key for key in group if key != "params" and key not in saved]:
                del group[key]
            for key, value in saved.items():
                if isinstance(group.get(key), torch.Tensor) and isinstance(
                    value, torch.Tensor
                ):
                    group[key].copy_(value)
                else:
                    group[key] = value
    for path, module, _ in inventory.submodules():
        if has_extra_state(module):
            module.set_extra_state(values["extra"][path])
    for name, value in inventory.others.items():
        try:
            set_state_of(value, values["others"][name])
        except Exception as error:
            raise StateError(f"{name}.load_state_dict() failed: {error!r}") from error
    torch_values.set_generators(values["random"]["random"])
