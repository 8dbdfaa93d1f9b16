"""A training script in which ranks get stuck, each time once, in the ways named.

    stuck.py --steps 60 --once FOLDER 20:1:lock 30:0:sleep

The first time rank 1 comes to step 20 it makes a file in FOLDER and waits for ever for
a lock, while the others wait for it in a collective; then rank 0 at step 30 sleeps."""

from __future__ import annotations

import argparse
import hashlib
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

import twinstep


def get_stuck(how: str) -> None:
    """Never returns, but for `loop`, which computes for a while as an evaluation
    does."""
    match how:
        case "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case "sleep":
            time.sleep(10_000.0)
        case "loop":
            until_s = time.monotonic() + 2.5
            while time.monotonic() < until_s:
                sum(range(1000))
        case "broadcast":
            dist.broadcast(torch.zeros(4), src=1 - dist.get_rank())
        case _:
            raise ValueError(how)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--once", type=Path)
    parser.add_argument("stuck", nargs="*")
    options = parser.parse_args()
    ways = [tuple(way.split(":")) for way in options.stuck]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    model = torch.nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with twinstep.Session(model=model, optimizer=optimizer) as session:
        start = session.restore()
        for step in range(start, options.steps):
            for at, rank, how in ways:
                mine = step == int(at) and dist.get_rank() == int(rank)
                if mine and not (options.once / how).exists():
                    (options.once / how).touch()
                    get_stuck(how)
            loss = model(torch.randn(8, 16)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
            optimizer.step()
            session.after_step(step + 1)
            time.sleep(0.02)
    state = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(f"digest {hashlib.sha256(state).hexdigest()[:16]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
