"""Which torch objects and tensors cannot be captured, and what to do instead."""

# Local shards have no public door.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import random

import numpy
import torch
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from twinstep.adapters import torch_values


def tensor_refusal(tensor: torch.Tensor) -> str:
    """Returns why a tensor cannot be captured and the way out, or nothing."""
    if is_lazy(tensor):
        return "not initialised; run one forward pass before twinstep.Session"
    if isinstance(tensor, DTensor):
        return tensor_refusal(tensor._local_tensor)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"a {kind_of(tensor)}; only plain tensors and DTensors can be captured"
    if tensor.layout is not torch.strided or tensor.dtype not in torch_values.NAMES:
        return (
            f"a tensor of {tensor.layout} and {tensor.dtype}; dense tensors of "
            f"{', '.join(torch_values.DTYPES)} can be captured"
        )
    if tensor.device.type not in ("cpu", "cuda"):
        return f"on {tensor.device}; tensors on cpu and cuda can be captured"
    return ""


def refusal_of(value: object) -> str:
    """Returns why an object cannot be captured and the way out, or nothing."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    if isinstance(value, FullyShardedDataParallel):
        return "use FSDP2, torch.distributed.fsdp.fully_shard(model), instead"
    if isinstance(value, ZeroRedundancyOptimizer):
        return "its state moves between ranks; use FSDP2 with a plain optimizer"
    known = torch.nn.Module | Optimizer | torch.Tensor | torch.Generator
    if isinstance(value, known | random.Random | numpy.random.Generator):
        return ""
    methods = ("state_dict", "load_state_dict")
    if all(callable(getattr(value, method, None)) for method in methods):
        return ""
    if isinstance(value, torch.utils.data.DataLoader):
        return (
            "it cannot say where in the data it stands; use "
            "torchdata.stateful_dataloader.StatefulDataLoader, or leave it out and "
            "find the position from the step"
        )
    return (
        "it has no state_dict() and load_state_dict(); give it both, or leave it out. "
        "Modules, optimizers, schedulers, scalers, stateful loaders, generators and "
        "tensors can be captured, and lists and dicts of them"
    )


def kind_of(value: object) -> str:
    """Returns the full name of the value's type."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
