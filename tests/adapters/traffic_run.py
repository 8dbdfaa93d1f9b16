"""One rank of small runs whose collectives are told to a pulse, and of the same runs
without: the bits are the same."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.adapters.distributed_run import bits
from tests.leaving import leave
from twinstep.adapters.torch import TorchState
from twinstep.adapters.torch_traffic import UNWAITED_MAX
from twinstep.schedule.pulse import PULSE_BYTES, Pulse, StepSeen, last_step, read

STEPS, BLOCKS, WIDTH = 6, 3, 16
SETTLED = 3
"""From here on a step's collectives are always the same: DDP rebuilds its buckets,
and says so to all ranks, in the second."""
KNOWN = {
    # Buffers of two dtypes, and the gradients, which fit one bucket.
    "ddp": 2 + 1,
    # Each block is gathered forward and backward, and its gradients are scattered.
    "fsdp": 3 * BLOCKS,
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        *(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
            for _ in range(BLOCKS)
        )
    )
    if kind == "ddp":
        return DistributedDataParallel(net)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in net:
        fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)


class Watched:
    """A pulse, and what it is told while it is watched."""

    def __init__(self) -> None:
        self.page = memoryview(bytearray(PULSE_BYTES))
        self.pulse = Pulse(self.page, threading.RLock())
        self.complaints: list[str] = []
        self.seen: list[StepSeen] = []
        self.open: list[int] = []
        self._step = 0

    def begin(self, state: TorchState) -> Callable[[], None]:
        self.pulse.step_begins(0, time.monotonic_ns())
        return state.watch(self.pulse, self.complaints.append)

    def step_ends(self) -> StepSeen:
        self._settle()
        self.open.append(self.pulse.open)
        self._step += 1
        self.pulse.step_begins(self._step, time.monotonic_ns())
        seen = last_step(self.page)
        assert seen is not None
        self.seen.append(seen)
        return seen

    def _settle(self) -> None:
        until_s = time.monotonic() + 10
        while self.pulse.open and time.monotonic() < until_s:
            time.sleep(0.001)  # the word of a future may come a little late

    def counted(self) -> int:
        """Operations of the present step; all of them are over afterwards."""
        self._settle()
        assert not self.pulse.open
        return len(self.step_ends().operations)


def train(kind: str, rank: int, watched: Watched | None) -> list[bytes]:
    model = build(kind)
    torch.manual_seed(10 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    state = TorchState({"model": model, "optimizer": optimizer})
    unwatch = watched.begin(state) if watched else None
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(4, WIDTH)).square().sum().backward()
        optimizer.step()
        if watched:
            watched.step_ends()
    if unwatch:
        unwatch()
    return bits(model, optimizer)


def check_steps(kind: str, rank: int) -> None:
    plain = train(kind, rank, None)
    watched = Watched()
    assert train(kind, rank, watched) == plain, "the bits differ"
    assert not watched.complaints
    for seen in watched.seen[SETTLED:]:
        assert len(seen.operations) == KNOWN[kind], (kind, seen)
        for start, end in seen.operations:
            assert seen.began_ns <= start < end <= seen.ended_ns
        assert seen.fed
    assert watched.open[SETTLED:] == [0] * (STEPS - SETTLED)
    before = read(watched.page)
    assert before is not None
    assert not before.fed
    assert train(kind, rank, None) == plain
    assert read(watched.page) == before, "it is told after it was closed"


def check_kinds(rank: int, world: int) -> None:
    """Each way to ask for a collective is seen, in groups of any age."""
    model = nn.Linear(2, 2)
    watched = Watched()
    early = dist.new_group([0, 1])
    wait = dist.Work.wait
    unwatch = watched.begin(TorchState({"model": model}))
    late = dist.new_group([0, 1])
    watched.counted()
    own, all_ = torch.ones(2), torch.ones(2 * world)

    def coalesced(call: Callable[..., Any], *tensors: torch.Tensor) -> None:
        with dist._coalescing_manager(async_ops=True) as works:
            call(*tensors)
            call(*tensors)
        works.wait()

    def exchange() -> None:
        if rank == 0:
            dist.send(own, 1)
        else:
            dist.recv(own, 0)

    def functional() -> None:
        import torch.distributed._functional_collectives as functional

        summed = functional.all_reduce(own, "sum", dist.group.WORLD)
        assert summed.sum() == 4

    def evaluates() -> None:
        with torch.inference_mode():
            dist.all_reduce(torch.ones(2))

    def waits_in_c() -> None:
        works = [dist.all_reduce(torch.ones(2), async_op=True) for _ in range(3)]
        for work in works:
            work.get_future().wait()

    calls: list[tuple[Callable[[], Any], int]] = [
        (lambda: dist.all_reduce(torch.ones(2)), 1),
        (lambda: dist.all_reduce(torch.ones(2), group=early), 1),
        (lambda: dist.all_reduce(torch.ones(2), group=late), 1),
        (lambda: dist.broadcast(own, 0), 1),
        (lambda: dist.all_gather_into_tensor(all_, own), 1),
        (lambda: dist.all_gather([torch.ones(2) for _ in range(world)], own), 1),
        (lambda: dist.reduce_scatter_tensor(own, all_), 1),
        (lambda: dist.all_to_all_single(torch.ones(4), torch.ones(4)), 1),
        (lambda: coalesced(dist.all_reduce, torch.ones(2)), 1),
        (lambda: coalesced(dist.reduce_scatter_tensor, own, all_), 1),
        (lambda: dist.all_gather_object([None] * world, rank), 2),
        (functional, 1),
        (evaluates, 1),
        (exchange, 1),
        (waits_in_c, 3),
        (dist.barrier, 0),
    ]
    for number, (call, operations) in enumerate(calls):
        own.fill_(1)
        call()
        found = watched.counted()
        assert found == operations, f"call {number}: {found}, not {operations}"

    check_limits(watched, own)
    watched.counted()
    assert not watched.complaints, watched.complaints
    unwatch()
    unwatch()
    assert dist.Work.wait is wait


def check_limits(watched: Watched, own: torch.Tensor) -> None:
    """Works that nobody waits for are let go, and what fails at once has ended."""
    works = [
        dist.reduce_scatter_tensor(torch.ones(2), torch.ones(4), async_op=True)
        for _ in range(UNWAITED_MAX + 2)
    ]
    assert watched.pulse.open == UNWAITED_MAX, "more are kept than may be"
    for work in works:
        work.wait()
    assert watched.counted() == UNWAITED_MAX + 2

    try:
        dist.all_gather_into_tensor(torch.ones(3), own)
    except (RuntimeError, ValueError):
        assert watched.pulse.open == 0, "what failed at once goes on for ever"
    else:
        raise AssertionError("three do not come from two ranks' two")


def check_trouble() -> None:
    """A feed that fails says so once, and training goes on."""
    watched = Watched()

    def fails(now_ns: int) -> int:
        raise ValueError("a page that cannot be written")

    unwatch = watched.begin(TorchState({"model": nn.Linear(2, 2)}))
    watched.pulse.starts = fails  # type: ignore[method-assign]
    for _ in range(2):
        tensor = torch.ones(2)
        dist.all_reduce(tensor)
        assert tensor.sum() == 4
    assert len(watched.complaints) == 1
    assert "a page that cannot be written" in watched.complaints[0]
    beat = read(watched.page)
    assert beat is not None
    assert not beat.fed
    unwatch()


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", rank=rank, world_size=world, store=store)
    for kind in KNOWN:
        check_steps(kind, rank)
    check_kinds(rank, world)
    check_trouble()
    dist.destroy_process_group()
    print("ok")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    leave()
