"""Starts ranks for an agent and tells how they end, without a thread.

Two ways, one interface: `WarmRanks` forks them from a warm process (warm.py),
`PlainRanks` starts each as `python script.py`. The agent's loop watches `fileno()` and
calls `receive()` when it can be read; nothing here waits, except `close`, which has a
deadline. A rank is gone when Exited says so, and not before: the memory it may write
to is then free, which is what the rule of two slots needs to know.

Signals go through a pidfd, never to a number that may be another process by now.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, final

import msgspec

from twinstep.agent.lifeline import tied
from twinstep.agent.warm import (
    MESSAGE_BYTES_MAX,
    Exited,
    Fork,
    Forked,
    FromWarm,
    Ready,
    Unable,
)
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, Refused

CLOSE_S_MAX = 5.0
"""Killed processes are gone within this time, or `close` says which are not."""


class WarmGone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The warm process has ended; its ranks are dying, and Exited tells of each."""

    status: int


RankEvent: TypeAlias = Ready | Forked | Unable | Exited | WarmGone


class Ranks(Protocol):
    """Five calls: start, hear (two), injure, end. A loop over descriptors needs no
    more, and both ways of starting a rank fit."""

    def start(self, fork: Fork, *, stdout: int, stderr: int) -> None:
        """A rank is being started; Forked or Unable tells. The descriptors are copied
        and may be closed. Raises: Refused when it cannot even be asked for."""
        ...

    def fileno(self) -> int:
        """A descriptor that can be read when `receive` has something to tell."""
        ...

    def receive(self) -> list[RankEvent]:
        """Returns what has happened, in order; at once."""
        ...

    def signal(self, pid: int, number: int) -> None:
        """A living rank gets the signal; one that has exited nothing."""
        ...

    def close(self) -> None:
        """No rank is left. Raises: DeadlinePassed naming those that are."""
        ...


@final
class _Processes:
    """Living processes by pidfd, in one descriptor that can be polled."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self._descriptors: dict[int, int] = {}  # by pid

    def add(self, pid: int, descriptor: int) -> None:
        self._descriptors[pid] = descriptor

    def watch(self) -> None:
        """From now on the death of any can be read, from `poll`."""
        for descriptor in self._descriptors.values():
            with contextlib.suppress(FileExistsError):
                self.poll.register(descriptor, select.EPOLLIN)

    def dead(self) -> list[int]:
        return [pid for pid, fd in self._descriptors.items() if _readable(fd, 0.0)]

    def remove(self, pid: int) -> None:
        descriptor = self._descriptors.pop(pid, None)
        if descriptor is not None:
            os.close(descriptor)  # epoll forgets it by itself

    def signal(self, pid: int, number: int) -> None:
        descriptor = self._descriptors.get(pid)
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)

    def end(self) -> None:
        """All are killed and gone. Raises: DeadlinePassed."""
        for pid in self._descriptors:
            self.signal(pid, signal.SIGKILL)
        until_s = monotonic_s() + CLOSE_S_MAX
        left = [
            pid
            for pid, descriptor in self._descriptors.items()
            if not _readable(descriptor, max(0.0, until_s - monotonic_s()))
        ]
        for pid in list(self._descriptors):
            self.remove(pid)
        self.poll.close()
        if left:
            raise DeadlinePassed(
                f"processes {left} were killed but are not gone after {CLOSE_S_MAX} s"
            )


@final
class WarmRanks:
    """Ranks forked from a warm process, which is started at once and soon Ready.

    `environment` is the whole environment of the warm process; None for this one's.
    What is read when a process starts (OMP_NUM_THREADS, GLIBC_TUNABLES) belongs here.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str],
        folder: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        _assert_lasting_thread()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "twinstep.agent.warm"]
        command += ["--control", str(theirs.fileno()), "--parent", str(os.getpid())]
        command += ["--preload", *preload]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        self._control: socket.socket | None = ours
        self._processes = _Processes()
        self._processes.poll.register(ours, select.EPOLLIN)
        self._decoder: msgspec.msgpack.Decoder[FromWarm] = msgspec.msgpack.Decoder(
            Ready | Forked | Unable | Exited
        )

    @property
    def pid(self) -> int:
        """The warm process."""
        return self._process.pid

    def start(self, fork: Fork, *, stdout: int, stderr: int) -> None:
        body = msgspec.msgpack.encode(fork)
        if len(body) > MESSAGE_BYTES_MAX:
            raise Refused(
                f"the rank's arguments and environment take {len(body)} bytes; at most "
                f"{MESSAGE_BYTES_MAX}: give what all ranks share to the warm process"
            )
        if self._control is None:
            raise Refused("the warm process has ended; start another")
        rights = array.array("i", [stdout, stderr])
        try:
            self._control.sendmsg(
                [body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            )
        except OSError as error:
            raise Refused(f"the warm process takes no requests: {error}") from error

    def fileno(self) -> int:
        return self._processes.poll.fileno()

    def receive(self) -> list[RankEvent]:
        events: list[RankEvent] = []
        while self._control is not None:
            try:
                body, descriptors, _, _ = socket.recv_fds(
                    self._control, MESSAGE_BYTES_MAX, 1
                )
            except BlockingIOError:
                return events
            except OSError:
                body, descriptors = b"", []
            if not body:
                events.append(self._end_of_warm())
                break
            message = self._decoder.decode(body)
            if isinstance(message, Forked):
                self._processes.add(message.pid, descriptors[0])
            if isinstance(message, Exited):
                self._processes.remove(message.pid)
            events.append(message)
        for pid in self._processes.dead():
            self._processes.remove(pid)
            events.append(Exited(pid=pid, status=-signal.SIGKILL))
        return events

    def signal(self, pid: int, number: int) -> None:
        self._processes.signal(pid, number)

    def close(self) -> None:
        if self._processes.poll.closed:
            return
        if self._control is not None:
            self._end_of_warm()
        self._processes.end()

    def _end_of_warm(self) -> WarmGone:
        """The warm process is reaped, and its ranks are watched from here."""
        assert self._control is not None
        self._control.close()
        self._control = None
        self._process.kill()
        status = self._process.wait(CLOSE_S_MAX)
        self._processes.watch()
        return WarmGone(status=status)


@final
class PlainRanks:
    """Ranks started one by one; the same to the agent, seconds slower to the user.

    `environment` is what each rank's own is added to; None for this process's."""

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        _assert_lasting_thread()
        self._environment = environment
        self._processes = _Processes()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._told: list[RankEvent] = [
            Ready(modules=[], failed={}, threads=1, seconds=0.0)
        ]
        self._bell = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._processes.poll.register(self._bell, select.EPOLLIN)

    def start(self, fork: Fork, *, stdout: int, stderr: int) -> None:
        _assert_lasting_thread()
        # -u, as a pipe is otherwise given lines by the block, and the last of them
        # never when the rank is killed.
        command = [sys.executable, "-u", fork.script, *fork.arguments]
        try:
            child = subprocess.Popen(
                ["env", *_settings(fork), *tied(command, parent=os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=fork.folder,
                env=self._environment,
            )
        except OSError as error:
            self._tell(Unable(request=fork.request, reason=str(error)))
            return
        self._children[child.pid] = child
        self._processes.add(child.pid, os.pidfd_open(child.pid))
        self._processes.watch()
        self._tell(Forked(request=fork.request, pid=child.pid))

    def fileno(self) -> int:
        return self._processes.poll.fileno()

    def receive(self) -> list[RankEvent]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        events, self._told = self._told, []
        for pid in self._processes.dead():
            self._processes.remove(pid)
            status = self._children.pop(pid).wait(CLOSE_S_MAX)
            events.append(Exited(pid=pid, status=status))
        return events

    def signal(self, pid: int, number: int) -> None:
        self._processes.signal(pid, number)

    def close(self) -> None:
        if self._processes.poll.closed:
            return
        try:
            self._processes.end()
        finally:
            os.close(self._bell)
        for child in self._children.values():
            child.wait(CLOSE_S_MAX)
        self._children.clear()

    def _tell(self, event: RankEvent) -> None:
        self._told.append(event)
        os.eventfd_write(self._bell, 1)


def _settings(fork: Fork) -> list[str]:
    """The rank's variables for env(1): added to an environment that is not read."""
    return [f"{name}={value}" for name, value in fork.environment.items()]


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _assert_lasting_thread() -> None:
    assert threading.current_thread() is threading.main_thread(), (
        "start ranks from the main thread: they die with the thread that starts them"
    )
