"""A run starts from what plain torch.distributed.checkpoint has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save

from twinstep.adapters.torch import TorchState
from twinstep.errors import StateError


def run(seed: int, steps: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(steps):
        update(model, optimizer, scheduler)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def update(model: Any, optimizer: Any, scheduler: Any) -> None:
    optimizer.zero_grad()
    model(torch.ones(3, 6)).square().mean().backward()
    optimizer.step()
    scheduler.step()


def written(folder: Path, *names: str) -> dict[str, Any]:
    """What plain torch has saved, under these names."""
    made = run(1, 3)
    weights, moments = get_state_dict(made["model"], made["optimizer"])
    whole = {
        "model": weights,
        "optimizer": moments,
        "scheduler": made["scheduler"].state_dict(),
    }
    save({name: whole[name] for name in names}, checkpoint_id=folder, no_dist=True)
    return made


def test_all_goes_on_as_it_would_have_there(tmp_path: Path) -> None:
    there = written(tmp_path / "from torch", "model", "optimizer", "scheduler")
    here = run(2, 0)
    state = TorchState(here)
    state.start_from(str(tmp_path / "from torch"), {})
    assert state.warnings == []
    for _ in range(3):
        update(**there)
        update(**here)
    pairs = zip(there["model"].parameters(), here["model"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert there["scheduler"].state_dict() == here["scheduler"].state_dict()


def test_what_the_checkpoint_lacks_is_named(tmp_path: Path) -> None:
    there = written(tmp_path / "one", "model")
    here = run(2, 0)
    state = TorchState(here)
    state.start_from(str(tmp_path / "one"), {})
    assert torch.equal(there["model"][0].weight, here["model"][0].weight)
    assert [text.split()[0] for text in state.warnings] == ["optimizer", "scheduler"]


@pytest.mark.parametrize("name", ["nothing", "other"])
def test_what_is_no_start_is_refused(name: str, tmp_path: Path) -> None:
    written(tmp_path / "other", "optimizer")
    reason = {"nothing": "is no checkpoint of", "other": "has no model; it has: opt"}
    with pytest.raises(StateError, match=reason[name]):
        TorchState(run(2, 0)).start_from(str(tmp_path / name), {})


def test_another_shape_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "one", "model")
    other = {"model": torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Linear(7, 2))}
    with pytest.raises(StateError, match="does not fit the live objects"):
        TorchState(other).start_from(str(tmp_path / "one"), {})
