"""Every benchmark runs with tiny sizes and writes its form. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    draining,
    interleave,
    jax_steps,
    recovery,
    reshard,
    shared_link,
    soaks,
    steps,
    storage,
)
from benchmarks.interleave_job import Found
from benchmarks.interleave_wire import Account, Seen, account
from benchmarks.table import markdown, rows_of, table
from tests.hosts.needs import needs_hosts
from tests.trial import takes_long

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


def test_plan(tmp_path: Path) -> None:
    sizes = ["--machines", "16", "32", "--days", "2", "--samples", "3"]
    alone, alone_twice, *every = run(tmp_path, "plan", *sizes)["rows"]
    assert (alone["machines"], alone_twice["machines"]) == (16, 32)
    assert [row["policies"] for row in every] == [7, 7]
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in every)


@takes_long
@pytest.mark.parametrize("name", [setting.name for setting in steps.SETTINGS])
def test_steps(name: str, tmp_path: Path) -> None:
    options = ["--megabytes", "1", "--rounds", "1", "--steps", "2", "--step-s", "0.1"]
    (found,) = run(tmp_path, "steps", "--setting", name, *options)
    assert found["name"] == name
    assert found["told"] == 3  # two are counted, and the block's first
    assert 0 <= found["captured"] <= found["told"]
    for kind in steps.KINDS:
        assert found[kind]["step_s"] > 0, kind


@takes_long
@pytest.mark.parametrize("name", jax_steps.SETTINGS)
def test_jax_steps(name: str, tmp_path: Path) -> None:
    options = ["--megabytes", "1", "--rounds", "1", "--steps", "2", "--step-s", "0.1"]
    (found,) = run(tmp_path, "jax_steps", "--setting", name, *options)
    assert (found["name"], found["told"]) == (name, 3)
    assert 0 <= found["captured"] <= found["told"]
    assert found["capture"]["ratio"] > 0
    for kind in jax_steps.KINDS:
        assert found[kind]["step_s"] > 0, kind


@takes_long
def test_storage(tmp_path: Path) -> None:
    (found,) = run(tmp_path, "storage", "--quick", "--folder", str(tmp_path))
    ways = {f"{kind} {way}" for kind, ways in storage.KINDS.items() for way in ways}
    assert set(found["ways"]) == ways
    assert all(one["gb_per_s"]["median"] > 0 for one in found["ways"].values())
    assert found["ways"]["write raw"]["ratio"]["high"] == 1.0
    assert found["bytes"] == pytest.approx(2e6, rel=0.02)
    assert not list(tmp_path.glob("bench-storage-*"))


@takes_long
def test_draining(tmp_path: Path) -> None:
    found = run(tmp_path, "draining", "--quick", "--folder", str(tmp_path))
    assert set(found["kinds"]) == set(draining.KINDS)
    none, full = found["kinds"]["none"], found["kinds"]["full"]
    assert none["step_ratio"]["median"] == 1.0
    assert none["stored"] == 0 < full["stored"]
    assert none["drained_bytes_per_s"] == 0 < full["drained_bytes_per_s"]
    assert all(not one["trouble"] for one in found["kinds"].values())


@takes_long
def test_reshard(tmp_path: Path) -> None:
    picture = tmp_path / "losses.png"
    found = run(tmp_path, "reshard", "--quick", "--png", str(picture))
    (then,) = found["then"].values()
    assert 0 < found["stored_step"] == then["start"] <= found["before"]
    assert then["tensors"] > 0 and then["tensors_differ"] == []
    assert found["same_twice"] == []
    assert then["samples_alike"] and then["loss_difference"] < 1e-4
    assert then["steps"] == found["before"] + found["after"] - then["start"]
    assert picture.stat().st_size > 0


def test_what_agents_say_of_storage_is_summed_without_the_warm_up() -> None:
    log = (
        "m0 wrote its part of step 1 to storage: 9.0 MB in 1.00 s, 9.00 s of a ...\n"
        "m0 wrote its part of step 4 to storage: 2.0 MB in 0.50 s, 0.10 s of a ...\n"
        "m1 wrote its part of step 4 to storage: 3.0 MB in 0.50 s, 0.30 s of a ...\n"
        "m0 step 1 is in storage (9.0 MB, 1.00 s)\n"
        "m0 step 4 is in storage (5.0 MB, 0.60 s)\n"
        "m0 step 5 is not written to storage: the round ended\n"
        "m0 step 6 is not written to storage: m1: it is full; tries again in 30 s\n"
    )
    told = draining.told(log, took_s=2.0)
    assert told["stored"] == 1
    assert told["drained_bytes_per_s"] == 2.5e6
    assert told["cpu_s"] == pytest.approx(0.4)
    assert told["writing_bytes_per_s"] == 5e6
    assert told["trouble"] == ["m1: it is full; tries again in 30 s"]


def test_a_tensor_that_differs_or_is_missing_is_named() -> None:
    one = {"digests": {"3": {"a": "x", "b": "y"}}, "losses": {"4": 1.5, "5": 1.0}}
    other = {"digests": {"3": {"a": "x", "b": "z"}}, "losses": {"4": 1.0, "5": 1.0}}
    assert reshard.bits(one, one, steps=[3]) == []
    assert reshard.bits(one, other, steps=[3]) == ["step 3: b"]
    assert reshard.bits(one, {"digests": {}}, steps=[3]) == [
        "step 3: a",
        "step 3: all",
        "step 3: b",
    ]
    assert reshard.difference(one, other) == 0.5


def test_a_killed_rank_comes_back() -> None:
    found = recovery.measure_twinstep(kind="rank", kills=1, megabytes=1)
    (kill,) = found["kills"]
    assert found["median_s"]["back"] == kill["back"] > 0
    assert 0 < kill["detected"] <= kill["decided"] <= kill["loaded"]


@takes_long
@needs_hosts
def test_interleave(tmp_path: Path) -> None:
    options = ["--steps", "4", "--warm-up", "2", "--rounds", "1", "--idle-s", "0.3"]
    options += ["--machines", "2", "--loads", "0.5", "--schemes", "none,off"]
    found = run(tmp_path, "interleave", *options)
    (case,) = found["cases"]
    none, off = case["schemes"]["none"], case["schemes"]["off"]
    assert none["step_s"] > 0 and none["steps"] == off["steps"] == 4
    assert none["training_bytes"] > 1e6
    assert none["copies_bytes"] == 0 < off["copies_bytes"]
    assert case["sent_bytes"] == pytest.approx(
        0.15 * found["link_bytes_per_s"], rel=0.1
    )


@needs_hosts
def test_shared_link(tmp_path: Path) -> None:
    rows = run(tmp_path, "shared_link", "--repeats", "1")
    assert len(rows) == len(shared_link.WAYS) * len(shared_link.PIECES)
    for row in rows:
        # The kernel has a large buffer's piece at once; the wire has it no sooner than
        # the cable lets it.
        least_s = row["piece_bytes"] * 8 / shared_link.BITS_PER_S
        assert not row["waits"] or row["send_s"] > 0.7 * least_s, row


def test_copies_are_told_from_training_on_the_wire() -> None:
    """Two bursts of training, half a second apart; one copy between, one in one."""
    training = [(at, 7000, True) for at in (0.1, 0.104, 0.108, 0.6, 0.604)]
    copies = [(0.3, 50, True), (0.106, 50, True), (0.3, 50, False)]
    frames = [Seen(at, 1500, port, leaves) for at, port, leaves in training + copies]
    seen = account(sorted(frames, key=lambda f: f.at_s), {50}, from_s=0.0, until_s=1.0)
    assert seen.idle_s == pytest.approx(1.0 - 0.008 - 0.004)
    assert (seen.copies_bytes, seen.training_bytes) == (3000, 7500)
    assert seen.idle_share == 0.5
    late = account(frames, {50}, from_s=0.7, until_s=1.0)
    assert (late.copies_bytes, late.idle_share) == (0, None)


def test_a_scheme_that_is_slow_in_every_second_step_shows_in_the_mean() -> None:
    def job(steps_s: list[float]) -> Found:
        wire = Account(
            took_s=1.0, idle_s=0.5, training_bytes=9, copies_bytes=9, idle_share=0.8
        )
        return Found(
            steps_s=steps_s,
            captured=2,
            blocked_s=0.1,
            in_span_share=0.9,
            every=2,
            wire=wire,
            took_s=9.0,
        )

    found = {"none": [job([1.0] * 4)], "twinstep": [job([1.0, 1.0, 1.0, 2.0])] * 2}
    case = interleave.case(0.9, 100, {**found, "naive": []})
    ours = case["schemes"]["twinstep"]
    assert (ours["step_ratio"], ours["mean_ratio"], ours["steps"]) == (1.0, 1.25, 8)
    assert case["every_steps"] == ours["every_steps"] == 2.0
    assert set(case["schemes"]) == {"none", "twinstep"}
    shape = {"style": "ddp", "link_bytes_per_s": 1e6, "idle_s": 0.3}
    assert interleave.table({**shape, "cases": [case]}).row_count == 2


def test_soaks_are_one_table_by_kind() -> None:
    def failure(kind: str, **more: Any) -> dict[str, Any]:
        moments = {"decided": more["resumed_s"] / 2}
        return {"kind": kind, "recoveries": 1, "moments": moments, **more}

    first = [failure("kill-rank", resumed_s=s, steps_lost=s - 1) for s in (1, 2, 5)]
    second = [failure("kill-rank", resumed_s=3, steps_lost=0)]
    went_on = {"kind": "clock", "recoveries": 0, "steps_lost": 0, "moments": {}}

    def soak(failures: list[dict[str, Any]]) -> dict[str, Any]:
        sums = {"resumed": len(failures), "kills": len(failures) + 1}
        found = {"seed": 7, "bit_identical": True, "steps": 9, "seconds": 3.0}
        return {"failures": failures, "summary": sums, "missed": ["one"], **found}

    table = soaks.markdown([soak([*first, went_on]), soak(second)]).splitlines()
    assert table[0] == "seed 7: 4 of 4 resumed, identical, 9 steps in 3 s"
    assert table[-3] == "| clock | 1 | 1 |  |  | 1 / 0 / 0 / 0 | 0 |"
    assert table[-2].startswith(
        "| kill-rank | 4 | 0 | 1.25 / 2.50 | 2.50 / 4.40 / 5.00"
    )
    assert table[-2].endswith("| 2 / 1 / 0 / 1 | 4 |")
    assert table[-1].startswith("| **all** | 5 | 1 |")


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
