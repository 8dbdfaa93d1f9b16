"""The training that benchmarks/reshard.py goes on with; `twinstep run` starts it.

A small GPT (demo/gpt.py) under FSDP2 over all ranks, AdamW, and a GlobalSampler: every
update is of the same samples in the same order, whatever number of ranks divides them.
Dropout is off: its random numbers cannot be those of another number of ranks. Rank 0
writes what every step's loss and samples were, and, where asked, the digest of each
tensor of the whole state: parameters and moments, gathered from all ranks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import twinstep
from twinstep.adapters.sampler import GlobalSampler
from twinstep.demo.gpt import Size
from twinstep.demo.library import library_text
from twinstep.demo.train import build

SAMPLES = 480
"""An epoch is 40 updates, so that its end falls into what is compared."""
SIZE = Size(dropout=0.0)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True, help="the last one")
    parser.add_argument("--batch", type=int, required=True, help="of all ranks")
    parser.add_argument("--digests", choices=("every", "first"), required=True)
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


class Text:
    """Windows of a text, by number."""

    def __init__(self) -> None:
        text = library_text((SIZE.context + 1) * SAMPLES)
        self._text = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def batch(self, samples: list[int]) -> tuple[Tensor, Tensor]:
        long = SIZE.context + 1
        rows = [self._text[number * long :][:long] for number in samples]
        tokens = torch.stack(rows).long()
        return tokens[:, :-1], tokens[:, 1:]


def forever(sampler: GlobalSampler) -> Iterator[list[int]]:
    while True:
        yield from sampler.counted(sampler)


def digests(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Returns the digest of every whole tensor; all ranks must call it."""
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        state = {"parameter": parameter, **optimizer.state[parameter]}
        for key, value in state.items():
            found[f"{name} {key}"] = digest(torch.as_tensor(value))
    return found


def digest(value: Tensor) -> str:
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    raw = whole.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    shape = ",".join(str(extent) for extent in whole.shape)
    return f"{whole.dtype} {shape} {xxhash.xxh3_128_hexdigest(raw.data)}"


def mean_of_all(loss: Tensor) -> float:
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def samples_of_all(samples: list[int]) -> list[int]:
    """Returns the samples of the update in the order of its ranks."""
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, samples)
    return [number for one in every for number in one]


def main() -> None:
    args = options()
    began_s = time.time()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = build("fsdp2", SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    text = Text()
    sampler = GlobalSampler(SAMPLES, batch=args.batch, seed=1, rank=rank, world=world)
    session = twinstep.Session(model=model, optimizer=optimizer, sampler=sampler)
    restoring_s = time.perf_counter()
    start = step = session.restore()
    found: dict[str, Any] = {
        "world": world,
        "start": start,
        "script_began_s": began_s,
        "restore_s": time.perf_counter() - restoring_s,
        "digests": {start: digests(model, optimizer)},
        "losses": {},
        "samples": {},
    }
    for samples in forever(sampler):
        if step >= args.steps:
            break
        tokens, targets = text.batch(samples)
        optimizer.zero_grad()
        loss = model(tokens, targets)
        loss.backward()
        optimizer.step()
        step += 1
        session.after_step(step)
        found["losses"][step] = mean_of_all(loss)
        found.setdefault("first_step_s", time.time())
        found["samples"][step] = samples_of_all(samples)
        if args.digests == "every":
            found["digests"][step] = digests(model, optimizer)
    session.close()
    if rank == 0:
        args.result.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
