"""`twinstep plan`, as one calls it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from twinstep.cli import app
from twinstep.errors import TwinstepError

RUNNER = CliRunner()
JOB = shlex.split(
    "--machines 1000 --parameters 6.25e12 --step-seconds 62 --network 400Gbps"
)
SMALL = shlex.split("--machines 16 --parameters 100e9 --step-seconds 62 --preset p4d")


def run(*words: str) -> str:
    result = RUNNER.invoke(app, ["plan", *words], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str) -> str:
    """What is said of words that cannot be planned with."""
    result = RUNNER.invoke(app, ["plan", *words])
    assert isinstance(result.exception, TwinstepError), result.output
    return str(result.exception)


def test_a_plan_has_its_arithmetic_a_line_a_policy_and_reasons(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = ["--failures", "1.5%/day", "--standby", "4", "--samples", "20"]
    said = run(*JOB, *words, "--days", "5", "--json", str(file))
    assert "15 failures a day, one in 96 min" in said
    assert "2 slots x 2 copies x 75 GB" in said
    assert "assumed: --storage 20Gbps" in said
    assert "mean wait for a machine" in said
    made: dict[str, Any] = json.loads(file.read_text())
    by_name = {one["name"]: one for one in made["policies"]}
    assert len(by_name) == 7
    for name, one in by_name.items():
        assert name in said
        sampled, forecast = one["sampled"], one["forecast"]
        assert sampled["goodput"] == pytest.approx(forecast["goodput"], abs=0.02), name
    assert by_name["twinstep"]["forecast"]["goodput"] > 0.97
    assert [one["name"] for one in made["settings"]] == [
        "copies",
        "standbys",
        "capture",
        "storage",
    ]


def test_a_plan_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "plan.png"
    run(*SMALL, "--samples", "0", "--png", str(file))
    assert file.read_bytes().startswith(b"\x89PNG")


def test_pods_are_planned_for(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = shlex.split("--preset tpu-v4 --pods 2 --standby-cubes 4 --samples 0")
    given = shlex.split("--parameters 500e9 --step-seconds 10 --storage 1Tbps")
    said = run(*words, *given, "--json", str(file))
    assert "1920 machines" in said
    assert "training holds the copies itself, nothing is sent" in said
    assert "pod 0 of 2: 64 cubes" in said
    assert "rolling service" in said
    assert "the switch joins their faces" in said
    assert "99 times in 100" in said
    assert "60 cubes only make" not in said
    odd = run(*words[:4], "--standby-cubes", "2", *given, "--samples", "0")
    assert "62 cubes only make a torus of 4x8x124; fewer make 16x16x16" in odd
    made = json.loads(file.read_text())
    assert [one["what"] for one in made["losses"]] == ["chip", "host", "cube", "pod"]
    assert all(one["survives"] for one in made["losses"])


def test_domains_and_traces_are_planned_for(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text('{"at_s": 3600}\n{"at_s": 9000, "machines": 4}\n')
    said = run(*SMALL, "--trace", str(trace), "--samples", "5", "--days", "2")
    assert "the 2 failures of a trace" in said
    racks = shlex.split(
        "--domain-machines 4 --domain-failures 25%/day --failures 0/day"
    )
    assert "1 failures a day" in run(*SMALL, *racks, "--samples", "0")


def test_the_paper_is_printed_with_its_errata(tmp_path: Path) -> None:
    file, png = tmp_path / "paper.json", tmp_path / "paper.png"
    said = run("--paper", "--json", str(file), "--png", str(png))
    made = json.loads(file.read_text())
    count = len(made["rows"])
    assert f"{count} of {count} rows are within 2 % or name their erratum" in said
    for row in made["rows"]:
        close = abs(row["relative_difference"]) <= 0.02
        assert close or made["errata"][row["erratum"]], row
        assert {"id", "what", "published", "computed", "note"} <= set(row)
    assert made["from_85_to_97"][0]["policy"] == "strawman"
    assert made["figure_15_with_our_costs"][-1]["machines"] == 1000
    assert "Figure 15 with twinstep's costs" in said
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_job_s_own_settings_are_explained(tmp_path: Path) -> None:
    file = tmp_path / "twinstep.toml"
    file.write_text("machines = 8\ncopies = 2\nstandbys = 1\n")
    said = run("--config", str(file))
    assert "any one machine may be lost; 2 lost at once: 85.71%" in said
    assert "2 slots x 2 copies: 4 times a machine's state" in said
    words = shlex.split(
        "--parameters 1e9 --step-seconds 1 --network 10Gbps --samples 0"
    )
    assert "8 machines" in run("--config", str(file), *words)


def test_a_job_s_own_settings_are_planned_with(tmp_path: Path) -> None:
    """Its room, and how it plans traffic: copies take 0.48 s, and 0.15 s are idle."""
    file = tmp_path / "twinstep.toml"
    file.write_text("machines = 8\n[schedule]\nmu = 0.5\nlead = 0\nevery_max = 3\n")
    words = shlex.split("--parameters 2.4e8 --step-seconds 1 --network 10Gbps")
    said = run("--config", str(file), *words, "--samples", "0")
    assert "of which 50% is planned with: they do not fit into every_max (3)" in said
    file.write_text("machines = 8\nmemory_bytes_max = 300_000_000\n")
    why = refused("--config", str(file), *words, "--samples", "0")
    assert "300 MB may be used" in why


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "a plan needs --machines .1000., --parameters"),
        ([*JOB[:6]], "a plan needs --network"),
        ([*JOB, "--copies", "1001"], "copies is 1001|copies .1001."),
        ([*SMALL, "--copies", "16"], "2 slots x 16 copies x 75 GB .* use copies = 8"),
        ([*JOB, "--storage", "0Gbps"], "storage_bytes_per_s is 0"),
        ([*JOB, "--storage", "20"], "--storage is '20'; write a number"),
        ([*JOB, "--failures", "1.5%"], "--failures is '1.5%'"),
        ([*JOB, "--preset", "p9"], "p9.*p4d"),
        ([*JOB, "--pods", "2"], "--pods is 2, but --preset .none. has no pods"),
        ([*JOB, "--domain-failures", "1%/day"], "--domain-machines 16"),
        ([*JOB, "--replicas", "3"], "replicas .3. must divide machines .1000."),
        ([*JOB, "--costs", "/nowhere"], "--costs /nowhere cannot be read"),
        ([*JOB, "--trace", "/nowhere"], "--trace /nowhere cannot be read"),
        ([*JOB, "--samples", "-1"], "--samples is -1"),
        ([*JOB, "--days", "nan"], "--days nan"),
        ([*SMALL, "--json", "/nowhere/x"], "--json /nowhere/x cannot be written"),
        ([*SMALL, "--png", "/nowhere/x.png"], "--png /nowhere/x.png cannot be written"),
        (["--paper", "--costs", "/nowhere"], "--costs /nowhere cannot be read"),
    ],
)
def test_bad_input_is_named_with_what_is_allowed(words: list[str], says: str) -> None:
    quick = [] if "--samples" in words else ["--samples", "0"]
    assert re.search(says, refused(*words, *quick), re.DOTALL)


def test_less_is_sent_where_training_holds_copies() -> None:
    said = run(*SMALL, "--replicas", "2", "--samples", "0")
    assert "2 slots x 1 copies x 150 GB" in said
    assert "nothing is sent" in said
