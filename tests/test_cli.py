"""What bad input gets: one message, the right status, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket

import pytest
from rich.console import Console

from tests.trial import (
    WORKLOADS,
    Trial,
    shown,
    trial,
    twinstep,
)
from twinstep import __version__
from twinstep.agent.record import Recovery
from twinstep.agent.status import MachineStatus, Status
from twinstep.cloud.hosting import Result
from twinstep.status_view import draw

__all__ = ["trial"]

QUICK = "preload = []\n"
LINEAR = str(WORKLOADS / "linear.py")
BROKEN = str(WORKLOADS / "broken.py")


def test_version(trial: Trial) -> None:
    assert twinstep(trial, "--version").stdout == f"twinstep {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.py"], "no script nowhere.py; give the path of a Python"),
        (["run", str(WORKLOADS)], "no script"),
        (["run"], "Missing argument"),
        (["run", "--machines", "two", BROKEN], "'--machines'"),
        (["run", "--machines", "0", BROKEN], "must be at least 1"),
        (["run", "--machine", "2", BROKEN], "No such option"),
        (
            ["run", "--machines", "2", "--copies", "3", BROKEN],
            "copies (3) must be between 1 and machines (2)",
        ),
        (["run", "--placement", "nearby", BROKEN], "use one of group, ring"),
        (
            ["run", "--machines", "3", "--copies", "2", "--placement", "group", BROKEN],
            "machines (3)",
        ),
        (["run", "--config", "nowhere.toml", BROKEN], "nowhere.toml cannot be read"),
        (["run", "--job", "/proc/nowhere", BROKEN], "cannot be made"),
        (["run", "--job", "/tmp/" + "long/" * 30, BROKEN], "is too long"),
        (["status"], "no job of yours runs"),
        (["status", "--job", "/nowhere"], "no job runs in /nowhere"),
        (["inject", "kill-rank", "0"], "no job of yours runs"),
        (["inject", "kill-rank", "first"], "'rank'"),
        (["inject", "corrupt-copy", "m00"], "--shard"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_usage_error_is_one_message(
    trial: Trial, arguments: list[str], says: str
) -> None:
    done = twinstep(trial, *arguments)
    assert done.returncode == 2
    assert says in done.stderr and done.stderr.startswith("twinstep: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""
    trial.clean()
    assert not list(trial.folder.glob("*/*")), "a folder was left"


def test_a_port_in_use(trial: Trial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = twinstep(trial, "run", "--store-port", port, BROKEN)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    trial.clean()
    assert not list(trial.folder.glob("*/*")), "the job's folder was left"


def test_domains_that_allow_no_placement(trial: Trial) -> None:
    config = 'machines = 2\ndomains = ["rack", "rack"]\n'
    trial.start(script=WORKLOADS / "broken.py", config=config)
    assert trial.wait() == 2
    assert "domain" in trial.err and len(trial.err.splitlines()) == 1
    assert "about to fail" not in trial.out
    trial.clean()


def test_a_script_that_dies_at_once(trial: Trial) -> None:
    trial.start("--machines", "2", script=WORKLOADS / "broken.py", config=QUICK)
    assert trial.wait() == 1
    # In each round the first rank to die ends the other, which may not get so far.
    assert 3 <= trial.out.count("about to fail") <= 8
    assert "round 3: " in trial.out
    assert "round 4: " not in trial.out
    assert "3 rounds in a row made no new step" in trial.err
    assert "ValueError: this script is broken" in trial.err
    trial.clean()


def test_a_script_that_dies_at_the_same_step(trial: Trial) -> None:
    trial.start(script=WORKLOADS / "broken_later.py", config='preload = ["torch"]\n')
    assert trial.wait() == 1
    assert "3 rounds in a row made no new step after step 5" in trial.err
    # The first round made new steps; so did none of the next three.
    assert trial.out.count("[rank 0] ValueError: bad batch") == 4
    trial.clean()


@pytest.mark.parametrize(
    ("name", "warm", "says"),
    [
        ("state", "true", "StateError: odd.state['inner']['file'] is a builtins.obj"),
        ("second", "true", "OrderError: this process has a Session already"),
        ("order", "true", "OrderError: after_step(2) after step 0; allowed is 1"),
        ("order", "false", "OrderError: after_step(2) after step 0; allowed is 1"),
    ],
)
def test_a_script_that_cannot_work(
    trial: Trial, name: str, warm: str, says: str
) -> None:
    script = WORKLOADS / "hopeless.py"
    config = f"warm = {warm}\n" + QUICK
    trial.start(script=script, arguments=[name], config=config)
    assert trial.wait() == 2, str(trial)
    assert says in trial.err and f"{script}:" in trial.err
    assert len(trial.err.splitlines()) == 1, trial.err
    assert "Traceback" not in trial.out
    trial.clean()


def test_memory_that_does_not_fit(trial: Trial) -> None:
    trial.start(
        script=WORKLOADS / "hopeless.py",
        arguments=["memory"],
        config="memory_bytes_max = 1000\n" + QUICK,
    )
    assert trial.wait() == 2, str(trial)
    assert "2 slots x (shard 0: " in trial.err and "1.00 kB are available" in trial.err
    assert len(trial.err.splitlines()) == 1, trial.err
    trial.clean()


def test_a_folder_in_which_a_job_runs(trial: Trial) -> None:
    trial.start(script=WORKLOADS / "linear.py", arguments=["--steps", "10000"])
    trial.until((trial.job / "job.json").exists, "the job")
    done = twinstep(trial, "run", "--job", str(trial.job), BROKEN)
    assert done.returncode == 2 and "a job runs in" in done.stderr
    assert trial.process is not None and trial.process.poll() is None
    trial.process.send_signal(signal.SIGTERM)
    assert trial.wait(timeout_s=10.0) == 128 + signal.SIGTERM
    trial.clean()


def test_strangers_are_dropped_and_a_job_is_shown(trial: Trial) -> None:
    trial.start(
        "--machines", "2", script=WORKLOADS / "linear.py", arguments=["--steps", "400"]
    )
    status = trial.status(step=5, ranks=2)
    port = status.machines[0].port
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
        name = "{}:{}".format(*stranger.getsockname())
        assert _end_of(stranger), "the connection was not closed"
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(os.urandom(1 << 16))
        assert _end_of(stranger), "the connection was not closed"
    trial.until(lambda: re.search(f"dropped .*{name}", trial.out), "the log")
    found = shown(trial)
    assert found["status"]["phase"] == "training" and found["recoveries"] == []
    text = twinstep(trial, "status", "--job", str(trial.job)).stdout
    assert "training" in text and "m00" in text and "ROOT" in text
    listed = twinstep(trial, "status", "--list").stdout
    assert listed == ""  # the trial's folder is not where jobs are by default
    assert trial.wait() == 0, str(trial)
    assert "round 2" not in trial.out
    trial.clean()


def _end_of(connection: socket.socket) -> bool:
    connection.settimeout(10.0)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# The picture.

STATUS = Status(
    at_s=1000.0,
    phase="stopping",
    phase_since_s=998.5,
    root="m01",
    round=4,
    term=2,
    step=120,
    safe=119,
    waiting_for=["m00 to stop its ranks"],
    machines=[
        MachineStatus(
            machine="m00",
            machine_rank=0,
            host="127.0.0.1",
            port=1,
            group=41,
            ranks={0: 51},
            holds=[1],
        ),
        MachineStatus(
            machine="m01",
            machine_rank=-1,
            host="127.0.0.1",
            port=2,
            group=42,
            ranks={},
            holds=[],
        ),
    ],
    sizes={0: 1_500_000, 1: 1_500_000, 2: 64_000_000},
    shared=True,
    copies=2,
    recoveries=1,
    restored_step=100,
)
RECOVERY = Recovery(
    number=1,
    round=4,
    kind="machine",
    who="m03",
    reason="silent for 1.5 s: its lease lapsed",
    detected_s=990.0,
    decided_s=990.5,
    machine_ready_s=990.25,
    loaded_s=991.0,
    first_step_s=992.0,
    reached=101,
    step=100,
    sources={"own memory": 1, "memory of m00": 1},
    bad=["m00's copy of shard 1 at step 100 is bad"],
)


def picture(status: Status | None, result: Result | None = None) -> str:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        recoveries = [RECOVERY] if status is not None else []
        console.print(draw("job", status, recoveries, result, now_s=1000.25))
    return " ".join(capture.get().split())  # lines are broken where they are full


def test_the_picture_says_who_waits_for_whom() -> None:
    text = picture(STATUS)
    assert (
        "stopping for 1.8 s · step 120, safe 119 · root m01 · round 4, term 2" in text
    )
    assert "waits for m00 to stop its ranks" in text
    assert "0 (51)" in text and "standby ROOT" in text
    assert "3 shards, 67 MB in all, the largest 64 MB" in text


def test_the_picture_has_the_timeline_and_names_bad_copies() -> None:
    text = picture(STATUS, Result(status=1, reason="too bad"))
    assert "1 steps lost, back at step 100 · from memory of m00" in text
    assert "machine 0.25 · decided 0.50 · loaded 1.00 · first step 2.00" in text
    assert "redundant" not in text  # that has not come to pass
    assert "m00's copy of shard 1 at step 100 is bad" in text
    assert "the job ended (1): too bad" in text


def test_the_picture_without_a_root_says_so() -> None:
    assert "no root yet" in picture(None)


def test_a_quiet_root_is_noticed() -> None:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        console.print(draw("job", STATUS, [], now_s=1010.0))
    assert "what a root said 10.0 s ago" in capture.get()
