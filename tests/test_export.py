"""A step of a job that trains is exported, and plain torch reads it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.trial import PRELOAD, WORKLOADS, Trial, takes_long, trial, twinstep

__all__ = ["trial"]


def nested(folder: Any, file: Any) -> dict[str, Any]:
    """What plain torch makes of a directory."""
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder, file)
    return torch.load(file, weights_only=False)


@takes_long
def test_a_step_in_memory_is_what_the_script_saved(trial: Trial) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    kept = trial.folder / "kept"
    kept.mkdir()
    trial.start(
        *("--machines", "2"),
        script=WORKLOADS / "linear.py",
        arguments=("--steps", "250", "--pause-s", "0.1", "--keep", str(kept)),
        config=PRELOAD,
    )
    trial.status(step=5, ranks=2)
    job = ("--job", str(trial.job))
    for form in ("dcp", "safetensors"):
        out = trial.folder / form
        done = twinstep(trial, "export", str(out), "--format", form, *job)
        assert done.returncode == 0, f"{done.stderr}{trial}"
        step = int(done.stdout.split(" has step ")[1].split()[0])
        saved = torch.load(kept / f"{step}.pt", weights_only=False)
        if form == "dcp":
            found = nested(out, trial.folder / "dcp.pt")
            assert twinstep(trial, "verify", str(out)).returncode == 0
        else:
            names = ("model", "optimizer", "seen")
            found = {name: load_file(out / f"{name}.safetensors") for name in names}
        compare(found, saved, flat=form == "safetensors")
    gone = twinstep(
        trial, "export", "1", str(trial.folder / "x"), "--format", "dcp", *job
    )
    assert gone.returncode == 2 and "step 1 is not in the memory" in gone.stderr
    assert trial.wait(timeout_s=90) == 0, str(trial)


def compare(found: dict[str, Any], saved: dict[str, Any], *, flat: bool) -> None:
    """Raises unless model, buffer and moments are those of rank 0, bit for bit."""
    torch = sys.modules["torch"]
    for name in ("model", "seen"):
        assert set(found[name]) == set(saved[name])
        for key, tensor in saved[name].items():
            assert torch.equal(found[name][key], tensor), key
    keys = list(saved["model"])
    for index, moments in saved["optimizer"]["state"].items():
        for key, tensor in moments.items():
            held = found["optimizer"]
            name = f"state.{keys[index]}.{key}"
            other = held[name] if flat else held["state"][keys[index]][key]
            assert torch.equal(other, tensor), name
