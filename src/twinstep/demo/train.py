"""The script that the demo trains: `twinstep run --machines 4 train.py [options]`.

An ordinary distributed training script with five lines more: they are marked. What
it does for identical bits (docs/bits.md): one thread; with DDP,
find_unused_parameters=True, so that gradients are summed in the same order from the
first step after a restart on. The digests at the end, the padded step and the ballast
are for the demo's sake; a training needs none of them.
"""

# torch leaves the types of some of its arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import twinstep  # 1 of 5
from twinstep.demo.ballast import Ballast, unloading
from twinstep.demo.final import write_digests
from twinstep.demo.gpt import GPT, Size
from twinstep.demo.library import library_text
from twinstep.demo.options import options, steps_wanted
from twinstep.demo.text import Windows


def build(style: str, size: Size) -> nn.Module:
    """Returns the same model on all ranks, replicated or sharded."""
    gpt = GPT(size)
    if style == "ddp":
        return DistributedDataParallel(gpt, find_unused_parameters=True)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in gpt.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(gpt, mesh=mesh)
    return gpt


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def warm_up(step: int) -> float:
    """The learning rate's share: 20 steps of warm-up, then slowly down."""
    return min((step + 1) / 20, (20 / (step + 1)) ** 0.5)


def append_loss(path: Path | None, step: int, loss: torch.Tensor) -> None:
    if path is None:
        return
    dist.all_reduce(loss)
    if dist.get_rank() > 0:
        return
    mean = loss.item() / dist.get_world_size()
    line = json.dumps({"step": step, "loss": mean, "wall_s": time.time()})
    with path.open("a") as file:
        file.write(line + "\n")


def main() -> None:
    args = options("Trains a small GPT on CPUs.", ("ddp", "fsdp2"))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seed_all(args.seed)
    size = Size()
    model = build(args.style, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
    rank_seed = args.seed * 1000 + dist.get_rank()
    loader = Windows(
        library_text(), context=size.context, batch=args.batch, seed=rank_seed
    )
    seed_all(rank_seed)  # dropout differs between ranks

    ballast = Ballast(args.ballast_mb, rank=dist.get_rank())
    unloader = unloading(ballast)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if args.ballast_mb:
        state["ballast"] = ballast
    session = twinstep.Session(**state, loader=loader)  # 2 of 5
    step = session.restore()  # 3 of 5: 0 on a first start
    while step < steps_wanted(args.steps, args.stop_file):
        began_s = time.monotonic()
        tokens, targets = loader.next_batch()
        optimizer.zero_grad()
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        unloader.step()
        scheduler.step()
        step += 1
        session.after_step(step)  # 4 of 5: returns at once
        append_loss(args.losses, step, loss.detach())
        time.sleep(max(0.0, began_s + args.step_seconds - time.monotonic()))

    session.close()  # 5 of 5: no further step is to be captured
    if args.digests is not None:
        write_digests(args.digests, rank=dist.get_rank(), loader=loader, **state)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
