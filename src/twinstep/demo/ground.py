"""Where a job runs that is watched and injured: here, on this computer's own network.

A ground starts the job, finds it, says when it is over, and ends it. Another one is
hosts of their own (hosts/ground.py), where links can fail, too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, final

from twinstep import jobs
from twinstep.agent.lifeline import tied
from twinstep.agent.status import Status
from twinstep.cloud.description import read_job
from twinstep.demo.frameworks import FRAMEWORKS
from twinstep.demo.hosts.groups import MemoryGroup
from twinstep.demo.hosts.members import Members, on_loopback
from twinstep.demo.hosts.network import Network

KINDS_OF_STORE = {"embedded": 0, "etcd": 3}
"""What jobs are injured on, and how many members of etcd each has."""
CONFIG = FRAMEWORKS["torch"].settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a ground needs to know of a job."""

    command: Sequence[str]
    """The script and its arguments."""
    machines: int
    standbys: int
    copies: int
    storage: str = ""
    """Where steps are written to; empty: nowhere."""
    settings: Path = CONFIG
    """The job's configuration, as TOML."""


class Ground(Protocol):
    """What a fault may injure besides processes, and what a job runs on."""

    @property
    def etcd(self) -> Members | None:
        """The job's etcd; None where it has an embedded store."""
        ...

    @property
    def network(self) -> Network | None:
        """The links between machines; None where they have none of their own."""
        ...

    def start(self, work: Work, folder: Path, log: IO[bytes]) -> None:
        """The job begins; `folder` is its own."""
        ...

    def view(self) -> jobs.JobView | None:
        """Returns the job as seen from outside, to be closed; None before it is
        known."""
        ...

    def exit_status(self) -> int | None:
        """The status the job has ended with; None while it runs."""
        ...

    def outside(self, status: Status) -> Status:
        """Returns a status with numbers of processes as they are here."""
        ...

    def host_of(self, machine: str) -> int:
        """The host that a machine runs on, where there are hosts."""
        ...

    def out_of_reach(self, machine: str) -> None:
        """Whoever ends machines cannot end this one any more."""
        ...

    def shift_clock(self, machine: str, seconds: float) -> None:
        """The machine's wall clock is wrong by so much, from now on."""
        ...

    def memory_of(self, machine: str) -> MemoryGroup:
        """The control group that all of a machine runs in, where it has one."""
        ...

    def disk_of(self, machine: str) -> Path:
        """The folder, as it is here, of a machine's own disk, where it has one."""
        ...

    def clock_ahead_s(self, machine: str) -> float:
        """How far ahead a machine's clock was when its agent started."""
        ...

    def close(self, *, limit_s: float) -> None:
        """What was started here has been told to end, and has been killed if not
        gone after `limit_s`."""
        ...


@final
class Loopback:
    """`twinstep run` on this computer."""

    network = None

    def __init__(self, *, kv: str = "embedded") -> None:
        self._members = KINDS_OF_STORE[kv]
        self.etcd: Members | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, work: Work, folder: Path, log: IO[bytes]) -> None:
        command = [sys.executable, "-m", "twinstep", "run", "--config"]
        command += [str(work.settings), "--machines", str(work.machines)]
        command += ["--standby", str(work.standbys), "--copies", str(work.copies)]
        if work.storage:
            command += ["--storage", work.storage]
        if self._members:
            self.etcd = Members(on_loopback(self._members), folder / "etcd")
            self.etcd.ready()
            command += ["--store", f"etcd://{self.etcd.endpoints}/{folder.name}"]
        self._process = subprocess.Popen(
            tied([*command, *work.command], parent=os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def view(self) -> jobs.JobView | None:
        """The job whose launcher is our process."""
        assert self._process is not None
        for folder in jobs.list_jobs():
            with contextlib.suppress(OSError, ValueError):
                if read_job(folder).launcher == self._process.pid:
                    return jobs.JobView(folder)
        return None

    def exit_status(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def outside(self, status: Status) -> Status:
        return status

    def host_of(self, machine: str) -> int:
        raise AssertionError(f"{machine} is on no host")

    def out_of_reach(self, machine: str) -> None:
        """The launcher reaches every machine."""

    def shift_clock(self, machine: str, seconds: float) -> None:
        raise AssertionError(f"{machine} has this computer's clock")

    def memory_of(self, machine: str) -> MemoryGroup:
        raise AssertionError(f"{machine} has this computer's memory")

    def disk_of(self, machine: str) -> Path:
        raise AssertionError(f"{machine} has this computer's disks")

    def clock_ahead_s(self, machine: str) -> float:
        return 0.0

    def close(self, *, limit_s: float) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self._process.kill()  # what it started dies with it
                self._process.wait(limit_s)
        if self.etcd is not None:
            self.etcd.close()
