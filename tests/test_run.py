"""Whole jobs with real processes: every failure is survived, and no bit differs.

The reference is the same script without any agent, run once for each number of ranks.
"""

from __future__ import annotations

import signal
import time

from tests.trial import (
    PRELOAD,
    WORKLOADS,
    Trial,
    lost_little,
    machine_of,
    pulse_of,
    trial,
    undisturbed,
)
from twinstep import inject
from twinstep.schedule.pulse import last_step, read

__all__ = ["trial"]

LINEAR = WORKLOADS / "linear.py"
ARGUMENTS = ("--steps", "90")


def reference(ranks: int) -> dict[int, str]:
    return undisturbed(ranks=ranks, arguments=(*ARGUMENTS, "--pause-s=0"))


def light(trial: Trial, *options: str, job: bool = True) -> None:
    """Starts ranks which need no framework, and train until they are ended."""
    files = [f"--{name}-file={trial.folder / name}" for name in ("stop", "steps")]
    script = WORKLOADS / "light.py"
    config = "preload = []\n"
    trial.start(*options, script=script, arguments=files, config=config, job=job)


def start(
    trial: Trial, *options: str, config: str = PRELOAD, pause_s: float = 0.02
) -> None:
    arguments = (*ARGUMENTS, f"--pause-s={pause_s}")
    trial.start(
        "--machines", "2", *options, script=LINEAR, arguments=arguments, config=config
    )


def ends_with_the_same_bits(trial: Trial, *, ranks: int = 2) -> None:
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == reference(ranks), str(trial)
    assert trial.err == ""
    trial.clean()


def test_ranks_and_copies_are_lost(trial: Trial) -> None:
    start(trial, pause_s=0.05)  # so that it is not over before the second failure
    _a_killed_rank_comes_back_from_own_memory(trial)
    _a_corrupt_copy_is_named_and_its_twin_used(trial)
    ends_with_the_same_bits(trial)


def _a_killed_rank_comes_back_from_own_memory(trial: Trial) -> None:
    status = trial.status(step=10, ranks=2)
    page = pulse_of(status, 1)
    seen = last_step(page)
    assert seen is not None
    assert seen.fed and seen.operations, "its agent sees no collectives"
    inject.kill_rank(status, 1)
    recovery = trial.recovered(1)
    left = read(page)
    assert recovery.kind == "rank" and "rank 1" in recovery.reason
    anew = read(pulse_of(trial.status(step=recovery.step, ranks=2), 1))
    assert left is not None and anew is not None
    assert anew.began_ns > left.began_ns, "a new round has a new page"
    assert lost_little(recovery, status), recovery
    assert recovery.source == "own memory"


def _a_corrupt_copy_is_named_and_its_twin_used(trial: Trial) -> None:
    status = trial.status(step=30, ranks=2)
    machine = machine_of(status, 1)
    twin = machine_of(status, 0)
    # Nobody writes a slot while rank 1 stands still: what is damaged stays so.
    inject.stop_rank(status, 1)
    stands_still(trial)
    inject.corrupt_copy(status, machine, shard=1)
    inject.kill_rank(status, 1)
    recovery = trial.recovered(2)
    assert recovery.kind == "rank"
    assert [text for text in recovery.bad if f"{machine}'s copy of shard 1" in text]
    assert f"memory of {twin}" in recovery.sources, recovery
    assert lost_little(recovery, status), recovery


def stands_still(trial: Trial) -> None:
    steps: list[int] = []

    def still() -> bool:
        status = trial.view().status()
        assert status is not None
        steps.append(status.step)
        time.sleep(0.1)
        return len(steps) > 12 and len(set(steps[-12:])) == 1

    trial.until(still, "training to stand still")


def test_a_stopped_rank_is_named_and_replaced(trial: Trial) -> None:
    start(trial, config=PRELOAD + "[timing]\nhang_s_min = 1.0\n")
    status = trial.status(step=10, ranks=2)
    inject.stop_rank(status, 1)
    recovery = trial.recovered(1)
    assert recovery.kind == "hang" and recovery.who == "rank 1", recovery
    assert "stopped by a signal" in recovery.reason
    assert lost_little(recovery, status), recovery
    ends_with_the_same_bits(trial)


def test_machines_are_lost(trial: Trial) -> None:
    start(trial, "--standby", "2", pause_s=0.05)
    _a_killed_machine_is_replaced_by_the_standby(trial)
    _the_roots_machine_is_killed(trial)
    ends_with_the_same_bits(trial)


def _a_killed_machine_is_replaced_by_the_standby(trial: Trial) -> None:
    status = trial.status(step=10, ranks=2)
    lost = next(
        m.machine for m in status.machines if m.ranks and m.machine != status.root
    )
    inject.kill_machine(status, lost)
    recovery = trial.recovered(1)
    assert recovery.kind == "machine" and recovery.who == lost, recovery
    assert lost_little(recovery, status), recovery
    assert recovery.source.startswith("memory of m"), recovery
    assert lost not in recovery.source


def _the_roots_machine_is_killed(trial: Trial) -> None:
    # Not sooner: there are two copies of a shard, and the lost machine had one.
    trial.until(lambda: trial.recovered(1).redundant_s, "every copy again")
    status = trial.status(step=20, ranks=2)
    inject.kill_machine(status, "root")
    recovery = trial.recovered(2)
    assert recovery.kind in ("machine", "root"), recovery
    after = trial.view().status()
    assert after is not None
    assert after.root != status.root and after.term > status.term
    assert lost_little(recovery, status), recovery


def test_two_ranks_a_machine_share_what_is_the_same(trial: Trial) -> None:
    start(trial, "--ranks-per-machine", "2", "--standby", "1")
    status = trial.status(step=10, ranks=4)
    assert status.shared and sorted(status.sizes) == [0, 1, 2, 3, 4, 5]
    inject.kill_machine(status, machine_of(status, 3))
    recovery = trial.recovered(1)
    assert lost_little(recovery, status), recovery
    ends_with_the_same_bits(trial, ranks=4)


def test_nothing_outlives_a_killed_launcher(trial: Trial) -> None:
    light(trial, "--machines", "2", "--standby", "1")
    trial.status(step=5, ranks=2)
    assert trial.process is not None
    assert len(trial.processes()) >= 9  # launcher, 3 agents, 3 warm ones, 2 ranks
    trial.process.kill()
    trial.gone()


def test_ctrl_c_ends_everything(trial: Trial) -> None:
    light(trial, "--machines", "2", job=False)
    assert trial.process is not None
    trial.until(lambda: "starts from 0" in trial.out, "the first step")
    trial.process.send_signal(signal.SIGINT)
    assert trial.wait(timeout_s=10.0) == 130
    assert "Traceback" not in trial.err
    trial.clean()


def test_a_script_for_torchrun_runs_unchanged(trial: Trial) -> None:
    arguments = ["--lr", "3", "-x", "--machines", "7", "--", "last"]
    script, config = WORKLOADS / "plain.py", 'preload = ["torch"]\n'
    trial.start("--machines", "2", script=script, arguments=arguments, config=config)
    assert trial.wait() == 0, str(trial)
    for rank in range(2):
        assert f"[rank {rank}] total 1.0 at 0 2 1 {rank} with {arguments}" in trial.out
    trial.clean()
