"""The commands: what is missing is said, plans are made, and a run goes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.decoder.tiny_run import TINY_RUN
from twinstep.decoder.commands import app
from twinstep.decoder.run import Run
from twinstep.errors import UsageError


def call(*arguments: str) -> str:
    """Returns what a command prints. Raises what it raises."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line_imports_no_framework() -> None:
    code = (
        "import sys, twinstep.cli; "
        "print({'jax', 'optax', 'grain', 'torch', 'PIL', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        (["tokenizer"], "data"),
        (["train", "--machines", "0"], "data"),
        (["sample", "hello"], "train"),
        (["eval"], "train"),
        (["prove"], "data"),
        (["goodput"], "train"),
    ],
)
def test_a_missing_stage_is_named(
    tmp_path: Path, command: list[str], stage: str
) -> None:
    with pytest.raises(UsageError, match=f"run `twinstep decoder {stage} --folder"):
        call(*command, "--folder", str(tmp_path))


def test_arguments_are_kept_in_the_runs_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        call("train", "--folder", str(tmp_path), "--steps", "123", "--machines", "3")
    recipe = Run(tmp_path).recipe()
    assert (recipe.train.steps, recipe.job.machines) == (123, 3)


def test_a_plan_as_a_table_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = call(
        *("plan", "--seconds", "600", "--speed", "80e9", "--served", "1e9"),
        *("--json", str(path)),
    )
    assert "20 tokens" in text and "served" in text and "besiroglu" in text
    record = json.loads(path.read_text())
    assert record["flops"] == 48e12
    rule = record["budgets"]["20 tokens a parameter"]
    assert rule["parameters"] == pytest.approx(0.63e6, rel=0.02)
    with pytest.raises(UsageError, match="--flops, or --seconds"):
        call("plan")
    with pytest.raises(UsageError, match="besiroglu, hoffmann"):
        call("plan", "--flops", "1e20", "--law", "own")


def test_a_plan_of_own_runs_foretells_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    lines = [
        {"N": n, "D": d, "loss": 1.8 + 50 / n**0.35 + 100 / d**0.4}
        for n in (1e5, 1e6, 1e7)
        for d in (1e6, 1e7, 1e8)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = call("plan", "--fit", str(path), "--hold-out", "--draws", "2")
    assert "held out: 1e+07 parameters, 1e+08 tokens: loss 2.0405, fore" in text


@pytest.mark.timeout(300)
def test_a_run_from_nothing_is_the_same_bits_twice(tmp_path: Path) -> None:
    code = f"{TINY_RUN}\nprint(trained(run))\nprint(trained(run))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "started by hand: no step is protected" in done.stderr
    first, second = [line for line in done.stdout.splitlines() if len(line) == 32]
    assert first == second
    assert "useful new steps" in call("goodput", "--folder", str(tmp_path))
