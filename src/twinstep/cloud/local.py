"""Machines on one computer: each is an agent's process in a session of its own.

A machine is lost as a whole by one signal to its process group, which is what a test,
`inject` and `close` do. When the launcher is killed, its machines are: they die with
the thread that started them (agent/lifeline.py). An agent that has ended leaves no
member of its group behind: the group is killed before its leader is reaped, as its
number is nobody else's until then.

Left out: other computers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from twinstep.agent.lifeline import tied
from twinstep.clock import monotonic_s
from twinstep.cloud.serving import Gone, NoMachine, Started
from twinstep.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be started on one computer, and how long its end may take."""

    machines_max: int
    """Machines that live at the same time; one more is refused, with this number."""
    stop_s_max: float = 10.0
    """Killed processes are gone and reaped within this time."""

    def __post_init__(self) -> None:
        if self.machines_max < 1:
            raise ConfigError(f"machines_max is {self.machines_max}; at least 1")


@final
class LocalFleet:
    """Machines of this computer.

    `command(name)` is the agent's command line. The agents' output goes where this
    process's goes, unless `output` names a descriptor."""

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        *,
        limits: Limits,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        output: int | None = None,
    ) -> None:
        self._command = command
        self._limits = limits
        self._environment = environment
        self._folder = folder
        self._output = output
        self._living: dict[str, subprocess.Popen[bytes]] = {}
        # Held while a machine is reaped: until then its group's number is its own.
        self._reaping = threading.Lock()

    def start(self, name: str) -> Started:
        """A machine more. Raises: NoMachine."""
        living = len(self._living)
        if living >= self._limits.machines_max:
            raise NoMachine(
                f"{living} machines live on this computer; at most "
                f"{self._limits.machines_max}: give one back, or raise the limit"
            )
        try:
            process = subprocess.Popen(
                tied(self._command(name), parent=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        except OSError as error:
            raise NoMachine(f"{name} cannot be started: {error}") from error
        self._living[name] = process
        return Started(group=process.pid)

    def kill(self, name: str) -> None:
        """The machine's processes are killed. May be called by any thread."""
        with self._reaping:
            process = self._living.get(name)
            if process is not None:
                kill_group(process.pid)

    def ended(self) -> list[Gone]:
        """Machines whose agent has ended are gone whole."""
        found: list[Gone] = []
        for name, process in list(self._living.items()):
            if not has_ended(process.pid):
                continue
            with self._reaping:
                status = sweep(process)
                del self._living[name]
            reason = f"its agent ended with {status}"
            found.append(
                Gone(name=name, status=status, reason=reason, group=process.pid)
            )
        return found

    def close(self) -> list[str]:
        for process in self._living.values():
            kill_group(process.pid)
        until_s = monotonic_s() + self._limits.stop_s_max
        left: list[str] = []
        for name, process in self._living.items():
            if has_ended(process.pid, max(0.0, until_s - monotonic_s())):
                sweep(process)
            else:
                left.append(name)
        self._living.clear()
        return left


def has_ended(pid: int, timeout_s: float | None = 0.0) -> bool:
    """Whether a child ends within this time, None for ever; it is not reaped, and its
    number stays its own."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
    finally:
        os.close(descriptor)


def sweep(process: subprocess.Popen[bytes]) -> int:
    """Kills what is left of an ended leader's group, then reaps it. Returns its
    status."""
    kill_group(process.pid)
    return process.wait()


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
