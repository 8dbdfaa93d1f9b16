"""A script that knows DCP only loses a rank, and goes on from memory, bit by bit."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader

from tests.trial import PRELOAD, WORKLOADS, Trial, takes_long, trial, undisturbed

__all__ = ["trial"]

STEPS = ("--steps", "24", "--storage-every", "4")


@takes_long
def test_a_killed_rank_goes_on_from_the_last_save(trial: Trial) -> None:
    """Saves are every third step: of the four at 3 .. 12 the last is in files too, the
    one of step 15 in memory only, and rank 1 is killed at 16."""
    folder = trial.folder / "saved"
    trial.start(
        "--machines",
        "2",
        script=WORKLOADS / "saved_dcp.py",
        arguments=(str(folder), *STEPS, "--kill-at", "16"),
        config=PRELOAD,
    )
    assert trial.wait() == 0, str(trial)
    begun = re.findall(r"\[rank (\d)\] starts from (\d+) by (\w+)", trial.out)
    assert sorted(begun[:2]) == [("0", "0", "nothing"), ("1", "0", "nothing")]
    assert sorted(begun[2:]) == [("0", "15", "memory"), ("1", "15", "memory")]
    with tempfile.TemporaryDirectory() as other:
        alone = undisturbed(ranks=2, arguments=(other, *STEPS), script="saved_dcp.py")
    assert trial.digests() == alone, str(trial)
    assert trial.err == ""
    metadata = FileSystemReader(folder).read_metadata()
    assert "model.0.weight" in metadata.state_dict_metadata
    assert dcp.FileSystemReader is FileSystemReader and Path(folder).is_dir()
    trial.clean()
