"""The ranks of one machine where another launcher starts them: torchrun, srun, mpirun.

It stands where crew.py does, and starts nobody. A rank connects and says Arrive; the
kernel tells its process, and a pidfd its end. To stop a rank is to kill it: its
launcher notices that, as it would any failure, and starts it again. Who may train is
decided in guestbook.py.

The parent of a rank is its launcher (torchrun, orted, slurmstepd). When no rank is left
and no launcher either, the agent waits for the next launch for a while, then ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from twinstep.agent import messages as say
from twinstep.agent.guestbook import Guest, Guestbook
from twinstep.agent.health import UNKNOWN
from twinstep.agent.links import Link
from twinstep.values import Grid

ENDED = ".ended.json"
"""Behind the machine's name, the file that tells how its job has ended."""
STATUS_FIELD, START_FIELD, PARENT_FIELD, STATE_FIELD = 49, 19, 1, 0
"""Of /proc/PID/stat, counted from behind the name."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a job has ended, left in its folder for ranks that its launcher still
    starts: without it they would begin the job anew."""

    status: int
    reason: str
    launchers: list[str]
    """Those whose ranks were of this job. A later launch is another job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What an agent wants to hear of its guests."""

    exited: Callable[[int, int, int, list[str]], None]
    """Round, rank, status and last lines of a rank that ended by itself."""
    waits: Callable[[int], None]
    """All ranks are here and wait, with this machine rank; or (-1) no longer."""
    alone: Callable[[str], None]
    """Nobody has come back, and why nobody will."""


class Guests:
    """Admits and ends the ranks of a machine, in the agent's loop."""

    is_warm = True
    """There is nothing to warm."""

    def __init__(
        self, grid: Grid, *, ended: Path, return_s_max: float, events: Events
    ) -> None:
        self._book = Guestbook(grid=grid)
        self._ended, self._return_s_max, self._events = ended, return_s_max, events
        self._loop = asyncio.get_running_loop()
        self._links: dict[int, Link[say.FromRank]] = {}  # by process
        self._watched: dict[int, int] = {}  # pidfds of guests, by process
        self._launchers: dict[int, int] = {}  # pidfds, by process
        self._stopping = False
        self._alone: asyncio.TimerHandle | None = None
        self._look()

    # What the agent does.

    def start(
        self, begin: say.Begin, *, machine_rank: int, grid: Grid, job: str
    ) -> None:
        """The round has begun: those that wait are admitted, or who comes next."""
        self._stopping = False
        self._book.begins(round=begin.round, machine_rank=machine_rank)
        self._enter()

    def stop(self) -> None:
        """Every rank of the round is killed; those that wait have not begun."""
        self._stopping = True
        for guest in self._book.ends():
            self._kill(guest)
        self._events.waits(self._book.place)

    @property
    def gone(self) -> bool:
        return not self._book.admitted

    @property
    def pids(self) -> dict[int, int]:
        """The processes of the ranks that train."""
        return {guest.arrive.rank: guest.pid for guest in self._book.admitted}

    def states(self) -> dict[int, str]:
        """The state of each rank's process, as /proc has it; X when it is gone."""
        return {rank: _stat(pid)[STATE_FIELD] for rank, pid in self.pids.items()}

    def leave(self, status: int, reason: str) -> str:
        """The job is over: whoever comes later, from the same launch, hears how.
        Returns why they will not, in words, or ""."""
        launchers = [identity(pid) for pid in self._launchers]
        ended = Ended(status=status, reason=reason, launchers=launchers)
        part = self._ended.with_suffix(".part")
        try:
            part.write_bytes(msgspec.json.encode(ended))
            part.replace(self._ended)
        except OSError as error:
            return f" (ranks that come later will not hear of it: {error})"
        return ""

    def close(self) -> None:
        """Nobody is watched any more."""
        if self._alone is not None:
            self._alone.cancel()
        for watched in (self._watched, self._launchers):
            for descriptor in watched.values():
                self._loop.remove_reader(descriptor)
                os.close(descriptor)
            watched.clear()
        for link in self._links.values():
            link.close("the agent ends")

    # What the ranks do.

    def hear(
        self, message: say.Arrive | say.Leaving, link: Link[say.FromRank], pid: int
    ) -> None:
        """A rank says that it is here, or that it is about to end well."""
        if isinstance(message, say.Leaving):
            for guest in self._book.admitted:
                guest.left |= guest.arrive.rank == message.rank
            return
        parent = int(_stat(pid)[PARENT_FIELD])
        living = {pid for pid in self._launchers if _alive(pid)}
        refusal = self._book.refusal(message, parent=parent, living=living)
        if refusal or not self._watch(pid, parent):
            link.send(say.Fail(round=0, reason=refusal or "its process is gone"))
            return
        self._links[pid] = link
        for old in self._book.arrives(message, pid=pid, parent=parent):
            self._kill(old)
        self._look()
        self._enter()
        self._events.waits(self._book.place)

    def _enter(self) -> None:
        for guest in self._book.enter():
            link = self._links[guest.pid]
            link.name = f"rank {guest.arrive.rank}"
            link.send(say.Admit(round=guest.round))
        if self._book.misplaced:
            round, self._book.round = self._book.round, 0
            tail = [f"its launcher has made this machine rank {self._book.place}"]
            for rank in self._book.grid.ranks(self._book.machine_rank)[:1]:
                self._events.exited(round, rank, UNKNOWN, tail)

    def parts(self, link: Link[say.FromRank]) -> None:
        """A connection has ended. Who waits no longer, but lives, may come again."""
        for pid, known in list(self._links.items()):
            guest = self._book.guests.get(pid)
            if known is link and guest is not None and not guest.round:
                self._book.gone(pid)
                self._events.waits(self._book.place)

    def _watch(self, pid: int, parent: int) -> bool:
        """Whether the end of a process, and of its parent, will be noticed."""
        try:
            if pid not in self._watched:
                self._watched[pid] = _notice(self._loop, pid, self._gone)
            if parent not in self._launchers:
                self._launchers[parent] = _notice(self._loop, parent, self._over)
        except OSError:
            return pid in self._watched
        return True

    def _gone(self, pid: int) -> None:
        """A guest's process has ended."""
        status = exit_status(pid)
        self._loop.remove_reader(self._watched[pid])
        os.close(self._watched.pop(pid))
        link = self._links.pop(pid, None)
        if link is not None:
            link.close("its process has ended")
        guest = self._book.gone(pid)
        if guest is not None and guest.round and not self._stopping:
            if status is None:
                status = 0 if guest.left else UNKNOWN
            tail = ["(its output is with its launcher)"]
            self._events.exited(guest.round, guest.arrive.rank, status, tail)
        self._events.waits(self._book.place)
        self._look()

    def _over(self, launcher: int) -> None:
        self._loop.remove_reader(self._launchers[launcher])
        os.close(self._launchers.pop(launcher))
        self._look()

    def _kill(self, guest: Guest) -> None:
        descriptor = self._watched.get(guest.pid)
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def _look(self) -> None:
        """Sets the time at which nobody is waited for any more, or takes it back."""
        if self._book.guests or self._launchers:
            if self._alone is not None:
                self._alone.cancel()
                self._alone = None
        elif self._alone is None:
            self._alone = self._loop.call_later(
                self._return_s_max,
                self._events.alone,
                f"no rank has come for {self._return_s_max:g} s, and no launcher is "
                "left that would start one",
            )


def identity(pid: int) -> str:
    """What tells a process from a later one with its number; empty if it is gone."""
    stat = _stat(pid)
    return f"{pid}:{stat[START_FIELD]}" if len(stat) > START_FIELD else ""


def exit_status(pid: int) -> int | None:
    """The status of a process that has ended, or minus the signal; None once its
    parent has collected it. Only a parent is told; others may look before."""
    stat = _stat(pid)
    if stat[STATE_FIELD] != "Z" or len(stat) <= STATUS_FIELD:
        return None
    return os.waitstatus_to_exitcode(int(stat[STATUS_FIELD]))


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may hold anything; X, 0 if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def _alive(pid: int) -> bool:
    return _stat(pid)[STATE_FIELD] not in "ZX"


def _notice(
    loop: asyncio.AbstractEventLoop, pid: int, gone: Callable[[int], None]
) -> int:
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, gone, pid)
    return descriptor
