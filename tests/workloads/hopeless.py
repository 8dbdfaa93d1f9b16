"""Scripts that ask for what cannot be done; the first argument says which."""

from __future__ import annotations

import sys

import torch

import twinstep


class Odd:
    """Its state has what cannot be captured."""

    def state_dict(self) -> dict[str, object]:
        return {"inner": {"file": object()}}

    def load_state_dict(self, state: dict[str, object]) -> None:
        raise NotImplementedError


def train(**more: object) -> None:
    model = torch.nn.Linear(64, 64)
    session = twinstep.Session(model=model, **more)
    start = session.restore()
    step = start + (2 if "order" in sys.argv else 1)
    while True:
        session.after_step(step)
        step += 1


match sys.argv[1]:
    case "state":
        train(odd=Odd())
    case "second":
        twinstep.Session(model=torch.nn.Linear(2, 2))
        train()
    case "order" | "memory":
        train()
    case name:
        sys.exit(f"what is {name}?")
