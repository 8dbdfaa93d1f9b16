"""A run that starts from a checkpoint which torch.distributed.checkpoint has written.

The checkpoint is read by torch itself, for any number of ranks: what the Session was
given as `model` is looked for as `model`, an `optimizer` as `optimizer`, as
torch.distributed.checkpoint.state_dict names their parts. A model must be there;
optimizers, schedulers and others that are not start as the script has made them, and
are named. A step that twinstep has stored is such a checkpoint, too.
"""

# torch leaves the types of checkpoints open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict as standard
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from twinstep.adapters.torch_state import Inventory, parameters_of, set_state_of
from twinstep.errors import StateError

NAMES_SHOWN = 8


def start_from(inventory: Inventory, path: str, options: dict[str, str]) -> list[str]:
    """The live objects have the checkpoint's state afterwards; returns what of them the
    checkpoint does not have, in words.

    Raises: StateError naming what does not fit; OSError when it cannot be read."""
    reader = _reader(path, options)
    try:
        keys = set(reader.read_metadata().state_dict_metadata)
    except FileNotFoundError as error:
        raise StateError(
            f"storage.start is {path}, which is no checkpoint of "
            f"torch.distributed.checkpoint: {error}; name the folder with .metadata"
        ) from error
    state, missing = _wanted(inventory, keys, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a single process
            load(state, storage_reader=reader, no_dist=not dist.is_initialized())
    except (RuntimeError, ValueError, CheckpointException) as error:
        raise StateError(
            f"the checkpoint {path} does not fit the live objects: {error}"
        ) from error
    for name, module in inventory.modules.items():
        standard.set_model_state_dict(module, state[name])
    for name, optimizer in inventory.optimizers.items():
        if name in state:
            module = _module_of(inventory, name)
            standard.set_optimizer_state_dict(
                module, optimizer, optim_state_dict=state[name]
            )
    for name, value in inventory.others.items():
        if name in state:
            set_state_of(value, state[name])
    return [f"{name} is not in the checkpoint {path}" for name in missing]


def _wanted(
    inventory: Inventory, keys: set[str], path: str
) -> tuple[dict[str, Any], list[str]]:
    """Returns the state to fill, and the objects that the checkpoint lacks."""
    there = {key.partition(".")[0] for key in keys}
    absent = [name for name in inventory.modules if name not in there]
    if absent:
        found = ", ".join(sorted(there)[:NAMES_SHOWN])
        raise StateError(
            f"the checkpoint {path} has no {', '.join(absent)}; it has: {found}. Pass "
            "the objects to twinstep.Session under the checkpoint's names"
        )
    state: dict[str, Any] = {}
    missing: list[str] = []
    for name, module in inventory.modules.items():
        state[name] = standard.get_model_state_dict(module)
    for name, optimizer in inventory.optimizers.items():
        if name in there:
            module = _module_of(inventory, name)
            state[name] = standard.get_optimizer_state_dict(module, optimizer)
        else:
            missing.append(name)
    for name, value in inventory.others.items():
        found_state = _state_of(value)
        whole = [f"{name}.{key}" in keys for key in found_state]
        if found_state and all(whole):
            state[name] = found_state
        else:
            missing.append(name)
    return state, missing


def _state_of(value: object) -> dict[str, Any]:
    state_dict = getattr(value, "state_dict", None)
    found = state_dict() if callable(state_dict) else {}
    return dict(cast("dict[str, Any]", found)) if isinstance(found, dict) else {}


def _module_of(inventory: Inventory, name: str) -> torch.nn.Module:
    """The module that has the optimizer's parameters."""
    wanted = {id(one) for one in parameters_of(inventory.optimizers[name])}
    for module in inventory.modules.values():
        if wanted <= {id(parameter) for parameter in module.parameters()}:
            return module
    raise StateError(
        f"{name} updates parameters of several objects, which "
        "torch.distributed.checkpoint.state_dict does not know; start without "
        "storage.start and load the checkpoint in the script"
    )


def _reader(path: str, options: dict[str, str]) -> Any:
    if "://" not in path:
        return FileSystemReader(path)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(path, **options)
