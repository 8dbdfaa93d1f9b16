"""Hangs are noticed by the job's own pace, and crash loops by their fruits."""

from __future__ import annotations

from twinstep.agent.culprits import Verdict
from twinstep.agent.health import CrashGuard, Looking, StepWatch, ending
from twinstep.agent.messages import Sight
from twinstep.config import Timing

TIMING = Timing(hang_s_min=2.0, hang_steps=10.0, first_step_s_max=100.0)
UNSURE = Verdict(ranks=(0,), how="is in its own code")
PROVEN = Verdict(ranks=(0,), how="sleeps", proven=True)
STOPPED = Verdict(ranks=(0,), how="is stopped", stopped=True)


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
    for verdict in (UNSURE, PROVEN):
        assert one.patience_s(verdict, fruitless=0) == 100.0, "while all ranks run"
    assert one.patience_s(STOPPED, fruitless=0) == 0.0
    assert not one.late(now_s + 2.0) and one.late(now_s + 2.1), "a stopped one is found"
    one.stepped(now_s + 50.0)
    assert one.patience_s(UNSURE, fruitless=0) == TIMING.hang_s_max
    assert one.patience_s(PROVEN, fruitless=0) == TIMING.deadlock_s_min
    assert one.patience_s(STOPPED, fruitless=0) == 0.0


def test_a_round_that_bore_no_fruit_doubles_the_patience_of_the_next() -> None:
    one, _ = watch(1.0, 1.0)
    waits = [one.patience_s(UNSURE, fruitless=count) for count in range(3)]
    assert waits == [600.0, 1200.0, 2400.0]


def test_slow_steps_are_never_ended_before_the_ranks_are_looked_at() -> None:
    one, _ = watch(500.0, 500.0, 500.0)
    assert one.patience_s(PROVEN, fruitless=0) == one.silence_s_max == 5000.0


def test_the_deadline_is_learnt_from_the_steps_but_has_a_floor() -> None:
    slow, now_s = watch(50.0, 1.0, 3.0, 1.0)
    assert slow.silence_s_max == 10.0, "ten medians, the first step left out"
    assert not slow.late(now_s + 10.0) and slow.late(now_s + 10.1)
    fast, _ = watch(50.0, 0.01, 0.01)
    assert fast.silence_s_max == 2.0


def test_a_look_is_complete_when_every_machine_has_answered() -> None:
    one = Looking(machines=2, asked_s=5.0)
    assert not one.take("m0", {0: Sight(state="S")})
    assert not one.take("m0", {0: Sight(state="S")})
    assert one.take("m1", {1: Sight(state="T")})
    assert sorted(one.sights) == [0, 1]


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
