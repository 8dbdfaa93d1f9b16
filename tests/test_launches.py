"""Ranks that torchrun or mpirun started are protected as `twinstep run`'s are.

Real launchers and real processes; the reference is the same script without agents.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.etcd_nodes import cluster, free_ports, needs_etcd
from tests.launches import LaunchTrial, mpirun, torchrun
from tests.trial import WORKLOADS, lost_little, undisturbed
from twinstep import inject

LINEAR = str(WORKLOADS / "linear.py")
STEPS = ("--steps", "90")
needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None,
    reason="no mpirun on this computer; apt-get install openmpi-bin",
)
opt_in = pytest.mark.skipif(
    "TWINSTEP_LAUNCHES" not in os.environ,
    reason="takes long: make test-launches",
)


@pytest.fixture
def trial() -> Iterator[LaunchTrial]:
    # Not tmp_path: paths of Unix sockets take 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        found = LaunchTrial(Path(folder))
        try:
            yield found
        finally:
            found.close()


def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=(*STEPS, "--pause-s=0"))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_rank_killed_under_torchrun_comes_back_from_memory(
    trial: LaunchTrial,
) -> None:
    trial.launch([*torchrun("--max-restarts=3", ranks=2), LINEAR, *STEPS])
    status = trial.status(step=10, ranks=2)
    inject.kill_rank(status, 1)
    recovery = trial.recovered(1)
    assert recovery.kind == "rank" and "rank 1" in recovery.reason, recovery
    assert "signal 9" in recovery.reason
    assert lost_little(recovery, status), recovery
    assert recovery.source == "own memory"
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == reference(), str(trial)
    assert trial.err.count("started this machine's agent") == 1, str(trial)
    trial.clean()


@opt_in
@needs_etcd
def test_a_machine_killed_under_torchrun_is_replaced_from_its_neighbour(
    trial: LaunchTrial,
) -> None:
    port = free_ports(1)[0]
    options = torchrun(
        "--nnodes=2",
        "--max-restarts=9",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=trial",
        "--rdzv-conf=keep_alive_interval=1,keep_alive_max_attempt=3",
        "--local-addr=127.0.0.1",
        ranks=1,
    )
    command = [*options, LINEAR, *STEPS]
    with cluster(trial.folder) as etcd:
        trial.settings["TWINSTEP_STORE"] = (
            f"etcd://{etcd.nodes[0].endpoint}/{trial.name}"
        )
        trial.launch(command, machine="m0")
        # Whoever is first holds torchrun's own rendezvous, and must not die.
        trial.until(lambda: listens(port), "torchrun's rendezvous")
        trial.launch(command, machine="m1")
        status = trial.status(step=10, ranks=2)
        trial.kill_machine("m1")
        trial.launch(command, machine="m2")
        recovery = trial.recovered(1)
        assert lost_little(recovery, status), recovery
        assert "memory of m0" in recovery.source, recovery
        assert "m2 takes machine rank" in trial.log("m0"), str(trial)
        for launcher in trial.launchers.values():
            assert launcher.wait(60) == 0, str(trial)
        # Each torchrun calls its only rank 0.
        found = sorted(re.findall(r"digest (\w+)$", trial.out, re.MULTILINE))
        assert found == sorted(reference().values()), str(trial)
        trial.gone()


@opt_in
@needs_mpirun
def test_mpirun_that_is_started_again_finds_its_memory(trial: LaunchTrial) -> None:
    script = [sys.executable, str(WORKLOADS / "linear_mpi.py"), *STEPS]
    trial.launch([*mpirun(ranks=2, port=free_ports(1)[0]), *script])
    status = trial.status(step=10, ranks=2)
    inject.kill_rank(status, 1)
    assert trial.wait() != 0  # mpirun ends all ranks, and starts none
    trial.launch([*mpirun(ranks=2, port=free_ports(1)[0]), *script])
    recovery = trial.recovered(1)
    assert lost_little(recovery, status), recovery
    assert trial.wait() == 0, str(trial)
    assert trial.digests() == reference(), str(trial)
    trial.clean()


@opt_in
def test_a_crash_loop_under_torchrun_ends_with_the_report(trial: LaunchTrial) -> None:
    trial.config = "rounds_without_progress_max = 1\n"
    script = str(WORKLOADS / "broken_later.py")
    trial.launch([*torchrun("--max-restarts=2", ranks=1), script])
    assert trial.wait() != 0
    log = trial.log()
    assert "ended with status 1; 1 rounds in a row" in log, str(trial)
    # Before the job was over one restart, after it one more, which was refused.
    assert trial.err.count("Refused: the job has ended with status 1") == 1, str(trial)
    assert trial.err.count("started this machine's agent") == 1, str(trial)
    trial.clean()
