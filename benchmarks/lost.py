"""The training that benchmarks/recovery.py injures, under twinstep or under torchrun.

    lost.py --megabytes 256 --steps-file FILE [--saves FOLDER]

A few large matrices with AdamW, a state of so many megabytes on each rank, and a
collective after every step. Rank 0 writes when it has made which step. Under
`twinstep run` the session keeps every step; with --saves each rank writes its state
with torch.save, at every step, and reads it when it starts; with neither it starts
from nothing.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

import twinstep

LAYERS = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--steps-file", type=Path, required=True)
    parser.add_argument("--stop-file", type=Path, required=True)
    parser.add_argument("--saves", type=Path)
    parser.add_argument("--torchrun", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    width = round((args.megabytes * 1e6 / 4 / 3 / LAYERS) ** 0.5)
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    session = None
    step, saved = 0, args.saves / str(rank) if args.saves else None
    if not args.torchrun:
        session = twinstep.Session(model=model, optimizer=optimizer)
        step = session.restore()
    elif saved and saved.exists():
        state = torch.load(saved, mmap=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    going = torch.ones(1)
    while going.item():
        optimizer.zero_grad()
        model(torch.ones(4, width)).square().mean().backward()
        optimizer.step()
        step += 1
        if session is not None:
            session.after_step(step)
        elif saved:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step}, saved.with_suffix(".part"))
            saved.with_suffix(".part").replace(saved)
        going.fill_(not args.stop_file.exists())
        dist.all_reduce(going, dist.ReduceOp.MIN)
        with args.steps_file.with_suffix(f".{rank}").open("a") as file:
            file.write(f"{time.time()} {os.getpid()} {step}\n")
    if session is not None:
        session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
