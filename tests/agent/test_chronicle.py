"""Each recovery is one record, from its cause to the first new step."""

from __future__ import annotations

import msgspec

from twinstep.agent import messages as say
from twinstep.agent.chronicle import ALSO_MAX, REASON_CHARS_MAX, Chronicle
from twinstep.agent.record import Recovery
from twinstep.recovery.choice import Choice


def failed(one: Chronicle, kind: str, who: str, *, now_s: float = 10.0) -> None:
    one.failed(kind, who, f"{who} died", now_s=now_s, round=2, reached=7)


def choice(step: int) -> Choice:
    return Choice(step=step, captured_in=1, sources={}, differing=[], reason="")


def test_a_recovery_is_open_until_the_first_new_step() -> None:
    one = Chronicle()
    assert one.moment("ranks_up_s", 1.0) == [] and one.saved() == []
    failed(one, "rank", "rank 1")
    assert one.decided(choice(5), reached=8, now_s=11.0) == 8
    one.read_from(["own memory", "memory of m1", "own memory"])
    (saved,) = one.moment("first_step_s", 12.0)
    record = msgspec.json.decode(saved.record, type=Recovery)
    assert (record.detected_s, record.decided_s, record.first_step_s) == (10, 11, 12)
    assert record.steps_lost == 3
    assert record.sources == {"own memory": 2, "memory of m1": 1}
    assert record.source == "memory of m1", "the farthest"
    assert one.open is None


def test_failures_during_a_recovery_belong_to_it() -> None:
    one = Chronicle()
    failed(one, "rank", "rank 1")
    failed(one, "rank", "rank 2", now_s=11.0)
    assert one.count == 1 and one.last is not None
    assert one.last.also == ["rank rank 2: rank 2 died"]
    one.moment("first_step_s", 12.0)
    failed(one, "rank", "rank 3", now_s=20.0)
    assert one.count == 2


def test_a_recovery_without_end_keeps_a_bounded_record() -> None:
    one = Chronicle()
    for _ in range(1 + ALSO_MAX + 5):
        one.failed("rank", "r", "x" * 10_000, now_s=1.0, round=2, reached=7)
    assert one.last is not None
    assert (len(one.last.also), one.last.also_unnamed) == (ALSO_MAX, 5)
    assert max(map(len, one.last.also)) == REASON_CHARS_MAX


def test_a_machine_explains_the_ranks_that_failed_before_its_lease_lapsed() -> None:
    one = Chronicle()
    failed(one, "rank", "rank 1")
    failed(one, "machine", "m1", now_s=11.0)
    assert one.last is not None
    assert (one.last.kind, one.last.who, one.last.detected_s) == ("machine", "m1", 10.0)


def test_redundancy_is_noted_once_and_after_the_recovery() -> None:
    one = Chronicle()
    assert one.redundant(5.0) == []
    failed(one, "rank", "rank 1")
    one.moment("first_step_s", 12.0)
    assert len(one.redundant(13.0)) == 1
    assert one.redundant(14.0) == []
    assert one.last is not None and one.last.redundant_s == 13.0


def test_a_bad_copy_is_written_down_once() -> None:
    one = Chronicle()
    bad = say.CopyBad(
        machine="m1",
        round=1,
        term=1,
        shard=0,
        step=5,
        holder="m0",
        corrupt=True,
        last=False,
        reason="a test",
    )
    text = "m0's copy of shard 0 at step 5 is bad: a test (found by m1)"
    assert one.copy_bad(bad) == text, "before anything failed"
    failed(one, "rank", "rank 1")
    one.copy_bad(bad)
    one.copy_bad(bad)
    assert "not to be had" in one.copy_bad(msgspec.structs.replace(bad, corrupt=False))
    assert one.last is not None and one.last.bad == [text]


def test_a_start_from_nothing_says_so() -> None:
    record = Recovery(number=1, round=2, kind="rank", who="", reason="", detected_s=1.0)
    assert record.source == "start" and record.steps_lost == 0
