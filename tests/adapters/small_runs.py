"""Small training runs of every kind, and slots to capture them into."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from twinstep.adapters.torch import TorchState
from twinstep.capture.snapshot import Held, Layout, cut

torch.set_num_threads(1)


class Net(nn.Module):
    """Dropout, running statistics, tied weights and a branch that starts late."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.inner = nn.Linear(6, 6)
        self.late = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight
        self.use_late = not late

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.drop(self.norm(self.embed(tokens)))
        hidden = hidden + torch.tanh(self.inner(hidden))
        return self.out(self.late(hidden) if self.use_late else hidden)


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
}

SCHEDULERS = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20),
    "steps": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 2, 5], 0.5),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.9**s),
    "cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=50),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.ConstantLR(o, 0.5, 3),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        ],
        [3],
    ),
}


@dataclass(kw_only=True)
class Run:
    """One training run, from the same beginning each time."""

    optimizer_kind: str = "adamw"
    scheduler_kind: str = "cosine"
    late: bool = False
    dtype: torch.dtype = torch.float32
    objects: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(3)
        self.model = Net(late=self.late).to(self.dtype)
        parameters = list(self.model.parameters())
        self.optimizer = OPTIMIZERS[self.optimizer_kind](parameters)
        self.scheduler = SCHEDULERS[self.scheduler_kind](self.optimizer)
        self.objects = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
        }
        self.state = TorchState(self.objects)

    def pass_through(self) -> torch.Tensor:
        """A forward and backward pass on data of the global generator."""
        self.optimizer.zero_grad()
        tokens = torch.randint(0, 11, (8,))
        loss = nn.functional.cross_entropy(self.model(tokens).float(), tokens)
        loss.backward()
        return loss

    def update(self) -> None:
        self.optimizer.step(self.pass_through)
        self.scheduler.step()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.update()

    def bits(self) -> list[bytes]:
        """Everything that the next steps depend on, as bytes."""
        found = [item.detach().clone() for item in self.model.state_dict().values()]
        for parameter in self.model.parameters():
            state = self.optimizer.state.get(parameter, {})
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    found.append(value.detach().clone())
        raw = [item.reshape(-1).view(torch.uint8).numpy().tobytes() for item in found]
        plain = repr([g["lr"] for g in self.optimizer.param_groups])
        return [*raw, plain.encode(), torch.get_rng_state().numpy().tobytes()]


@dataclass(kw_only=True)
class Slots:
    """A slot of the own shard, and the ranges of the shared region."""

    own: memoryview
    shared: list[memoryview]
    layout: Layout

    @staticmethod
    def of(layout: Layout, *, ranks: int = 1, fill: int = 0) -> Slots:
        def slot(size: int) -> memoryview:
            return memoryview(bytearray([fill]) * size)

        total = layout.shared_bytes
        parts = [cut(total, parts=ranks, index=index) for index in range(ranks)]
        return Slots(
            own=slot(layout.own_bytes),
            shared=[slot(len(part)) for part in parts],
            layout=layout,
        )

    def write(self, state: TorchState, held: Held) -> None:
        """All ranges are written, as the ranks of a machine do between them."""
        parts = len(self.shared)
        for index, view in enumerate(self.shared):
            span = cut(self.layout.shared_bytes, parts=parts, index=index)
            state.copy(held, own=self.own, shared=view, shared_range=span)()


def capture(state: TorchState, step: int = 1, *, ranks: int = 1) -> Slots:
    slots = Slots.of(state.layout(), ranks=ranks)
    slots.write(state, state.hold(step))
    return slots


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def differing(left: Sequence[bytes], right: Sequence[bytes]) -> list[int]:
    assert len(left) == len(right)
    return [i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
