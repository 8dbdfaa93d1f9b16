"""A job whose machines join by themselves, each by a command of its own, as on a
cluster: real processes on this computer, with a store of theirs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.trial import COMMAND, GONE_S_MAX, WORKLOADS, Trial, trial
from twinstep.jobs import JobView

__all__ = ["joined", "trial"]


class Joined:
    """Machines of one job, by name. Waits and checks are the trial's."""

    def __init__(self, trial: Trial, script: Path, arguments: Sequence[str]) -> None:
        self.trial, self.script, self.arguments = trial, script, arguments
        self.store = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.trial.folder / f"{name}.out").open("wb") as out:
            return subprocess.Popen(
                [COMMAND, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.trial.environment() | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def keep_store(self) -> None:
        """The job has an embedded store, in a process of its own."""
        self.processes["store"] = self._start("store", ["store"])
        line = self.trial.until(
            lambda: re.search(r"store is at (\S+)", self.out("store")), "the store"
        )
        self.store = line.group(1)

    def join(self, name: str, *options: str) -> None:
        command = ["join", "--store", self.store, "--machine", name]
        command += ["--job", str(self.trial.job), *options]
        self.processes[name] = self._start(
            name, [*command, str(self.script), *self.arguments]
        )

    def view(self) -> JobView:
        """The job, seen by its store's address."""
        if self.trial._view is None:
            first = next(name for name in self.processes if name != "store")
            self.trial.until(lambda: "joins job" in self.out(first), f"{first} to join")
            self.trial._view = JobView(self.store)
        return self.trial._view

    def kill(self, name: str) -> None:
        """The machine's agent and ranks are gone at once."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait(GONE_S_MAX)

    def out(self, name: str) -> str:
        return (self.trial.folder / f"{name}.out").read_text()

    def wait(self, name: str, *, timeout_s: float = 60.0) -> int:
        try:
            return self.processes[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} has not ended after {timeout_s} s\n{self}")

    def digests(self) -> dict[int, str]:
        text = "\n".join(self.out(name) for name in self.processes)
        found = re.findall(r"^\[rank (\d+)\] digest (\w+)$", text, re.MULTILINE)
        return {int(rank): digest for rank, digest in found}

    def __str__(self) -> str:
        return "\n".join(f"--- {n}\n{self.out(n)[-3000:]}" for n in self.processes)


@pytest.fixture
def joined(trial: Trial) -> Iterator[Joined]:
    trial.folder.joinpath("out").touch()
    trial.folder.joinpath("err").touch()
    found = Joined(trial, WORKLOADS / "linear.py", ("--steps", "90"))
    try:
        yield found
    finally:
        for process in found.processes.values():
            process.kill()
            process.wait(GONE_S_MAX)
