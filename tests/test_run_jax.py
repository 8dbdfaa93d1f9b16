"""Whole jobs of JAX processes: ranks are killed, and no bit differs.

What a job costs here is XLA's compilations; a restarted rank must find them made."""

from __future__ import annotations

import re

import pytest

from tests.trial import WORKLOADS, Trial, trial, undisturbed
from twinstep import inject

__all__ = ["trial"]

SCRIPT = "jax_tiny.py"
CONFIG = 'preload = ["jax", "twinstep.adapters.jax"]\n'
STEPS = 60


@pytest.mark.parametrize("options", [("--style=dp", "--donate"), ("--style=fsdp",)])
def test_a_killed_rank_comes_back_with_the_same_bits(
    trial: Trial, options: tuple[str, ...]
) -> None:
    arguments = (f"--steps={STEPS}", *options)
    trial.start(
        "--machines=2",
        script=WORKLOADS / SCRIPT,
        arguments=(*arguments, "--pause-s=0.05"),
        config=CONFIG,
    )
    status = trial.status(step=8, ranks=2)
    compiled = made(trial)
    assert compiled
    inject.kill_rank(status, 1)
    recovery = trial.recovered(1)
    assert recovery.kind == "rank" and "rank 1" in recovery.reason
    assert recovery.step >= 8 and recovery.source == "own memory"
    assert trial.wait() == 0, str(trial)
    assert made(trial) == compiled, "a restarted rank compiled again"
    assert trial.digests() == undisturbed(
        ranks=2, arguments=(*arguments, "--pause-s=0"), script=SCRIPT, preload="jax"
    )
    assert not re.search("was left out|not captured", trial.out + trial.err)
    trial.clean()


def made(trial: Trial) -> set[tuple[str, int]]:
    """The compiled programs, and when each was written."""
    folder = trial.job / "compiled"
    return {
        (path.name, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.name.endswith("-cache")
    }
