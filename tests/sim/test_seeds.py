"""Whole clusters of the shipped decisions under damage: every invariant, every seed.

A red seed runs again with `twinstep simulate --first SEED --seeds 1 --trace`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trial import COMMAND
from twinstep.sim.explore import run, shrink
from twinstep.sim.faults import FAULTS, Fault
from twinstep.sim.simulate import simulate

SEEDS = 1000
ONE_SEED = """
import sys
from twinstep.sim.explore import run
print("\\n".join(run(int(sys.argv[1])).trace))
"""


@pytest.mark.timeout(400)  # half a minute on two free cores
def test_no_seed_breaks_an_invariant_and_every_rare_branch_is_reached() -> None:
    report = simulate(first=0, seeds=SEEDS)
    assert not report.failures, report.json()
    assert report.unreached == []


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_one_seed_gives_one_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-c", ONE_SEED, str(seed)],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "77")
    }
    assert len(traces) == 1
    assert "healed" in traces.pop()


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_damage_alone_is_survived(kind: str) -> None:
    for seed in range(5):
        found = run(seed, kinds=[kind])
        assert not found.invariant, f"seed={seed}: {found.what}"
        assert found.probes[f"fault: {kind}"] > 0


def test_a_failure_shrinks_to_the_faults_it_needs(monkeypatch) -> None:
    def break_it(world, _random) -> None:
        raise AssertionError("broken on purpose")

    monkeypatch.setitem(FAULTS, "reorder", break_it)
    others = ["kill_rank", "clog", "kill_rank", "pause"]
    faults = [
        Fault(kind=kind, after_s=0.5, steps=0, seed=f"{n}")
        for n, kind in enumerate([*others[:2], "reorder", *others[2:]])
    ]
    failed = run(1, faults=faults)
    assert failed.what == "AssertionError: broken on purpose"
    assert [fault.kind for fault in shrink(failed).faults] == ["reorder"]
    report = simulate(
        first=1, seeds=1, kinds=["reorder"], fixed={"machines": 2}, processes=1
    )
    (violation,) = json.loads(report.json())["violations"]
    assert violation["again"] == (
        "twinstep simulate --first 1 --seeds 1 --trace --machines 2 --faults reorder"
    )


def test_the_command_says_what_came_of_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = subprocess.run(
        [COMMAND, "simulate", "--seeds", "30", "--json", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 of 30 seeds" in done.stdout
    report = json.loads(path.read_text())
    assert (report["seeds"], report["violations"]) == (30, [])
    assert report["seeds_per_s"] > 0


def test_a_fault_that_is_not_known_is_named() -> None:
    done = subprocess.run(
        [COMMAND, "simulate", "--faults", "earthquake"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "there is no fault earthquake; there are: kill_rank," in done.stderr
