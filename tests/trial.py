"""Runs `twinstep` as a user does, with real processes, and sees what is left of them.

Every process of a trial carries a mark in its environment, so that those that outlive
it are found wherever they hang, and nobody else's are touched.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from twinstep.agent.record import Recovery
from twinstep.agent.status import Status
from twinstep.cloud.description import JOB_FILE
from twinstep.jobs import JobView

WORKLOADS = Path(__file__).parent / "workloads"
LOOK_S = 0.05
GONE_S_MAX = 10.0
A_FEW = (
    5  # steps of some 20 ms; two cores that do other work as well lose more than one
)
takes_long = pytest.mark.skipif(
    "TWINSTEP_LONG" not in os.environ, reason="takes long: make test-long"
)
"""Tests of whole jobs that soaks, benchmarks or `make fuzz-live` run as well."""
COMMAND = str(Path(sys.executable).parent / "twinstep")
PRELOAD = 'preload = ["torch", "torch._dynamo"]\n'


class Trial:
    """One `twinstep run`. Every wait has a deadline and names what it waited for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "job"
        self.mark = f"TWINSTEP_TRIAL={uuid.uuid4().hex}"
        self.process: subprocess.Popen[bytes] | None = None
        self._view: JobView | None = None

    def environment(self) -> dict[str, str]:
        name, value = self.mark.split("=")
        return {**os.environ, name: value, "TMPDIR": str(self.folder)}

    def start(
        self,
        *options: str,
        script: Path,
        arguments: Sequence[str] = (),
        config: str = PRELOAD,
        job: bool = True,
    ) -> None:
        (self.folder / "config.toml").write_text(config)
        command = [COMMAND, "run", "--config", str(self.folder / "config.toml")]
        command += ["--job", str(self.job)] if job else []
        with ExitStack() as files:
            out, err = (
                files.enter_context((self.folder / name).open("wb"))
                for name in ("out", "err")
            )
            self.process = subprocess.Popen(
                [*command, *options, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment() | {"OMP_NUM_THREADS": "1"},
            )

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def __str__(self) -> str:
        return f"\n--- stdout\n{self.out[-6000:]}\n--- stderr\n{self.err[-3000:]}"

    def until(
        self, true: Callable[[], Any], what: str, *, timeout_s: float = 40.0
    ) -> Any:
        """Returns what is true at last. Fails with the whole output after a while."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := true()):
            over = self.process is not None and self.process.poll() is not None
            late = time.monotonic() > deadline_s
            assert not late, f"waited {timeout_s} s for {what}{self}"
            assert not over or true(), f"the job ended before {what}{self}"
            time.sleep(LOOK_S)
        return found

    def wait(self, *, timeout_s: float = 60.0) -> int:
        """Returns the exit status of the launcher."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the job is not over after {timeout_s} s{self}")

    def view(self) -> JobView:
        if self._view is None:
            self.until((self.job / JOB_FILE).exists, "the job's file")
            self._view = JobView(self.job)
        return self._view

    def status(self, *, step: int = 0, ranks: int = 1) -> Status:
        """Returns the status once training has reached `step` with `ranks` ranks."""

        def reached() -> Status | None:
            status = self.view().status()
            if status is None or status.phase != "training" or status.safe < step:
                return None
            return status if len(rank_pids(status)) == ranks else None

        return self.until(reached, f"step {step} to be safe on {ranks} ranks")

    def recovered(self, number: int) -> Recovery:
        """Returns recovery `number`, counted from 1, once it made its first step."""

        def done() -> Recovery | None:
            found = self.view().recoveries()
            return found[number - 1] if len(found) >= number else None

        return self.until(
            lambda: (r := done()) and r.first_step_s and r, f"recovery {number}"
        )

    def digests(self) -> dict[int, str]:
        """The digest that each rank printed last."""
        found = re.findall(r"^\[rank (\d+)\] digest (\w+)$", self.out, re.MULTILINE)
        return {int(rank): digest for rank, digest in found}

    # What is left.

    def processes(self) -> dict[int, str]:
        """Every living process of this trial, with its command."""
        found: dict[int, str] = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (path / "environ").read_bytes()
                if marked:
                    words = (path / "cmdline").read_bytes().split(b"\0")
                    found[int(path.name)] = b" ".join(words).decode()
            except OSError:
                continue
        return found

    def gone(self) -> None:
        """Nothing of the trial lives. Slots live in processes, and are gone as well."""
        deadline_s = time.monotonic() + GONE_S_MAX
        while left := self.processes():
            assert time.monotonic() < deadline_s, f"still there: {left}{self}"
            time.sleep(LOOK_S)

    def clean(self) -> None:
        """No process, no socket, no description of a job is left."""
        self.gone()
        paths = [path for path in self.folder.rglob("*") if path.is_socket()]
        paths += self.folder.rglob(JOB_FILE)
        assert not paths, paths

    def close(self) -> None:
        if self._view is not None:
            self._view.close()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.process is not None:
            self.process.wait(GONE_S_MAX)
        self.gone()


@contextmanager
def open_trial() -> Iterator[Trial]:
    """Nothing of the trial is left afterwards."""
    # Not tmp_path: paths of Unix sockets take 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        found = Trial(Path(folder))
        try:
            yield found
        finally:
            found.close()


@pytest.fixture
def trial() -> Iterator[Trial]:
    with open_trial() as found:
        yield found


def rank_pids(status: Status) -> dict[int, int]:
    return {r: pid for machine in status.machines for r, pid in machine.ranks.items()}


def pulse_of(status: Status, rank: int) -> memoryview:
    """The page that the rank shares with its agent, as the rank has it."""
    for descriptor in Path(f"/proc/{rank_pids(status)[rank]}/fd").iterdir():
        if "memfd:twinstep-pulse" in os.readlink(descriptor):
            with descriptor.open("rb") as page:
                mapping = mmap.mmap(page.fileno(), 0, access=mmap.ACCESS_READ)
                return memoryview(mapping)
    raise AssertionError(f"rank {rank} has no pulse")


def lost_little(recovery: Recovery, before: Status) -> bool:
    """Nothing that was safe before the failure, and no more than was under way."""
    return recovery.step >= before.safe and recovery.steps_lost <= A_FEW


def machine_of(status: Status, rank: int) -> str:
    return next(m.machine for m in status.machines if rank in m.ranks)


@cache
def undisturbed(
    *,
    ranks: int,
    arguments: tuple[str, ...],
    script: str = "linear.py",
    preload: str = "torch._dynamo",  # which optimizers and DDP import later
) -> dict[int, str]:
    """The digests of a run without twinstep's agents, and without a failure."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.plain_ranks", str(ranks), str(port)]
        done = subprocess.run(
            [*command, folder, preload, str(WORKLOADS / script), *arguments],
            cwd=WORKLOADS.parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout
        outs = [(Path(folder) / str(rank)).read_text() for rank in range(ranks)]
    return {rank: out.split("digest ")[1].split()[0] for rank, out in enumerate(outs)}


def twinstep(trial: Trial, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs another command beside the trial's job."""
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=trial.environment(),
    )


def shown(trial: Trial) -> dict[str, Any]:
    """What `twinstep status --json` says."""
    done = twinstep(trial, "status", "--job", str(trial.job), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
