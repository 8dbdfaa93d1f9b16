"""What came of a failure, the JSON of it, and whether bits differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.demo import records
from twinstep.demo.record import (
    compare,
    failure_of,
    read_digests,
    report,
    summary,
)


def test_times_count_from_the_blow() -> None:
    failure = records.failure()
    assert failure.struck_s == 10.0
    assert failure.detected_s == 1.5
    assert failure.resumed_s == 4.0
    assert failure.redundant_s == 4.5
    assert failure.source == "memory of m03"
    assert failure.steps_lost == 1


def test_a_second_recovery_of_one_blow_counts_from_the_first_to_the_last() -> None:
    first = records.recovery(reached=25, first_step_s=102.5)
    second = records.recovery(detected_s=103.0, reached=24, step=22, first_step_s=106.0)
    failure = records.failure(first, second)
    assert (failure.detected_s, failure.resumed_s) == (1.5, 6.0)
    assert failure.steps_lost == 3


def test_more_than_the_step_on_its_way_is_lost_only_if_copies_had_time() -> None:
    slow = records.recovery(reached=22)
    assert "cost 2 steps" in records.failure(slow).lost
    assert records.failure(slow, settled=False).lost == ""
    assert records.failure().lost == ""


def test_a_blow_at_a_copy_may_cost_the_step_that_was_made_meanwhile() -> None:
    two, three = records.recovery(reached=22), records.recovery(reached=23)
    kind = "kill-machine-sending"
    assert records.failure(two, kind=kind).lost == ""
    assert "cost 3 steps" in records.failure(three, kind=kind).lost


def test_a_step_that_was_safe_is_never_lost() -> None:
    assert records.failure(safe_before=20, settled=False).lost == ""
    assert "though step 21 was safe" in records.failure(safe_before=21).lost
    assert "step 21 was safe" in records.failure(safe_before=21, settled=False).lost


def test_the_sums_of_a_kind_tell_what_each_blow_cost() -> None:
    failures = [
        records.failure(),
        records.failure(records.recovery(reached=20)),
        records.failure(aims=4),
    ]
    sums = summary(failures, kills=3)["kinds"]["kill-machine"]
    assert sums["steps_lost"] == {"0": 1, "1": 2}
    assert (sums["count"], sums["resumed"]) == (3, 3)
    assert (sums["first_aim"], sums["aims_max"]) == (2, 4)


def test_a_damaged_copy_must_be_named() -> None:
    damaged = ("m01", 4)
    named = records.recovery(bad=["m01's copy of shard 4 at step 20 is bad: chunk 2"])
    other = records.recovery(bad=["m02's copy of shard 4 at step 20 is bad: chunk 2"])
    assert records.failure(named, damaged=damaged).lost == ""
    assert "not found to be bad" in records.failure(other, damaged=damaged).lost
    assert "not found to be bad" in records.failure(damaged=damaged).lost


def digests(*values: str) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        f"rank{rank}": {"weight": {"bytes": 4, "xxh3_128": value}}
        for rank, value in enumerate(values)
    }


def test_equal_digests_are_identical() -> None:
    comparison = compare("ddp", digests("a", "b"), digests("a", "b"))
    assert comparison.identical
    assert (comparison.parts, comparison.size) == (2, 8)


def test_another_digest_a_missing_part_and_a_missing_rank_differ() -> None:
    assert compare("ddp", digests("a", "b"), digests("a", "c")).differing == [
        "rank1 weight"
    ]
    fewer = {**digests("a"), "rank1": {}}
    assert not compare("ddp", digests("a", "b"), fewer).identical
    assert not compare("ddp", digests("a"), digests("a", "b")).identical
    assert not compare("ddp", digests("a", "b"), digests("a")).identical


def test_nothing_is_not_identical() -> None:
    assert not compare("ddp", {}, {}).identical


def test_digests_are_read_from_their_folder(tmp_path: Path) -> None:
    for name, found in digests("a", "b").items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "rank2.part").write_text("half")
    assert read_digests(tmp_path) == digests("a", "b")


def test_the_report_has_what_was_promised() -> None:
    same = compare("ddp", digests("a"), digests("a"))
    other = compare("fsdp2", digests("a"), digests("b"))
    made = report([records.failure()], [same, other], steps=9, timeline=[{"at_s": 1}])
    made = json.loads(json.dumps(made))
    keys = {"kind", "detected_s", "source", "steps_lost", "resumed_s"}
    assert keys <= set(made["failures"][0])
    assert (made["bit_identical"], made["steps"]) == (False, 9)
    assert made["timeline"] == [{"at_s": 1}]
    assert report([], [same], steps=1, timeline=[])["bit_identical"]
    assert not report([], [], steps=1, timeline=[])["bit_identical"]


def test_sums_are_over_all_kills() -> None:
    failures = [
        records.failure(records.recovery(step=21)),
        records.failure(records.recovery(reached=25, step=21), settled=False),
        records.failure(records.recovery(first_step_s=110.0), kind="kill-root"),
    ]
    sums = summary(failures, kills=4)
    assert (sums["resumed"], sums["kills"]) == (3, 4)
    assert (sums["steps_lost_median"], sums["steps_lost_max"]) == (1, 4)
    assert sums["steps_lost_max_settled"] == 1
    assert sums["recovery_s"]["kill-root"] == {"count": 1, "median": 10, "max": 10}
    assert sums["recovery_s"]["kill-machine"]["count"] == 2


def test_training_that_went_on_is_no_recovery() -> None:
    facts = {"style": "ddp", "began_s": 90.0, "at_step": 21, "settled": False}
    went_on = failure_of("delay", records.blow(), [], **facts)
    back = failure_of("delay", records.blow(), [records.recovery()], **facts)
    assert (went_on.recoveries, went_on.steps_lost, went_on.lost) == (0, 0, "")
    found = summary([went_on, back], kills=2)["kinds"]["delay"]
    assert (found["count"], found["went_on"], found["recoveries"]) == (2, 1, 1)
    assert found["next_step_s"] == {"count": 1, "median": 4.0, "max": 4.0}
    assert found["decided_s"]["max"] == 2.0


def test_times_are_by_our_clock_where_the_roots_is_wrong() -> None:
    hour = {"detected_s": 3701.5, "decided_s": 3702.0, "first_step_s": 3704.0}
    found = failure_of(
        "kill-root",
        records.blow(),
        [records.recovery(**hour)],
        style="ddp",
        began_s=90.0,
        at_step=21,
        settled=True,
        clock_ahead_s=3600.0,
    )
    assert found.moments["decided"] == 2.0
    assert (found.detected_s, found.resumed_s, found.struck_s) == (1.5, 4.0, 10.0)
