"""The training whose step benchmarks/interleave.py times; `twinstep join` starts it.

Computing is mostly sleeping: two cores that really computed for four machines would be
the bottleneck, and the question here is who uses the link. Communication is real: the
gradients of four layers, over gloo and a limited link, by DDP or FSDP2, and one
exchange of features in the middle, as a loss over all ranks' samples needs it.

    forward      loss            backward                                  update
    ..sleeps.... ▓▓▓▓ ..sleeps.. . 4 ....... . 3 . 2 . 1                   .
              features             ▓▓▓▓▓▓      ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓     own state

Features are waited for, and a layer's gradients travel as soon as they are there; so
the link is idle in three spans of different length, and whatever else it carries
outside them makes the step longer. (FSDP2 fetches parameters, too: more and shorter
spans.) State that training replicates is not sent by twinstep. What is sent is the
rank's own: a parameter that differs between ranks and changes, whole, at every step,
and with FSDP2 the shards; together `--sent-bytes`.

`--untold`: no collective is told to the agent, as with a framework that has no hooks.
`--blocking`: training itself sends its own state to the next rank at every step, and
goes on when all have arrived.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import twinstep
from twinstep.adapters.torch import TorchState

WIDTH = 560
"""A layer's gradients are 1.25 MB: 75 ms of a ring of four at 200 Mbit/s."""
FORWARD_S = (0.025, 0.025, 0.025, 0.025)
LOSS_S = 0.12
BACKWARD_S = (0.02, 0.02, 0.16, 0.02)
"""Sleep before the gradients of a layer are computed; the last layer comes first."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--style", choices=("ddp", "fsdp2"), required=True)
    parser.add_argument("--sent-bytes", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--blocking", action="store_true")
    parser.add_argument("--untold", action="store_true")
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


class Pause(torch.autograd.Function):
    """Takes time, and changes nothing, on the way there and back."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        there_s: float,
        back_s: float,
    ) -> torch.Tensor:
        context.back_s = back_s  # type: ignore[attr-defined]
        time.sleep(there_s)
        return x.clone()

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        time.sleep(context.back_s)  # type: ignore[attr-defined]
        return gradients[0], None, None


class Layer(nn.Module):
    def __init__(self, there_s: float, back_s: float) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.there_s, self.back_s = there_s, back_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.linear(x))
        return Pause.apply(x, self.there_s, self.back_s)  # type: ignore[no-untyped-call]


class Own(nn.Module):
    """State of this rank alone, all of which changes at every step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        start = torch.arange(max(1, size // 4), dtype=torch.float32)
        self.state = nn.Parameter(start + dist.get_rank(), requires_grad=False)

    @torch.no_grad()
    def step(self) -> None:
        self.state.mul_(0.5).add_(1.0 + dist.get_rank())


class Training:
    def __init__(self, *, style: str, sent_bytes: int, blocking: bool) -> None:
        torch.manual_seed(0)
        pairs = zip(FORWARD_S, BACKWARD_S, strict=True)
        layers = [Layer(there_s, back_s) for there_s, back_s in pairs]
        model: nn.Module = nn.Sequential(*layers)
        if style == "ddp":
            # A bucket is full with one layer; all of it is there before it is sent.
            model = DistributedDataParallel(model, bucket_cap_mb=1)
        else:
            for layer in layers:
                fully_shard(layer)
            fully_shard(model)
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        sharded = sum(p.nbytes for p in model.parameters()) // dist.get_world_size()
        sent_too = style == "fsdp2" and not blocking  # it sends nothing but its own
        self.own = Own(sent_bytes - (sharded if sent_too else 0))
        self.features = torch.empty(WIDTH, WIDTH)
        self.arrived = torch.empty_like(self.own.state)

    def step(self, number: int) -> None:
        batch = torch.full((2, WIDTH), 1.0 + number % 7)
        self.optimizer.zero_grad()
        outputs = self.model(batch)
        self.features.fill_(outputs.detach()[0, 0].item())
        dist.all_reduce(self.features)
        time.sleep(LOSS_S)
        (outputs - self.features[0, 0] / 1e6).square().mean().backward()
        self.optimizer.step()
        self.own.step()

    def send_own(self) -> None:
        """The own state of all ranks is with the next one."""
        rank, world = dist.get_rank(), dist.get_world_size()
        sent = dist.isend(self.own.state.detach(), (rank + 1) % world)
        came = dist.irecv(self.arrived, (rank - 1) % world)
        for work in (sent, came):
            assert work is not None
            work.wait()
        dist.barrier()


def main() -> None:
    args = options()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    training = Training(
        style=args.style, sent_bytes=args.sent_bytes, blocking=args.blocking
    )
    if args.untold:
        TorchState.watch = lambda *_: lambda: None  # type: ignore[method-assign]
    session = twinstep.Session(
        model=training.model, optimizer=training.optimizer, own=training.own
    )
    start = session.restore()
    assert start == 0, f"a benchmark's job was restored at step {start}"
    steps_s: list[float] = []
    first = session.statistics()
    counted = time.time()
    for number in range(args.warm_up + args.steps):
        if number == args.warm_up:
            first, counted = session.statistics(), time.time()
        began_s = time.perf_counter()
        training.step(number)
        if args.blocking:
            training.send_own()
        session.after_step(number + 1)
        steps_s.append(time.perf_counter() - began_s)
    last = session.statistics()
    result = {
        "steps_s": steps_s[args.warm_up :],
        "warm_up_s": steps_s[: args.warm_up],
        "captured": last.captured - first.captured,
        "blocked_s": last.blocked_s - first.blocked_s,
        "from_s": counted,
        "until_s": time.time(),
    }
    part = args.result.with_suffix(f".{dist.get_rank()}.part")
    part.write_text(json.dumps(result))
    part.replace(args.result.with_suffix(f".{dist.get_rank()}"))
    session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
