"""One rank's objects of a sharded run, in this process: groups that only pretend.

A fake process group carries nothing, but knows rank and size, so that every box is
what it would be on that rank. All state is filled by hand with what its whole is.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.adapters.small_runs import Slots
from tests.adapters.stored_steps import InMemory, stored_step
from twinstep.adapters.torch import TorchState
from twinstep.adapters.torch_state import Cell

STEP = 12


class Layers(nn.Module):
    """Sizes that few numbers of ranks divide, and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(6, 12)
        self.narrow = nn.Linear(12, 7)
        self.norm = nn.BatchNorm1d(7)


@contextmanager
def rank_of(rank: int, world: int) -> Iterator[None]:
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def model_of(kind: str) -> nn.Module:
    """`kind` is plain, ddp, fsdp, hsdp, tp, or tp+fsdp."""
    model = Layers()
    plan = {"wide": ColwiseParallel(), "narrow": RowwiseParallel()}
    match kind:
        case "ddp":
            return DistributedDataParallel(model)
        case "fsdp":
            return fully_shard(model, mesh=mesh_of(1))
        case "hsdp":
            return fully_shard(model, mesh=mesh_of(2))
        case "tp":
            return parallelize_module(model, mesh_of(1), plan)
        case "tp+fsdp":
            mesh = mesh_of(2)
            outer, inner = mesh.mesh_dim_names or ()
            parallelize_module(model, mesh[inner], plan)
            return fully_shard(model, mesh=mesh[outer])
        case _:
            return model


def mesh_of(dims: int) -> DeviceMesh:
    """Returns a mesh of all ranks; of two dims the outer has two ranks. Its names are
    this rank's, since torch keeps meshes that are equal to earlier ones."""
    rank, world = dist.get_rank(), dist.get_world_size()
    names = (f"outer{rank}", f"inner{rank}")[:dims]
    shape = (world,) if dims == 1 else (2, world // 2)
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def state_of(kind: str, **others: Any) -> TorchState:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_of(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    return TorchState({"model": model, "optimizer": optimizer, **others})


def make_moments(state: TorchState) -> None:
    """The optimizer's state exists afterwards, as after a first update, which would
    take long with DTensors on ever new meshes."""
    for optimizer in state.inventory.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                moments = {
                    key: torch.zeros_like(parameter, requires_grad=False)
                    for key in ("exp_avg", "exp_avg_sq")
                }
                optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}


def whole(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Returns a tensor that is told from every other name's."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return (torch.rand(shape, generator=generator) * 1000).to(dtype)


def expected(cell: Cell, rank: int) -> torch.Tensor:
    """Returns what `rank` holds of a tensor: its box, or for a buffer its own."""
    place = cell.place
    items = whole(place.name, place.global_shape, cell.local.dtype)
    box = zip(place.box_offsets, place.box_shape, strict=True)
    part = items[tuple(slice(first, first + count) for first, count in box)]
    return part + rank if place.staged else part


def captured(kind: str, world: int, **others: Any) -> list[Slots]:
    """Returns the slots of each rank of a run."""
    slots: list[Slots] = []
    for rank in range(world):
        with rank_of(rank, world):
            state = state_of(kind, **{k: make(rank) for k, make in others.items()})
            make_moments(state)
            with torch.no_grad():
                for cell in state.inventory.survey(sharing=True):
                    cell.local.copy_(expected(cell, rank))
            slots.append(Slots.of(state.layout()))
            slots[-1].write(state, state.hold(STEP))
    return slots


def stored(kind: str, world: int, **others: Any) -> InMemory:
    return stored_step(captured(kind, world, **others))
