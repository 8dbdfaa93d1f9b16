"""Which optimizer state will exist that does not exist yet, so that it has room.

Optimizers make a parameter's state at its first update. A parameter that took no part
yet, or all of them when a gradient scaler skipped the first updates, would otherwise
change the layout in the middle of a run, when slots are already reserved. What will
come is read off a parameter of the same optimizer that has state; if none has, off a
tiny optimizer of the same kind that takes one step here. State that neither shows is
found out when it appears: LayoutChanged.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch.optim import Optimizer

from twinstep.adapters import torch_values
from twinstep.adapters.torch_state import Cell, Place, parameters_of

Template = dict[str, tuple[str | None, tuple[int, ...] | None]]
"""For each key: dtype and shape, where None means the parameter's own."""


def expected(name: str, optimizer: Optimizer, cells: dict[int, Cell]) -> list[Place]:
    """Returns places for the state that the first updates to come will make.

    `cells` are the parameters' by identity."""
    places: list[Place] = []
    template: Template | None = None
    for index, parameter in enumerate(parameters_of(optimizer)):
        if optimizer.state.get(parameter) or not parameter.requires_grad:
            continue
        if template is None:
            template = _from_sibling(optimizer) or _from_probe(optimizer)
        of = cells[id(parameter)].place
        label = "" if of.name == f"{name}[{index}].parameter" else of.name
        path = f"{name}[{index}:{label or f'{name}[{index}]'}]"
        for key, (dtype, shape) in template.items():
            like = shape is None
            places.append(
                Place(
                    name=f"{path}.{key}",
                    dtype=dtype or of.dtype,
                    global_shape=of.global_shape if shape is None else shape,
                    box_offsets=of.box_offsets if like else (0,) * len(shape or ()),
                    box_shape=of.box_shape if shape is None else shape,
                    shared=of.shared,
                    staged=False,
                    replica=of.replica if like else 0,
                )
            )
    return places


def _from_sibling(optimizer: Optimizer) -> Template:
    for parameter in parameters_of(optimizer):
        state = cast("dict[str, Any] | None", optimizer.state.get(parameter))
        if state and parameter.dim():
            return _template(parameter, state)
    return {}


def _from_probe(optimizer: Optimizer) -> Template:
    device = parameters_of(optimizer)[0].device
    parameter = torch.nn.Parameter(torch.zeros(2, 3, device=device))
    parameter.grad = torch.zeros_like(parameter)
    try:
        kind = cast("Any", type(optimizer))
        known = inspect.signature(kind).parameters
        settings = {k: v for k, v in optimizer.defaults.items() if k in known}
        probe: Optimizer = kind([parameter], **settings)
        probe.step(lambda: 0.0)  # the closure of those that need one
    except Exception:  # an optimizer with arguments of its own: nothing is known
        return {}
    return _template(parameter, cast("dict[str, Any]", probe.state[parameter]))


def _template(parameter: torch.Tensor, state: dict[str, Any]) -> Template:
    template: Template = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or value.dtype not in torch_values.NAMES:
            continue
        dtype = None if value.dtype == parameter.dtype else value.dtype
        name = torch_values.NAMES[dtype] if dtype else None
        if value.shape == parameter.shape:
            template[key] = (name, None)
        elif value.numel() == 1:
            template[key] = (torch_values.NAMES[value.dtype], tuple(value.shape))
    return template
