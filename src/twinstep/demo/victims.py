"""Processes that are stopped first, looked at, and only then killed or let go.

A blow that aims must be able to take back its aim: SIGSTOP is sent, and when all
threads stand still, what was to be hit is looked at again. Was it there, SIGKILL
follows (or the victim is left as it is); was it over by then, SIGCONT, and nothing has
happened but a pause of some milliseconds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from twinstep.agent.status import MachineStatus, Status
from twinstep.clock import monotonic_s
from twinstep.errors import UsageError
from twinstep.inject import all_slots, find_machine, live_group

STAND_S_MAX = 1.0
"""Threads that were told to stop stand still within this time."""
STAND_LOOK_S = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """Who is injured: one process, or a machine's process group."""

    who: str
    machine: str
    process: int = 0
    group: int = 0
    """All processes of this group, where it is not 0."""
    is_rank: bool = False

    def stop(self) -> None:
        """Every thread stands still. Raises: UsageError when it is gone, or when
        some thread does not stop in time."""
        self._signal(signal.SIGSTOP)
        until_s = monotonic_s() + STAND_S_MAX
        while moving := self._moving():
            if monotonic_s() > until_s:
                self.let_go()
                raise UsageError(f"{self.who}: process {moving} does not stand still")
            time.sleep(STAND_LOOK_S)

    def let_go(self) -> None:
        """It goes on; nothing if it was ended meanwhile."""
        try:
            self._signal(signal.SIGCONT)
        except UsageError:
            return

    def kill(self) -> None:
        """Raises: UsageError when it is gone."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            if self.group:
                os.killpg(self.group, number)
            else:
                os.kill(self.process, number)
        except ProcessLookupError as error:
            raise UsageError(f"{self.who} is gone: {error}") from error

    def _moving(self) -> int:
        """A process of the victim that has a thread which is not stopped; or 0."""
        for process in processes_of(self.group) if self.group else (self.process,):
            for task in Path(f"/proc/{process}/task").glob("[0-9]*/stat"):
                if _fields(task)[:1] not in ([b"T"], [b"t"], [b"Z"], [b"X"], []):
                    return process
        return 0


def rank_of(status: Status, rank: int) -> Victim:
    """Returns a rank that trains, by the number of its process in the status."""
    for machine in status.machines:
        if rank in machine.ranks and machine.ranks[rank] in _below(machine.group):
            return Victim(
                who=f"rank {rank}",
                machine=machine.machine,
                process=machine.ranks[rank],
                is_rank=True,
            )
    raise UsageError(f"rank {rank} is gone")


def agent_of(status: Status, machine: str) -> Victim:
    """Returns a machine's agent, without its ranks."""
    found = find_machine(status, machine)
    name = found.machine
    return Victim(who=f"{name}'s agent", machine=name, process=live_group(found))


def all_of(status: Status, machine: str) -> Victim:
    """Returns a machine with all that runs on it."""
    found = whole(find_machine(status, machine))
    root = found.machine == status.root
    return replace(found, who=f"{found.who} (root)") if root else found


def whole(machine: MachineStatus) -> Victim:
    """Returns all that runs on a machine."""
    name = machine.machine
    return Victim(who=name, machine=name, group=live_group(machine))


def ranks_with_slots(machine: MachineStatus) -> list[Victim]:
    """The processes of a machine, besides its agent, that have slots open now: ranks
    that are restoring or training."""
    agent = machine.group
    return [
        Victim(
            who=f"a rank of {machine.machine}",
            machine=machine.machine,
            process=pid,
            is_rank=True,
        )
        for pid in _below(agent)
        if all_slots(pid)
    ]


def processes_of(group: int) -> list[int]:
    """The processes of a process group that live."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _fields(path)
        if len(fields) > 2 and int(fields[2]) == group and fields[0] not in b"ZX":
            found.append(int(path.parent.name))
    return found


def _below(process: int) -> Sequence[int]:
    """The processes that this one has started, and those that they have."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("[0-9]*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:
            continue  # the thread has ended in between
        for child in children:
            found += [child, *_below(child)]
    return found


def _fields(path: Path) -> list[bytes]:
    """A process's state, parent, group, ..; empty when it is gone. The name before
    them is in parentheses and may hold any byte."""
    try:
        return path.read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
