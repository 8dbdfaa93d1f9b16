"""The training loop that benchmarks/steps.py times; `twinstep run` starts it.

One optimizer and a stack of square matrices, so many that parameters and AdamW's state
have the size asked for; the batch is chosen at start so that a step takes the time
asked for with all threads computing. The loop runs in blocks of steps of one kind:

    none      nothing is kept
    twinstep  session.after_step after every step
    torch     a copy of the state by torch's copy_, at every step, while training waits
    numpy     the same by one thread's memcpy

All kinds come once in each round, in an order drawn anew, so that what else the
computer does meets all of them. The first step of a block is not counted: in
it nothing is yet copied beside training, and the caches are another kind's. After a
block of twinstep's the loop waits, untimed, for the copy that is under way. With more
than one rank every step ends in a collective, as training does.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import twinstep

KINDS = ("none", "twinstep", "torch", "numpy")
SETTLE_S_MAX = 2.0  # a step that was answered with no is told to nobody
ROWS_MIN, ROWS_MAX = 16, 1 << 16


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--tensors", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="counted, a block")
    parser.add_argument("--ddp", action="store_true")
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


class Training:
    """The model, its optimizer and copies of both."""

    def __init__(self, *, megabytes: float, tensors: int, ddp: bool) -> None:
        layers = max(1, tensors // 3)
        self.width = round((megabytes * 1e6 / 4 / 3 / layers) ** 0.5)
        torch.manual_seed(0 if ddp else self.rank)
        self.model: nn.Module = nn.Sequential(
            *(nn.Linear(self.width, self.width, bias=False) for _ in range(layers))
        )
        self.trained = (
            DistributedDataParallel(self.model, find_unused_parameters=True)
            if ddp
            else self.model
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.rows = ROWS_MIN
        self.step()
        moments = self.optimizer.state.values()
        states = [state[key] for state in moments for key in ("exp_avg", "exp_avg_sq")]
        self.live = [p.detach() for p in self.model.parameters()] + states
        self.copies = [tensor.clone() for tensor in self.live]

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.live)

    def step(self) -> None:
        batch = torch.ones(self.rows, self.width)
        self.optimizer.zero_grad()
        self.trained(batch).square().mean().backward()
        self.optimizer.step()
        if dist.is_initialized():
            dist.all_reduce(torch.zeros(1))

    def choose_batch(self, step_s: float) -> None:
        """A step takes about `step_s` afterwards, the same batch on all ranks.

        The batch doubles until a step takes half of that: an estimate from two small
        batches would be all noise."""
        took_s = self._took_s()
        while took_s < step_s / 2 and self.rows < ROWS_MAX:
            self.rows *= 2
            took_s = self._took_s()
        self.rows = max(ROWS_MIN, min(ROWS_MAX, round(self.rows * step_s / took_s)))

    def _took_s(self) -> float:
        """What a step takes now; on all ranks the first one's."""
        took_s = torch.tensor(min(timed(self.step) for _ in range(3)))
        if dist.is_initialized():
            dist.broadcast(took_s, 0)
        return took_s.item()

    def copy_torch(self) -> None:
        for copy, tensor in zip(self.copies, self.live, strict=True):
            copy.copy_(tensor)

    def copy_numpy(self) -> None:
        for copy, tensor in zip(self.copies, self.live, strict=True):
            np.copyto(copy.numpy(), tensor.numpy())


def timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


class Protection:
    """The session, and the number of the last step that it was told of."""

    def __init__(self, training: Training) -> None:
        model, optimizer = training.trained, training.optimizer
        self.session = twinstep.Session(model=model, optimizer=optimizer)
        self.reached = self.session.restore()

    def after_step(self) -> None:
        self.reached += 1
        self.session.after_step(self.reached)

    def settle(self) -> None:
        """What was told is captured, or skipped; its copies have a moment more."""
        until_s = time.monotonic() + SETTLE_S_MAX
        while time.monotonic() < until_s:
            known = self.session.statistics()
            if known.captured + known.skipped >= known.steps:
                break
            time.sleep(0.01)
        time.sleep(0.3)


def run_block(
    training: Training, protection: Protection, *, kind: str, steps: int
) -> dict[str, float]:
    """Returns the median step and the share of it in which the loop was blocked."""
    after: Callable[[], object] = {
        "none": lambda: None,
        "twinstep": protection.after_step,
        "torch": training.copy_torch,
        "numpy": training.copy_numpy,
    }[kind]
    steps_s: list[float] = []
    after_s: list[float] = []
    blocked_s: list[float] = []
    for _ in range(steps + 1):
        before = protection.session.statistics()
        began_s = time.perf_counter()
        training.step()
        after_s.append(timed(after))
        steps_s.append(time.perf_counter() - began_s)
        blocked = protection.session.statistics().blocked_s - before.blocked_s
        blocked_s.append(blocked if kind == "twinstep" else after_s[-1])
    if kind == "twinstep":
        protection.settle()
    return {
        "step_s": statistics.median(steps_s[1:]),
        "after_s": statistics.median(after_s[1:]),
        "blocked_s": statistics.median(blocked_s[1:]),
        "blocked_s_max": max(blocked_s[1:]),
        "blocked_share": sum(blocked_s[1:]) / sum(steps_s[1:]),
    }


def main() -> None:
    args = options()
    dist.init_process_group("gloo")
    alone = dist.get_world_size() == 1
    if alone:
        dist.destroy_process_group()
    training = Training(megabytes=args.megabytes, tensors=args.tensors, ddp=args.ddp)
    training.choose_batch(args.step_s)
    protection = Protection(training)
    for _ in range(3):  # slots are reserved, and their pages touched, at the first
        training.step()
        protection.after_step()
        protection.settle()
    first = protection.session.statistics()
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        order = random.Random(number).sample(KINDS, len(KINDS))
        blocks = {
            kind: run_block(training, protection, kind=kind, steps=args.steps)
            for kind in order
        }
        rounds.append(blocks)
    last = protection.session.statistics()
    result = {
        "bytes": training.size,
        "tensors": len(training.live),
        "rows": training.rows,
        "threads": torch.get_num_threads(),
        "told": last.steps - first.steps,
        "captured": last.captured - first.captured,
        "skipped": last.skipped - first.skipped,
        "copy_s": (last.copied_s - first.copied_s)
        / max(1, last.captured - first.captured),
        "rounds": rounds,
    }
    args.result.with_suffix(f".{training.rank}").write_text(json.dumps(result))
    protection.session.close()
    if not alone:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
