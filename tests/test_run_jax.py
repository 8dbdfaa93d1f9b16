"""Whole jobs of JAX processes: ranks are killed, and no bit differs.

What a job costs here is XLA's compilations; a restarted rank must find them made."""

from __future__ import annotations

import re

from tests.trial import (
    WORKLOADS,
    Trial,
    machine_of,
    takes_long,
    trial,
    undisturbed,
)
from twinstep import inject, timeline_view

__all__ = ["trial"]

SCRIPT = "jax_tiny.py"
CONFIG = 'preload = ["jax", "twinstep.adapters.jax"]\n'
STEPS = "--steps=60"


def start(
    trial: Trial,
    *options: str,
    machines: int = 2,
    standby: int = 0,
    config: str = CONFIG,
) -> None:
    trial.start(
        f"--machines={machines}",
        f"--standby={standby}",
        script=WORKLOADS / SCRIPT,
        arguments=(STEPS, "--pause-s=0.05", *options),
        config=config,
    )


def survives(trial: Trial, *options: str) -> None:
    """Rank 1 is killed, comes back, and the job ends with the bits of one without."""
    status = trial.status(step=8, ranks=2)
    compiled = made(trial)
    assert compiled
    inject.kill_rank(status, 1)
    recovery = trial.recovered(1)
    assert recovery.kind == "rank" and "rank 1" in recovery.reason
    assert recovery.step >= status.safe and recovery.source == "own memory"
    assert trial.wait() == 0, str(trial)
    assert made(trial) == compiled, "a restarted rank compiled again"
    found = re.findall(r"\[rank (\d)\] compiled (\d+) of (\d+)$", trial.out, re.M)
    assert {rank: int(count) for rank, count, _ in found} == {"0": 0, "1": 0}
    assert all(int(asked) for _, _, asked in found)
    assert trial.digests() == undisturbed(
        ranks=2,
        arguments=(STEPS, "--pause-s=0", *options),
        script=SCRIPT,
        preload="jax",
    )
    assert "not captured" not in trial.err
    trial.clean()


def test_a_killed_rank_comes_back_and_one_process_goes_on_from_storage(
    trial: Trial,
) -> None:
    config = f'{CONFIG}[storage]\npath = "{trial.folder / "stored"}"\n'
    start(trial, "--style=fsdp", "--rows", config=config)
    survives(trial, "--style=fsdp")
    before = rows(trial)
    start(trial, "--style=fsdp", "--rows", machines=1, config=config)
    assert trial.wait() == 0, str(trial)
    after = rows(trial)
    began = min(step for step, _ in after)
    assert began > 0
    for row in range(16):
        assert after[began, row] == before[began, row], (began, row)


@takes_long
def test_a_replicated_state_that_is_donated_comes_back(trial: Trial) -> None:
    start(trial, "--style=dp", "--donate")
    survives(trial, "--style=dp", "--donate")


@takes_long
def test_hybrid_sharding_sends_only_what_differs(trial: Trial) -> None:
    """Two pods of two machines: each state is whole in each pod, so that the machine
    with the same boxes in the other pod has what it is to hold a copy of."""
    options = ("--style=hsdp", "--features=8192")
    config = f"""{CONFIG}domains = ["a", "a", "b", "b"]
    [transfer]
    chunk_bytes = 4096
    """
    start(trial, *options, machines=4, standby=1, config=config)
    status = trial.status(step=20, ranks=4)
    seen = timeline_view.look(trial.view())
    for machine in seen.machines:
        assert machine.arrived_bytes > 100_000
        assert machine.spared_bytes > 0.8 * machine.arrived_bytes, machine
    inject.kill_machine(status, machine_of(status, 3))
    # Steps are dispatched ahead here, and count as reached.
    assert trial.recovered(1).step >= status.safe
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == undisturbed(
        ranks=4,
        arguments=(STEPS, "--pause-s=0", *options),
        script=SCRIPT,
        preload="jax",
    )
    trial.clean()


def rows(trial: Trial) -> dict[tuple[int, int], str]:
    """The rows of the weights, by step and number."""
    found = re.findall(r"step (\d+) row (\d+) (\w+)$", trial.out, re.MULTILINE)
    return {(int(step), int(row)): bits for step, row, bits in found}


def made(trial: Trial) -> set[tuple[str, int]]:
    """The compiled programs, and when each was written."""
    folder = trial.job / "compiled"
    return {
        (path.name, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.name.endswith("-cache")
    }
