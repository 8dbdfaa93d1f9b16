"""The ranks of one machine in the present round: started, heard, watched, ended.

Ranks are forked from a warm process, which has imported the frameworks before it is
needed, or started plainly. Their output goes to the agent's, each line with its rank
before it, and the last lines are kept for a report. Everybody is gone before the next
round begins; a rank that was stopped by a signal dies of SIGKILL all the same.

A warm process that still imports hears nothing, for as long as a minute where modules
come over a network. Its ranks wait here until it is ready, so that a round that ends
meanwhile can take them back: a machine that has yet to start its first rank has
nothing to end, and must not be taken for one that does not stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from twinstep.agent.messages import Begin
from twinstep.agent.ranks import PlainRanks, Ranks, WarmGone, WarmRanks
from twinstep.agent.warm import Exited, Fork, Forked, Ready, Unable
from twinstep.config import Job
from twinstep.environment import rank_environment
from twinstep.values import Grid

LINE_BYTES_MAX = 64 * 1024
READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What every rank runs."""

    script: str
    arguments: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    """The whole environment that ranks start from."""


@dataclass(slots=True, kw_only=True)
class _Output:
    """What a rank prints, cut into lines."""

    rank: int
    pipe: int
    tail: deque[str]
    rest: bytes = b""


@dataclass(slots=True, kw_only=True)
class _Member:
    rank: int
    pid: int = 0
    ended: bool = False
    outputs: list[_Output] = field(default_factory=list[_Output])


class Crew:
    """Starts and ends the ranks of a machine, in the agent's loop.

    `on_exit(round, rank, status, tail)` is called once for each rank that ends by
    itself; not for those that `stop` ends. `write` takes the lines that they print."""

    def __init__(
        self,
        job: Job,
        command: Command,
        *,
        name: str,
        socket_path: str,
        on_exit: Callable[[int, int, int, list[str]], None],
        write: Callable[[str], None],
    ) -> None:
        self._job, self._command, self._name = job, command, name
        self._socket_path, self._on_exit, self._write = socket_path, on_exit, write
        self._loop = asyncio.get_running_loop()
        self._requests = 0
        self._round = 0
        self._members: dict[int, _Member] = {}  # by request
        self._waiting: list[tuple[Fork, list[int]]] = []
        """Ranks, with the ends of pipes for their output, that a warm process is asked
        for when it is ready. Invariant: at most one for each rank of the machine."""
        self._stopping = False
        self.is_warm = not job.warm
        """Ranks can be started without waiting for imports, as far as that goes."""
        self._ranks = self._started()

    def _started(self) -> Ranks:
        ranks: Ranks
        if self._job.warm:
            ranks = WarmRanks(
                preload=self._job.preload,
                folder=self._command.folder,
                environment=self._command.environment,
            )
        else:
            ranks = PlainRanks(environment=self._command.environment)
        self._loop.add_reader(ranks.fileno(), self._hear)
        return ranks

    def start(self, begin: Begin, *, machine_rank: int, grid: Grid, job: str) -> None:
        """Every rank of the machine is being started."""
        assert self.gone, "ranks of an earlier round are still here"
        self._round, self._stopping = begin.round, False
        self._members.clear()
        for rank in grid.ranks(machine_rank):
            environment = rank_environment(
                rank=rank,
                world_size=grid.world_size,
                local_rank=rank % grid.ranks_per_machine,
                ranks_per_machine=grid.ranks_per_machine,
                machine_rank=machine_rank,
                machines=grid.machines,
                round=begin.round,
                job=job,
                restarts_max=self._job.rounds_without_progress_max,
                master=(begin.members[0].host, begin.master_port),
                agent=self._socket_path,
            )
            self._start(rank, environment)

    def _start(self, rank: int, environment: dict[str, str]) -> None:
        self._requests += 1
        member = _Member(rank=rank)
        self._members[self._requests] = member
        tail = deque[str](maxlen=self._job.output_lines_max)
        ends: list[int] = []
        for _ in ("stdout", "stderr"):
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(write_end, True)
            output = _Output(rank=rank, pipe=read_end, tail=tail)
            member.outputs.append(output)
            self._loop.add_reader(read_end, self._read, output)
            ends.append(write_end)
        fork = Fork(
            request=self._requests,
            script=self._command.script,
            arguments=list(self._command.arguments),
            folder=self._command.folder,
            environment=environment,
        )
        self._waiting.append((fork, ends))
        if self.is_warm:
            self._fork_waiting()

    def _fork_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for fork, ends in waiting:
            try:
                self._ranks.start(fork, stdout=ends[0], stderr=ends[1])
            finally:
                for end in ends:
                    os.close(end)

    def _take_back_waiting(self, reason: str) -> None:
        """Ranks that nobody was asked for yet will never be."""
        waiting, self._waiting = self._waiting, []
        for fork, ends in waiting:
            for end in ends:
                os.close(end)
            self._ended(self._members[fork.request], -signal.SIGKILL, reason)

    def stop(self) -> None:
        """Every rank is killed; `gone` tells when nobody is left."""
        self._stopping = True
        self._take_back_waiting("")
        for member in self._members.values():
            if member.pid and not member.ended:
                self._ranks.signal(member.pid, signal.SIGKILL)

    @property
    def gone(self) -> bool:
        return all(member.ended for member in self._members.values())

    @property
    def pids(self) -> dict[int, int]:
        """The living ranks' processes."""
        return {m.rank: m.pid for m in self._members.values() if m.pid and not m.ended}

    def close(self) -> None:
        """No rank is left, and no warm process."""
        self._loop.remove_reader(self._ranks.fileno())
        self._stopping = True
        self._take_back_waiting("")
        for member in self._members.values():
            self._drain(member)
        self._ranks.close()

    # What the ranks do.

    def _hear(self) -> None:
        for event in self._ranks.receive():
            match event:
                case Forked(request=request, pid=pid):
                    self._members[request].pid = pid
                    if self._stopping:
                        self._ranks.signal(pid, signal.SIGKILL)
                case Unable(request=request, reason=reason):
                    self._ended(self._members[request], 1, reason)
                case Exited(pid=pid, status=status):
                    for member in list(self._members.values()):
                        if member.pid == pid:
                            self._ended(member, status, "")
                case WarmGone():
                    self.is_warm = False
                    self._renew()
                case Ready(failed=failed, threads=threads):
                    self.is_warm = True
                    self._fork_waiting()
                    if threads > 1:
                        self._write(
                            f"twinstep: {self._name}: a module of `preload` left "
                            f"{threads - 1} threads behind, which ranks will lack; "
                            "set warm = false, or preload less"
                        )
                    for module, reason in failed.items():
                        self._write(
                            f"twinstep: {self._name}: import {module}: {reason}"
                        )

    def _ended(self, member: _Member, status: int, reason: str) -> None:
        if member.ended:
            return
        member.ended = True
        self._drain(member)
        tail = list(member.outputs[0].tail)
        if reason:
            tail.append(reason)
        if not self._stopping:
            self._on_exit(self._round, member.rank, status, tail)

    def _renew(self) -> None:
        """The warm process is gone: its ranks die with it, another takes its place."""
        old = self._ranks
        self._loop.remove_reader(old.fileno())
        self._take_back_waiting("the warm process ended")
        for member in self._members.values():
            self._ended(member, -signal.SIGKILL, "the warm process ended")
        old.close()
        self._ranks = self._started()

    # What the ranks print.

    def _drain(self, member: _Member) -> None:
        for output in member.outputs:
            if output.pipe >= 0:
                self._read(output)
            if output.pipe >= 0:
                self._end(output)

    def _read(self, output: _Output) -> None:
        try:
            data = os.read(output.pipe, READ_BYTES)
        except BlockingIOError:
            return
        *lines, output.rest = (output.rest + data).split(b"\n")
        if not data or len(output.rest) > LINE_BYTES_MAX:
            lines, output.rest = [*lines, output.rest], b""
        for line in lines:
            text = line.decode(errors="replace")
            if text:
                output.tail.append(text)
                self._write(f"[rank {output.rank}] {text}")
        if not data:
            self._end(output)

    def _end(self, output: _Output) -> None:
        self._loop.remove_reader(output.pipe)
        os.close(output.pipe)
        output.pipe = -1
