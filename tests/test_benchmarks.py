"""Every benchmark runs with tiny sizes and writes its form. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recovery, steps
from benchmarks.table import markdown, rows_of, table

ROOT = Path(__file__).parent.parent
RUN_S_MAX = 100.0


def run(folder: Path, module: str, *options: str) -> Any:
    """Returns the JSON that `python -m benchmarks.<module>` writes."""
    file = folder / f"{module}.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", str(file)]
    subprocess.run(
        [*command, *options],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=RUN_S_MAX,
    )
    return json.loads(file.read_text())


def test_capture(tmp_path: Path) -> None:
    found = run(
        tmp_path, "capture", "--megabytes", "1", "--tensors", "4", "--pairs", "2"
    )
    for name in ("capture", "restore", "verified_restore"):
        assert found[name]["ratio"] > 0, name


def test_transfer(tmp_path: Path) -> None:
    found = run(tmp_path, "transfer", "--mebibytes", "1", "--repeats", "2")
    assert set(found["ratio_to_plain"]) >= {"send", "send, digests known", "restore"}


@pytest.mark.parametrize("name", [setting.name for setting in steps.SETTINGS])
def test_steps(name: str, tmp_path: Path) -> None:
    options = ["--megabytes", "1", "--rounds", "1", "--steps", "2", "--step-s", "0.1"]
    (found,) = run(tmp_path, "steps", "--setting", name, *options)
    assert found["name"] == name
    assert found["told"] == 3  # two are counted, and the block's first
    assert 0 <= found["captured"] <= found["told"]
    for kind in steps.KINDS:
        assert found[kind]["step_s"] > 0, kind


def test_a_killed_rank_comes_back() -> None:
    found = recovery.measure_twinstep(kind="rank", kills=1, megabytes=1)
    (kill,) = found["kills"]
    assert found["median_s"]["back"] == kill["back"] > 0
    assert 0 < kill["detected"] <= kill["decided"] <= kill["loaded"]


def result_of_a_run() -> dict[str, Any]:
    """What `python -m benchmarks` writes, as far as the table reads it."""
    ratio = {"ratio": 0.95, "ratio_low": 0.9, "ratio_high": 1.0, "gb_per_s": 10.0}
    ways = ("send", "send, digests known", "restore", "plain, again")
    spread = {"median": 0.004, "low": 0.003, "high": 0.005}
    kind = {"step_s": 0.5, "after_s": 0.02}
    kind |= {f"extra_{key}": value for key, value in spread.items()}
    kind |= {f"ratio_{key}": 1.0 + value for key, value in spread.items()}
    kill = {"back": 1.4, "load": 0.3, "decided": 1.8, "steps_lost": 1.0}
    kills = {"median_s": kill, "max_s": kill, "kills": [kill]}
    setting = {"blocked_share": spread, "captured": 3, "told": 4}
    setting |= dict.fromkeys(steps.KINDS, kind)
    names = ("rank", "machine", "torchrun", "torchrun_bare")
    computer = {"processor": "P", "cores": 2, "kernel": "6", "python": "3", "torch": 2}
    return {
        "computer": computer,
        "seconds": 1.0,
        "load_before": {"capture": 0.5},
        "capture": dict.fromkeys(("capture", "restore", "verified_restore"), ratio),
        "transfer": {
            "ratio_to_plain": dict.fromkeys(ways, 0.8),
            "median_gb_per_s": dict.fromkeys(ways, 2.0),
        },
        **{f"steps {each.name}": setting for each in steps.SETTINGS},
        "recovery": {"megabytes": 256, **dict.fromkeys(names, kills)},
    }


def test_the_table_says_which_budgets_are_met() -> None:
    result = result_of_a_run()
    verdicts = {row.what: row.verdict for row in rows_of(result)}
    assert verdicts["capture into a slot"] == "met"
    assert verdicts["send with checksums, one stream"] == "not met"
    assert verdicts["loop blocked, 1 machine, 1 rank"] == "met"
    assert verdicts["lost machine to decision"] == "met"
    assert table(rows_of(result)).row_count == len(verdicts)
    kills = result["recovery"]["rank"]
    slow = kills["max_s"] | {"decided": 2.1}
    result["recovery"]["machine"] = kills | {"max_s": slow}
    result["recovery"]["rank"] = kills | {"kills": [{"back": 1.4, "load": 0.3}]}
    late = {row.what: row.verdict for row in rows_of(result)}
    assert late["lost machine to decision"] == "not met"
    assert late["killed rank to first new step, 2 ranks of 256 MB"] == "not met"


def test_a_stage_that_failed_leaves_no_rows() -> None:
    result = result_of_a_run()
    del result["transfer"]
    text = markdown(result)
    assert "send with checksums" not in text
    assert "| capture into a slot | 0.95 (0.90 to 1.00) of memcpy, 10.0 GB/s" in text
