"""Jobs in which ranks get stuck, or die on one machine only; no bit differs."""

from __future__ import annotations

from tests.trial import PRELOAD, WORKLOADS, Trial, trial, undisturbed

__all__ = ["trial"]

ARGUMENTS = ("--steps", "45")
CONFIG = f"""{PRELOAD}
[timing]
hang_s_min = 0.6
deadlock_s_min = 1.5
"""


def reference() -> dict[int, str]:
    """Of both scripts, which compute the same."""
    return undisturbed(ranks=2, arguments=ARGUMENTS, script="stuck.py")


def test_deadlocks_are_proven_named_and_survived_and_who_computes_is_left_to_it(
    trial: Trial,
) -> None:
    (once := trial.folder / "once").mkdir()
    ways = ("10:1:loop", "20:1:lock", "30:0:sleep", "40:1:broadcast")
    arguments = (*ARGUMENTS, "--once", str(once), *ways)
    script = WORKLOADS / "stuck.py"
    trial.start("--machines", "2", script=script, arguments=arguments, config=CONFIG)
    lock, sleep, broadcast = (trial.recovered(number) for number in (1, 2, 3))
    assert [one.kind for one in (lock, sleep, broadcast)] == ["hang"] * 3
    for one, stuck_at in ((lock, 20), (sleep, 30), (broadcast, 40)):
        # The step that they stand at, or the one before where the next was to be kept.
        assert stuck_at - 1 <= one.step <= stuck_at, one
    assert lock.who == "rank 1", lock
    assert "rank 1 waits for a lock in stuck.py:" in lock.reason
    assert "(lock.acquire()); rank 0 waits in all_reduce" in lock.reason
    assert sleep.who == "rank 0" and "rank 0 sleeps in stuck.py:" in sleep.reason
    assert broadcast.who == "rank 0, rank 1"
    assert "rank 0 waits in all_reduce; rank 1 waits in broad" in broadcast.reason
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == reference(), str(trial)
    # What computes was seen, too, and left alone.
    assert "rank 1 is in stuck.py:" in trial.out, str(trial)
    kept = trial.job / "stacks"
    assert sorted(path.name for path in kept.iterdir()) == [
        "round-1",
        "round-2",
        "round-3",
    ]
    texts = [(kept / "round-1" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert "in all_reduce" in texts[0] and "in get_stuck" in texts[1]
    assert all("twinstep/agent/tether.py" in text for text in texts), "all threads"
    assert f"the stacks of hung ranks are left in {kept}" in trial.out
    trial.clean()


def test_a_machine_on_which_ranks_die_is_replaced_by_the_standby(trial: Trial) -> None:
    (folder := trial.folder / "at").mkdir()
    arguments = (*ARGUMENTS, "--folder", str(folder))
    script = WORKLOADS / "bad_machine.py"
    options = ("--machines", "2", "--standby", "1")
    trial.start(*options, script=script, arguments=arguments)
    assert trial.wait() == 0, str(trial)
    bad = (folder / "bad").read_text().removesuffix(".sock")
    assert (
        f"{bad} is to be replaced: its ranks ended by themselves 3 times" in trial.out
    )
    assert f"{bad} gives up its place" in trial.out
    assert trial.out.count("RuntimeError: device lost") >= 3
    assert trial.digests() == reference(), str(trial)
    trial.clean()
