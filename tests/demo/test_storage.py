"""Whole jobs that go on from storage: a new one, and one that has lost its memory."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.trial import takes_long
from twinstep.demo.drive import Planned
from twinstep.demo.job import Plan
from twinstep.demo.record import compare
from twinstep.demo.show import Screen
from twinstep.demo.trial import train
from twinstep.store.places import Disk
from twinstep.store.reading import look

PLAN = Plan(style="ddp", machines=2, standbys=0, steps=16, step_s=0.05)


def screen() -> Screen:
    return Screen(Console(file=io.StringIO()))


def stored(folder: Path) -> list[int]:
    return [one.step for one in look(Disk(folder), steps_max=100) if one.whole]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("machines", [1, pytest.param(2, marks=takes_long)])
def test_a_new_job_goes_on_where_the_former_one_has_stored(
    machines: int, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    plan = replace(PLAN, machines=machines, copies=machines, storage=str(folder))
    former = train(replace(plan, steps=10), tmp_path / "former", screen())
    assert former.steps == 10
    steps = stored(folder)
    assert steps and len(steps) <= 2, "two are kept"
    later = train(plan, tmp_path / "later", screen())
    assert later.losses[0].step == steps[-1] + 1
    calm = train(replace(plan, storage=""), tmp_path / "calm", screen())
    comparison = compare("ddp", calm.digests, later.digests)
    assert comparison.identical, comparison.differing


@takes_long
@pytest.mark.timeout(400)
def test_a_job_that_has_lost_all_holders_of_a_shard_goes_on(tmp_path: Path) -> None:
    plan = replace(
        PLAN,
        style="fsdp2",
        machines=4,
        steps=1_000_000,
        stoppable=True,
        storage=str(tmp_path / "run"),
    )
    blows = [Planned(kind="kill-group", after_steps=3, moment_s=0.0)]
    injured = train(plan, tmp_path / "injured", screen(), blows=blows, seed=1)
    (failure,) = injured.failures
    assert failure.source == "storage" and failure.lost == ""
    shown = replace(plan, steps=injured.steps, stoppable=False, storage="")
    calm = train(shown, tmp_path / "calm", screen())
    comparison = compare("fsdp2", calm.digests, injured.digests)
    assert comparison.identical, comparison.differing
