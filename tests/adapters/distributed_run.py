"""One rank of a small run under DDP or FSDP2; told what to do by its arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.adapters.small_runs import Net, Slots
from tests.leaving import leave
from twinstep.adapters.torch import TorchState
from twinstep.capture.manifest import read_manifest
from twinstep.capture.snapshot import cut

STEPS, CAPTURED = 6, 3


def build(kind: str, rank: int) -> tuple[nn.Module, Any, dict[str, Any]]:
    torch.manual_seed(3)
    net = Net()
    if kind == "ddp":
        model: nn.Module = DistributedDataParallel(net)
    else:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(net.inner, mesh=mesh)
        model = fully_shard(net, mesh=mesh)
    torch.manual_seed(10 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, {"model": model, "optimizer": optimizer}


def local(tensor: Any) -> torch.Tensor:
    return getattr(tensor, "_local_tensor", tensor).detach()


def bits(model: nn.Module, optimizer: Any) -> list[bytes]:
    found = [local(item) for item in model.state_dict().values()]
    for parameter in model.parameters():
        found += [local(item) for item in optimizer.state[parameter].values()]
    return [item.reshape(-1).view(torch.uint8).numpy().tobytes() for item in found]


def update(model: nn.Module, optimizer: Any) -> None:
    tokens = torch.randint(0, 11, (8,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(tokens), tokens).backward()
    optimizer.step()


def check_layout(kind: str, state: TorchState, slots: Slots, rank: int) -> None:
    entries = {entry.name: entry for entry in read_manifest(slots.own).entries}
    weight = entries["model.inner.weight"]
    moment = entries["optimizer[3:model.inner.weight].exp_avg"]
    assert entries["model.norm.running_mean"].region == "own"
    if kind == "ddp":
        assert weight.region == moment.region == "shared"
        assert weight.box_shape == weight.global_shape == (6, 6)
    else:
        rows = 6 // dist.get_world_size()
        assert weight.region == moment.region == "own"
        assert weight.box_shape == moment.box_shape == (rows, 6)
        assert weight.box_offsets == (rows * rank, 0)
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, state.shared_digest())
    assert len(set(digests)) == 1
    assert bool(digests[0]) == (kind == "ddp")


def main(kind: str, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", rank=rank, world_size=world, store=store)
    model, optimizer, objects = build(kind, rank)
    state = TorchState(objects)
    for _ in range(CAPTURED):
        update(model, optimizer)
    layout = state.layout()
    slots = Slots.of(layout, ranks=world)
    slots.write(state, state.hold(CAPTURED))
    check_layout(kind, state, slots, rank)
    for _ in range(CAPTURED, STEPS):
        update(model, optimizer)
    expected = bits(model, optimizer)

    # The ranges of the shared region come from different ranks, as after a failure.
    span = cut(layout.shared_bytes, parts=world, index=rank)
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, bytes(slots.shared[rank]))
    assert len(parts[rank]) == len(span)
    fresh_model, fresh_optimizer, fresh_objects = build(kind, rank)
    shared = [memoryview(part) for part in parts] if layout.shared_bytes else []
    own = memoryview(bytes(slots.own))
    assert TorchState(fresh_objects).restore(own, shared) == CAPTURED
    for _ in range(CAPTURED, STEPS):
        update(fresh_model, fresh_optimizer)
    assert bits(fresh_model, fresh_optimizer) == expected
    check_differences(kind, state, model, rank)
    dist.destroy_process_group()
    print("ok")


def check_differences(
    kind: str, state: TorchState, model: nn.Module, rank: int
) -> None:
    """A replica that differs in one bit has another digest, and can be own state."""
    if kind != "ddp":
        return
    with torch.no_grad():
        weight = next(model.parameters())
        weight.view(torch.int32)[0, 0] ^= rank
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, state.shared_digest())
    assert len(set(digests)) == len(digests)
    state.unshare()
    layout = state.layout()
    assert layout.shared_bytes == 0
    assert state.shared_digest() == b""
    slots = Slots.of(layout)
    slots.write(state, state.hold(9))
    before = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    state.restore(slots.own, [])
    assert torch.equal(weight, before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    leave()
