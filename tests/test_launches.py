"""Ranks that torchrun or mpirun started are protected as `twinstep run`'s are.

Real launchers and real processes; the reference is the same script without agents.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.launches import LaunchTrial, torchrun
from tests.trial import WORKLOADS, undisturbed
from twinstep import inject

LINEAR = str(WORKLOADS / "linear.py")
STEPS = ("--steps", "90")


@pytest.fixture
def trial() -> Iterator[LaunchTrial]:
    # Not tmp_path: paths of Unix sockets take 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        found = LaunchTrial(Path(folder))
        try:
            yield found
        finally:
            found.close()


@cache
def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=STEPS)


def test_a_rank_killed_under_torchrun_comes_back_from_memory(
    trial: LaunchTrial,
) -> None:
    trial.launch([*torchrun("--max-restarts=3", ranks=2), LINEAR, *STEPS])
    status = trial.status(step=10, ranks=2)
    inject.kill_rank(status, 1)
    recovery = trial.recovered(1)
    assert recovery.kind == "rank" and "rank 1" in recovery.reason, recovery
    assert "signal 9" in recovery.reason
    assert recovery.step >= 10 and recovery.steps_lost <= 1, recovery
    assert recovery.source == "own memory"
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == reference(), str(trial)
    assert trial.err.count("started this machine's agent") == 1, str(trial)
    trial.clean()
