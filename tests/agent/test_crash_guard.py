"""A script that cannot work is told from one that was hit."""

from __future__ import annotations

from twinstep.agent.health import CrashGuard


def play(guard: CrashGuard, *, reached: int, steps: range) -> bool:
    """One round: it makes these steps, then a rank dies. Returns whether to stop."""
    guard.begins(reached=reached)
    for step in steps:
        guard.stepped(step)
    return guard.failed()


def test_a_step_that_is_reached_again_is_no_progress() -> None:
    guard = CrashGuard(rounds_max=3)
    assert not play(guard, reached=0, steps=range(1, 100))
    ends = [play(guard, reached=99, steps=range(98, 100)) for _ in range(3)]
    assert ends == [False, False, True]
    text = guard.report("rank 1 ended", ["ValueError"])
    assert "3 rounds in a row made no new step after step 99" in text
    assert text.endswith("Its last lines:\nValueError")


def test_rounds_that_come_further_are_endless() -> None:
    guard = CrashGuard(rounds_max=2)
    for step in range(1, 50):
        assert not play(guard, reached=step - 1, steps=range(step, step + 1))


def test_one_new_step_forgives_what_was_before() -> None:
    guard = CrashGuard(rounds_max=3)
    assert not play(guard, reached=5, steps=range(0))
    assert not play(guard, reached=5, steps=range(0))
    assert not play(guard, reached=5, steps=range(5, 7))
    assert not play(guard, reached=6, steps=range(0))


def test_a_new_root_learns_from_the_machines_how_far_they_came() -> None:
    guard = CrashGuard(rounds_max=1)
    assert play(guard, reached=99, steps=range(90, 100))
