"""Hangs are noticed by the job's own pace, and crash loops by their fruits."""

from __future__ import annotations

from twinstep.agent.health import CrashGuard, Probing, StepWatch, culprits, ending
from twinstep.config import Timing

TIMING = Timing(hang_s_min=2.0, hang_steps=10.0, first_step_s_max=100.0)


def watch(*step_s: float) -> tuple[StepWatch, float]:
    one, now_s = StepWatch(timing=TIMING, last_s=0.0), 0.0
    for taken_s in step_s:
        now_s += taken_s
        one.stepped(now_s)
    return one, now_s


def test_the_first_step_of_a_round_may_compile() -> None:
    one, now_s = watch(50.0, 1.0, 1.0)
    assert one.late(now_s + 10.1)
    one.restart(now_s)
    assert one.patience_s_max == 100.0, "while all ranks run"
    assert not one.late(now_s + 2.0) and one.late(now_s + 2.1), "a stopped one is found"
    one.stepped(now_s + 50.0)
    assert one.patience_s_max == TIMING.hang_s_max


def test_the_deadline_is_learnt_from_the_steps_but_has_a_floor() -> None:
    slow, now_s = watch(50.0, 1.0, 3.0, 1.0)
    assert slow.silence_s_max == 10.0, "ten medians, the first step left out"
    assert not slow.late(now_s + 10.0) and slow.late(now_s + 10.1)
    fast, _ = watch(50.0, 0.01, 0.01)
    assert fast.silence_s_max == 2.0


def test_a_stopped_rank_is_the_culprit_even_if_others_are_behind() -> None:
    found, how = culprits({0: "S", 1: "T", 2: "t"}, {0: 3, 1: 4, 2: 4})
    assert (found, how) == ([1, 2], "stopped by a signal")


def test_else_those_that_are_behind() -> None:
    found, how = culprits({0: "S", 1: "R"}, {0: 3, 1: 4})
    assert found == [0] and "still at step 3" in how


def test_where_no_culprit_can_be_told_that_is_said() -> None:
    found, how = culprits({0: "S", 1: "S"}, {0: 3, 1: 3})
    assert found == [0, 1] and "no culprit can be told" in how


def test_probing_waits_for_every_machine_and_asks_again_later() -> None:
    one = Probing(machines=2, until_s=5.0)
    assert one.take("m0", {0: "T"}, {0: 3}) is None
    assert one.take("m0", {0: "T"}, {0: 3}) is None
    found = one.take("m1", {1: "S"}, {1: 3})
    assert found == ("rank 0", "stopped by a signal", True)
    assert not one.late(5.0) and one.late(5.1)


def test_a_rank_that_is_only_behind_is_no_certain_culprit() -> None:
    one = Probing(machines=1, until_s=5.0)
    found = one.take("m0", {0: "S", 1: "S"}, {0: 3, 1: 4})
    assert found == ("rank 0", "still at step 3 while others went on", False)


def test_rounds_without_a_new_step_are_counted_until_there_is_one() -> None:
    guard = CrashGuard(rounds_max=2)
    guard.begins(reached=0)
    assert not guard.failed()
    guard.begins(reached=7)
    guard.stepped(8)
    assert not guard.failed(), "a new step"
    guard.begins(reached=8)
    guard.stepped(6)
    guard.stepped(8)
    assert not guard.failed()
    guard.begins(reached=8)
    guard.stepped(8)
    assert guard.failed(), "step 8 is not new: it was reached before"


def test_the_report_of_a_crash_loop_has_the_last_lines() -> None:
    guard = CrashGuard(rounds_max=3, fruitless=3, furthest=9)
    text = guard.report("rank 0 ended with status 1", ["Traceback", "KeyError"])
    assert "3 rounds in a row made no new step after step 9" in text
    assert text.endswith("Its last lines:\nTraceback\nKeyError")
    assert guard.report("x", []).endswith("(it printed nothing)")


def test_an_ending_is_told_in_words() -> None:
    assert ending(-9) == "was killed by signal 9"
    assert ending(3) == "ended with status 3"
