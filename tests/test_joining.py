"""Machines that join a job by themselves, through a store that outlives them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.etcd_nodes import cluster, needs_etcd
from tests.joined import Joined, joined, trial
from tests.trial import (
    PRELOAD,
    WORKLOADS,
    Trial,
    lost_little,
    takes_long,
    twinstep,
    undisturbed,
)
from twinstep import inject

__all__ = ["joined", "trial"]


def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=("--steps", "90", "--pause-s=0"))


@pytest.fixture
def config(trial: Trial) -> Path:
    path = trial.folder / "cluster.toml"
    path.write_text(PRELOAD + "machines = 2\n")
    return path


def test_a_lost_machine_is_replaced_by_one_that_joins(
    joined: Joined, config: Path
) -> None:
    joined.keep_store()
    for name in ("one", "two"):
        joined.join(name, "--config", str(config))
    trial = joined.trial
    joined.view()
    status = trial.status(step=10, ranks=2)
    joined.kill("two")
    joined.join("three", "--config", str(config))
    recovery = trial.recovered(1)
    assert recovery.who == "two", f"{recovery}{joined}"
    assert lost_little(recovery, status), recovery
    assert recovery.source == "memory of one"
    assert joined.wait("one") == 0 and joined.wait("three") == 0, str(joined)
    assert joined.digests() == reference(), str(joined)
    # Whoever comes late is told how it ended, and the status too.
    joined.join("late", "--config", str(config))
    assert joined.wait("late") == 0
    assert "has ended well" in joined.out("late")


def test_a_machine_started_differently_is_refused(joined: Joined, config: Path) -> None:
    joined.keep_store()
    joined.join("one", "--config", str(config))
    joined.trial.until(lambda: "joins job" in joined.out("one"), "one to join")
    joined.join("two", "--config", str(config), "--copies", "1")
    assert joined.wait("two") == 2
    assert "copies is 1 here, 0 there" in joined.out("two")
    assert "Traceback" not in joined.out("two")


@takes_long
@needs_etcd
def test_a_run_on_etcd_survives_a_lost_machine(trial: Trial) -> None:
    with cluster(trial.folder) as etcd:
        address = f"etcd://{etcd.nodes[0].endpoint}"
        options = ("--store", address, "--machines", "2", "--standby", "1")
        arguments = ("--steps", "90")
        trial.start(*options, script=WORKLOADS / "linear.py", arguments=arguments)
        status = trial.status(step=10, ranks=2)
        inject.kill_machine(status, "1")
        recovery = trial.recovered(1)
        # Machine rank 1 may have been the root's.
        assert recovery.kind in ("machine", "root"), str(trial)
        assert lost_little(recovery, status), f"{recovery}{trial}"
        assert trial.wait() == 0, str(trial)
        assert trial.digests() == reference(), str(trial)
        trial.clean()


def test_a_job_needs_a_store_to_be_joined(trial: Trial) -> None:
    done = twinstep(trial, "join", str(WORKLOADS / "linear.py"))
    assert done.returncode == 2 and "--store etcd://" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--store", "etcd://127.0.0.1:1"), "names no job"),
        (("--store", "nonsense"), "HOST:PORT"),
        (("--store", "127.0.0.1:1", "--machine", "a/b"), "letters, digits"),
        (("--store", "127.0.0.1:1", "--operator", "nobody"), "none, store"),
    ],
)
def test_what_cannot_be_joined_is_said(
    trial: Trial, options: tuple[str, ...], says: str
) -> None:
    done = twinstep(trial, "join", *options, str(WORKLOADS / "linear.py"))
    assert done.returncode in (1, 2)
    assert says in done.stderr and "Traceback" not in done.stderr
