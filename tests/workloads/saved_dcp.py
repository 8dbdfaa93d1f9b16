"""A training script that knows DCP only: saves every few steps, and loads at its start.

    saved_dcp.py FOLDER --steps N [--every K] [--storage-every M] [--kill-at S]

Parameters are sharded (FSDP2). Each rank has a generator of its own in its state. With
--kill-at, rank 1 ends itself by SIGKILL after that step, in the first round only.
Prints what it loaded, what its saves were, and a digest of the final state."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from twinstep.dcp import TwinstepReader, TwinstepWriter


def digest(state: dict[str, Any]) -> str:
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, dict):
            found.update(digest(value).encode())
        elif isinstance(value, torch.Tensor):
            local = value.to_local() if hasattr(value, "to_local") else value
            found.update(local.numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--storage-every", type=int, default=1)
    parser.add_argument("--kill-at", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 33), torch.nn.Tanh(), torch.nn.Linear(33, 4)
    )
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(dist.get_rank())

    def state() -> dict[str, Any]:
        of_model, of_optimizer = get_state_dict(model, optimizer)
        random = torch.get_rng_state()
        return {"model": of_model, "optimizer": of_optimizer, "random": random}

    start, wanted = 0, state()
    reader = TwinstepReader(options.folder)
    if reader.found:
        dcp.load(wanted, storage_reader=reader)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=wanted["model"],
            optim_state_dict=wanted["optimizer"],
        )
        torch.set_rng_state(wanted["random"])
        start = reader.step or 0
    print(f"starts from {start} by {reader.source or 'nothing'}", flush=True)
    for step in range(start + 1, options.steps + 1):
        loss = model(torch.randn(8, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % options.every == 0:
            began_s = time.perf_counter()
            writer = TwinstepWriter(
                options.folder, step=step, storage_every=options.storage_every
            )
            dcp.save(state(), storage_writer=writer)
            print(f"saved {step} in {time.perf_counter() - began_s:.4f} s", flush=True)
        first = os.environ.get("TWINSTEP_ROUND", "1") == "1"
        if step == options.kill_at and first and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    print(f"digest {digest(state())}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
