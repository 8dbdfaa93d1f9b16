"""A run that two ranks begin and three go on with, really in groups.

Every update is of the same samples, which the ranks divide between them, so that the
losses are those of an uninterrupted run but for the order of sums. The ranks are
forked from one process, for to import torch costs ten times what they do.
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.adapters.small_runs import Slots
from tests.adapters.stored_steps import stored_step
from twinstep.adapters.torch import TorchState
from twinstep.capture.snapshot import cut

BEFORE, CAPTURED, AFTER = 2, 3, 6
SAMPLES = 12


def build(kind: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model: nn.Module = (
        DistributedDataParallel(net) if kind == "ddp" else fully_shard(net, mesh=mesh)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return model, optimizer, {"model": model, "optimizer": optimizer, "rate": scheduler}


def update(objects: dict[str, Any], step: int) -> float:
    """Returns the loss over all samples, before the update."""
    generator = torch.Generator().manual_seed(step)
    share = SAMPLES // dist.get_world_size()
    mine = slice(share * dist.get_rank(), share * (dist.get_rank() + 1))
    inputs = torch.randn(SAMPLES, 5, generator=generator)[mine]
    targets = torch.randint(0, 4, (SAMPLES,), generator=generator)[mine]
    objects["optimizer"].zero_grad()
    loss = nn.functional.cross_entropy(objects["model"](inputs), targets)
    loss.backward()
    objects["optimizer"].step()
    objects["rate"].step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def capture(objects: dict[str, Any], world: int) -> tuple[bytes, bytes, Any]:
    state = TorchState(objects)
    layout = state.layout()
    slots = Slots.of(layout, ranks=world)
    slots.write(state, state.hold(CAPTURED))
    mine = slots.shared[dist.get_rank()]
    assert len(mine) == len(
        cut(layout.shared_bytes, parts=world, index=dist.get_rank())
    )
    return bytes(slots.own), bytes(mine), layout


def begin(kind: str, world: int) -> tuple[list[float], list[Any]]:
    """Returns the losses after the captured step, and what each rank captured."""
    _, _, objects = build(kind)
    for step in range(CAPTURED):
        update(objects, step)
    found: list[Any] = [None] * world
    own, mine, layout = capture(objects, world)
    dist.all_gather_object(found, (own, mine, layout))
    return [update(objects, step) for step in range(CAPTURED, AFTER)], found


def go_on(kind: str, losses: list[float], found: list[Any]) -> None:
    shared = [memoryview(mine) for _, mine, _ in found]
    ranks = [
        Slots(own=memoryview(own), shared=shared, layout=layout)
        for own, _, layout in found
    ]
    _, _, objects = build(kind)
    for step in range(BEFORE):
        update(objects, step)  # the fresh objects are at another place
    rank, world = dist.get_rank(), dist.get_world_size()
    state = TorchState(objects)
    got = state.restore_stored(stored_step(ranks), rank=rank, world_size=world)
    assert got == CAPTURED
    again = [update(objects, step) for step in range(CAPTURED, AFTER)]
    assert torch.allclose(torch.tensor(again), torch.tensor(losses), rtol=1e-5), (
        again,
        losses,
    )


def run(rank: int, world: int, folder: Path) -> None:
    results: dict[str, Any] = {}
    if rank < world - 1:
        store = dist.FileStore(str(folder / "first"), world - 1)
        dist.init_process_group("gloo", rank=rank, world_size=world - 1, store=store)
        results = {kind: begin(kind, world - 1) for kind in ("fsdp", "ddp")}
        dist.destroy_process_group()
    store = dist.FileStore(str(folder / "second"), world)
    dist.init_process_group("gloo", rank=rank, world_size=world, store=store)
    shown: list[Any] = [results]
    dist.broadcast_object_list(shown, src=0)
    for source, target in (("fsdp", "fsdp"), ("ddp", "ddp"), ("ddp", "fsdp")):
        go_on(target, *shown[0][source])
    dist.destroy_process_group()


def main(world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # FSDP2 does, in every rank
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=run, args=(rank, world, folder), daemon=True)
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * world
    print("ok")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
