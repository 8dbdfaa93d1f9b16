"""A whole small job: it is injured, comes back, and ends in the same bits."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.trial import takes_long
from twinstep.demo.drive import Planned
from twinstep.demo.frameworks import FRAMEWORKS
from twinstep.demo.ground import Loopback
from twinstep.demo.job import Plan, RunningJob
from twinstep.demo.record import compare
from twinstep.demo.show import Screen
from twinstep.demo.trial import train
from twinstep.errors import DeadlinePassed

PLAN = Plan(
    style="fsdp2",
    machines=2,
    steps=1_000_000,  # told to end after the last blow, however long that is aimed
    step_s=0.05,
    ballast_mb=16,
    stoppable=True,
)


@takes_long
@pytest.mark.timeout(240)
def test_an_injured_run_ends_in_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    blows = [
        Planned(kind="kill-rank-capturing", after_steps=4, moment_s=0.02),
        Planned(kind="kill-machine-sending", after_steps=4, moment_s=0.0),
    ]
    screen = Screen(Console(file=io.StringIO()))
    injured = train(PLAN, tmp_path / "injured", screen, blows=blows, seed=1)
    shown = replace(PLAN, steps=injured.steps, stoppable=False)
    calm = train(shown, tmp_path / "calm", screen)
    assert [failure.kind for failure in injured.failures] == [
        "kill-rank-capturing",
        "kill-machine-sending",
    ]
    assert [failure.lost for failure in injured.failures] == ["", ""]
    for failure, phase in zip(injured.failures, ("capturing", "sending"), strict=True):
        assert re.match(rf"{phase}: \d+% of m\d+'s copy", failure.detail)
    assert injured.failures[0].source == "own memory"
    assert injured.failures[1].source.startswith("memory of ")
    assert calm.steps == injured.steps < PLAN.steps
    comparison = compare("fsdp2", calm.digests, injured.digests)
    assert comparison.identical, comparison.differing
    assert sorted(calm.digests) == ["rank0", "rank1"]
    events = [event["event"] for event in injured.timeline]
    assert events[0] == "start" and events[-1] == "end"
    assert "kill-machine-sending: first step" in events


@pytest.mark.timeout(120)
def test_a_wait_ends_with_whom_it_waited_for_and_leaves_nothing(tmp_path: Path) -> None:
    job = RunningJob(PLAN, tmp_path / "job", lambda _: None, ground=Loopback())
    try:
        job.wait("machines", lambda s: s.status is not None, limit_s=60)
        assert job.living()
        with pytest.raises(DeadlinePassed, match=r"(?s)without a miracle.*round.*log"):
            job.wait("a miracle", lambda _: False, limit_s=0.1)
    finally:
        job.close()
    assert not job.living()


@takes_long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("style", FRAMEWORKS["jax"].styles)
def test_an_injured_run_in_jax_ends_in_the_same_bits(
    tmp_path: Path, style: str
) -> None:
    plan = replace(PLAN, framework="jax", style=style, ballast_mb=1)
    blows = [
        Planned(kind="kill-rank", after_steps=4, moment_s=0.02),
        Planned(kind="kill-machine", after_steps=4, moment_s=0.0),
    ]
    screen = Screen(Console(file=io.StringIO()))
    injured = train(plan, tmp_path / "injured", screen, blows=blows, seed=1)
    shown = replace(plan, steps=injured.steps, stoppable=False)
    calm = train(shown, tmp_path / "calm", screen)
    assert len(injured.failures) == len(blows)
    assert compare(style, calm.digests, injured.digests).identical
