"""A training script of the size of a test: prints a digest of its final state.

Works with and without agents. Each rank has data of its own, so that parameters are
the same on all ranks and a buffer is not."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import twinstep


class Seen(torch.nn.Module):
    """Remembers what its rank alone has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(16))


def digest(optimizer: torch.optim.Optimizer, *modules: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            found.update(tensor.numpy().tobytes())
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            found.update(value.numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--keep", type=Path, help="Rank 0 saves each step here.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    seen = Seen()
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)
    )
    # So that gradients are summed in one order in every start: docs/bits.md.
    replicas = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(replicas.parameters(), lr=1e-3)
    objects = {"model": replicas, "optimizer": optimizer, "seen": seen}
    with twinstep.Session(**objects) as session:
        start = session.restore()
        print(f"starts from {start}")
        for step in range(start, options.steps):
            # torch's generator is part of the state.
            batch = torch.randn(8, 16) + dist.get_rank()
            seen.total += batch.sum(0)
            loss = replicas(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if options.keep and dist.get_rank() == 0:
                state = {"model": model, "optimizer": optimizer, "seen": seen}
                saved = {name: one.state_dict() for name, one in state.items()}
                torch.save(saved, options.keep / f"{step + 1}.pt")
            session.after_step(step + 1)
            time.sleep(options.pause_s)
    print(f"digest {digest(optimizer, model, seen)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
