"""DDP whose ranks all hold the same, under as many ranks as there are. Says with how
many it starts, and from which step; ends when a file is there."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import twinstep


def digest(model: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)
    )
    replicas = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(replicas.parameters(), lr=1e-3)
    with twinstep.Session(model=replicas, optimizer=optimizer) as session:
        step = session.restore()
        first = step
        print(f"starts from {step} with {dist.get_world_size()}: {digest(model)}")
        while True:
            batch = torch.randn(8, 16) + dist.get_rank()
            loss = replicas(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if dist.get_rank() == 0:
                with (options.keep / "made").open("a") as made:
                    made.write(f"{step} {digest(model)}\n")
            over = torch.tensor(float((options.keep / "over").exists()))
            dist.all_reduce(over)
            session.after_step(step)
            if over.item() and step > first:
                break
            time.sleep(0.05)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
