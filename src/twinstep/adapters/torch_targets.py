"""Where captured state goes: live tensors by name, optimizers' state, and values.

First everything that could be wrong is looked at, and the differences between what
was captured and the live objects are named; only then is anything written. Live
tensors are written in place, so that optimizers, DDP and schedulers keep the objects
they refer to. Optimizer state is set directly: Optimizer.load_state_dict casts it to
the parameter's dtype, which changes bits where they differ. State that a fresh
optimizer does not have is made like its parameter (sharded as it is), or as a plain
tensor where the shape is its own, such as Adam's step count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from twinstep.adapters import torch_values
from twinstep.adapters.torch_state import (
    Bin,
    Cell,
    Inventory,
    cell_of,
    has_extra_state,
    parameters_of,
    set_state_of,
)
from twinstep.errors import ProtocolError, StateError

DIFFERENCES_SHOWN = 5
STEP_BYTES_MAX = 16
"""Of state that a sharded parameter may have without being sharded itself."""

Parts = dict[str, dict[str, Any]]
"""Values by kind (Inventory.values) and name."""


class Targets:
    """The live tensors, and those to come, that captured state goes to."""

    def __init__(self, inventory: Inventory, values: Parts) -> None:
        self._live = {cell.place.name: cell for cell in inventory.survey(sharing=False)}
        self._owners: dict[str, tuple[Optimizer, torch.Tensor]] = {}
        self._states: dict[str, Bin] = {}
        self._differences: list[str] = []
        names = {id(cell.tensor): name for name, cell in self._live.items()}
        for name, optimizer in inventory.optimizers.items():
            plain = values["optimizers"][name]["state"]
            for index, parameter in enumerate(parameters_of(optimizer)):
                label = names[id(parameter)]
                if label == f"{name}[{index}].parameter":
                    label = f"{name}[{index}]"
                path = f"{name}[{index}:{label}]"
                self._owners[path] = (optimizer, parameter)
                self._states[path] = dict(plain.get(index, {}))

    def expect(self, captured: Collection[str]) -> None:
        """Live tensors that were not captured are differences, but for optimizer state
        and for what has no items."""
        for name, cell in self._live.items():
            of_optimizer = name.rpartition("].")[0] + "]" in self._owners
            if name not in captured and not of_optimizer and cell.tensor.numel():
                self._differences.append(f"{name} is live but was not captured")

    def take(
        self,
        name: str,
        dtype: str,
        global_shape: tuple[int, ...],
        box: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        *,
        needed: bool = True,
    ) -> Cell | None:
        """Returns the tensor that the state under `name` goes to, made if it has to
        be; None when there is none, which is a difference if it is `needed`.

        `box`, offsets and shape, is what of it must be here; any, if it is None."""
        path, _, key = name.rpartition("].")
        owner = self._owners.get(path + "]")
        cell = self._live.get(name)
        if owner is not None:
            state = self._states[path + "]"]
            if cell is None or _difference(cell, dtype, global_shape, box):
                made = _new_state(dtype, global_shape, key, *owner)
                if made is not None:
                    cell = cell_of(name, {key: made}, key)
            if cell is not None:
                state[key] = cell.tensor
        wrong = _difference(cell, dtype, global_shape, box) if cell else ""
        if cell is not None and not wrong:
            return cell
        if needed or cell is not None:
            self.differ(
                f"{name} {dtype} {box[1] if box else global_shape} was captured but "
                + (wrong or "is not in the live objects")
            )
        return None

    def differ(self, what: str) -> None:
        self._differences.append(what)

    def refuse(self) -> None:
        """Raises: StateError naming the first differences, if there are any."""
        if self._differences:
            more = len(self._differences) - DIFFERENCES_SHOWN
            raise StateError(
                "the captured state is not that of the live objects: "
                + "; ".join(self._differences[:DIFFERENCES_SHOWN])
                + (f"; and {more} more" if more > 0 else "")
                + ". Build model and optimizer as in the run that was captured"
            )

    def set_states(self) -> None:
        """Every parameter has the state that was taken for it, and no other."""
        for path, state in self._states.items():
            optimizer, parameter = self._owners[path]
            live = cast("Bin", optimizer.state[parameter])
            live.clear()
            live.update(state)
            if not live:
                del optimizer.state[parameter]


def _difference(
    cell: Cell,
    dtype: str,
    global_shape: tuple[int, ...],
    box: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> str:
    place = cell.place
    same = (place.dtype, place.global_shape) == (dtype, global_shape)
    if same and box in (None, (place.box_offsets, place.box_shape)):
        return ""
    return f"is live as {place.dtype} {place.box_shape} of {place.global_shape}"


def _new_state(
    dtype: str,
    global_shape: tuple[int, ...],
    key: str,
    optimizer: Optimizer,
    parameter: torch.Tensor,
) -> torch.Tensor | None:
    """Returns a tensor for state that is not live, None if its kind is not known."""
    kind = torch_values.DTYPES[dtype]
    size = math.prod(global_shape) * kind.itemsize
    if global_shape == tuple(parameter.shape) and parameter.dim():
        return torch.zeros_like(parameter, dtype=kind, requires_grad=False)
    if isinstance(parameter, DTensor) and size > STEP_BYTES_MAX:
        return None
    device = parameter.device
    if key == "step":
        group = next(
            group
            for group in optimizer.param_groups
            if any(item is parameter for item in group["params"])
        )
        if not (group.get("capturable") or group.get("fused")):
            device = torch.device("cpu")
    return torch.zeros(global_shape, dtype=kind, device=device)


def checked_values(inventory: Inventory, values: object) -> Parts:
    """Returns a rank's decoded values, checked to be those of the live objects.

    Raises: StateError naming what differs, ProtocolError."""
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
    if not isinstance(values, dict) or not set(cast("Bin", values)) >= set(wanted):
        raise ProtocolError("the values of a manifest are not those of torch objects")
    parts = cast("Parts", values)
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


def load_values(
    inventory: Inventory,
    values: Parts,
    set_state: Callable[[str, Any], None] | None = None,
) -> None:
    """The live objects have `values` afterwards, the generators of numbers last.

    `set_state(name, object)` gives an object its state; left out, it is that of
    `values`. Raises: StateError naming an object that does not take its state."""
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
            if set_state is None:
                set_state_of(value, values["others"][name])
            else:
                set_state(name, value)
        except Exception as error:
            raise StateError(f"{name}.load_state_dict() failed: {error!r}") from error
    torch_values.set_generators(values["random"]["random"])
