"""Jobs of two machines in which a trainer holds the loop, and a rank kills itself."""

from __future__ import annotations

import os
from functools import cache

import pytest

from tests.trial import WORKLOADS, Trial, open_trial

START_S_MAX = 200.0
"""Frameworks of this size take long to import where cores are shared."""
takes_integrations = pytest.mark.skipif(
    "TWINSTEP_INTEGRATIONS" not in os.environ,
    reason="takes long: make test-integrations",
)


def run(trial: Trial, *, script: str, at: int) -> dict[int, str]:
    """Returns each rank's digest of the end."""
    marker = trial.folder / "killed"
    arguments = ["--at", str(at), "--marker", str(marker), "--pause-s", "0.05"]
    trial.start("--machines", "2", script=WORKLOADS / script, arguments=arguments)
    assert trial.wait(timeout_s=START_S_MAX) == 0, str(trial)
    assert marker.exists() == bool(at)
    found = trial.digests()
    assert sorted(found) == [0, 1], str(trial)
    return found


@cache
def reference(script: str) -> dict[int, str]:
    """The digests of a job that nothing has disturbed."""
    with open_trial() as trial:
        return run(trial, script=script, at=0)


def comes_back(trial: Trial, *, script: str, at: int) -> None:
    """A rank dies in batch `at`; the end is that of the undisturbed job.

    The jobs differ in nothing but the file that the killed rank leaves."""
    undisturbed = reference(script)
    found = run(trial, script=script, at=at)
    assert "is the newest with a good copy of every shard" in trial.out, str(trial)
    assert found == undisturbed, str(trial)
    trial.clean()
