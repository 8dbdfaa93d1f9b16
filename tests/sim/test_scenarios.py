"""Scenario scripts: tests/scenarios/*.txt, played on a simulated cluster.

After a change that is meant, REWRITE=1 records anew what they print; read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sim.script import Scene, parse, render

SCRIPTS = sorted(Path(__file__).parent.parent.joinpath("scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_scenario_goes_as_it_is_written(path: Path) -> None:
    steps, scene = parse(path.read_text()), Scene()
    for step in steps:
        if step.command:
            step.prints = scene.play(step.command)
    if os.environ.get("REWRITE"):
        path.write_text(render(steps))
    assert render(steps) == path.read_text()


def test_there_is_one_for_each_row_of_the_table_of_failures() -> None:
    assert len(SCRIPTS) >= 14


def test_a_script_that_says_something_else_is_found() -> None:
    (step,) = parse("# Nothing.\ncluster machines=2\n----\nsomething else\n")
    assert Scene().play(step.command) != step.prints
