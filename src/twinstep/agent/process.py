"""Runs an agent: the one place where decisions meet sockets, processes and threads.

One loop in the main thread owns all decisions of the machine (worker.py, and root.py
while this agent is root). What happens is given to them with the time; what they
return is carried out here. Ranks and their sockets are crew.py and links.py, copies
move in the threads of moving.py, leases live in the threads of seat.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import msgspec

from twinstep import clock
from twinstep.agent import actions as do, links, looking, messages as say
from twinstep.agent.checkup import Checkup
from twinstep.agent.crew import Command, Crew
from twinstep.agent.doors import Doors
from twinstep.agent.drains import Drains
from twinstep.agent.estate import Estate
from twinstep.agent.guests import ENDED, Events, Guests
from twinstep.agent.health_http import HealthServer, lacks
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.lookout import Lookout
from twinstep.agent.moving import Mover
from twinstep.agent.outlet import Outlet
from twinstep.agent.probes import probes_of
from twinstep.agent.pulses import Pulses
from twinstep.agent.rooting import Operator, Rooting
from twinstep.agent.seat import Seat
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Actions, Worker
from twinstep.config import Job
from twinstep.errors import DoesNotFit, TwinstepError, UsageError
from twinstep.telling import tell
from twinstep.trust.credentials import NONE, Credentials
from twinstep.values import Grid

RETRY_S = 0.1
POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where and as what an agent serves."""

    name: str
    job_name: str
    folder: Path
    """The job's folder, for the sockets."""
    host: str = "127.0.0.1"
    standby: bool = False
    credentials: Credentials = NONE
    """What it proves to others, and wants to see proved."""
    guests: bool = False
    """Another launcher starts the ranks; then there is no command."""
    started_s: float = 0.0
    """When the job started, by clock.now_s(): what the event log counts from."""


class Agent:
    """One machine's agent, in the loop that runs it."""

    def __init__(
        self,
        job: Job,
        post: Post,
        command: Command | None,
        store: KeyValueStore,
        operator: Operator,
    ) -> None:
        self.credentials = post.credentials
        self.job, self.post = job, post
        self.grid = Grid(machines=job.machines, ranks_per_machine=job.ranks_per_machine)
        self.loop = asyncio.get_running_loop()
        self._left: asyncio.Future[int] = self.loop.create_future()
        self._outlet = Outlet()
        self._estate = Estate(job.memory_bytes_max)
        self.doors = Doors(self)
        self.worker = Worker(
            machine=post.name,
            grid=self.grid,
            chunk_bytes=job.transfer.chunk_bytes,
            retry_s=RETRY_S,
            storage=job.storage,
            standby=post.standby,
            host=post.host,
            port=self.doors.port,
            group=os.getpgrp(),
        )
        self._transit = Transit(worker=self.worker)
        self._lookout = Lookout(worker=self.worker)
        self._looker = looking.Looker(
            job.health, post.folder, log=lambda text: self.log(text)
        )
        self.crew = self._crew(command)
        self._pulses = Pulses(log=self.log)
        self.mover = Mover(
            job=job,
            name=post.job_name,
            worker=self.worker,
            memory=self._estate.slots,
            post=self._post,
            clock=clock.now_s,
            credentials=post.credentials,
            blame=self.doors.blame,
            pages=lambda: self._pulses.views,
        )
        self._drains = Drains(
            job.storage,
            self.worker,
            self._estate.slots,
            chunk_bytes=job.transfer.chunk_bytes,
            post=self._post,
        )
        self.rooting = Rooting(self, operator)
        self.seat = Seat(
            store,
            machine=post.name,
            timing=job.timing,
            post=lambda work: self.soon(work),
            on_root=self.rooting.observe,
            on_machine=self.rooting.machine_seen,
            on_lost=lambda reason: self.leave(1, reason),
            log=self.log,
        )
        self._checkup = self._look_after()
        self._tasks: list[asyncio.Task[None]] = []
        self._health = HealthServer(post.host, job.health.port, lambda: lacks(self))

    # What a prober is told (health_http.py).

    @property
    def is_attached(self) -> bool:
        return self.rooting.is_root or self.doors.is_attached

    @property
    def has_place(self) -> bool:
        return self.worker.machine_rank >= 0

    @property
    def is_warm(self) -> bool:
        return self.crew.is_warm

    @property
    def reserved_bytes(self) -> int:
        return self._estate.reserved_bytes

    def _crew(self, command: Command | None) -> Crew | Guests:
        if command is not None:
            return Crew(
                self.job,
                command,
                name=self.post.name,
                socket_path=self.doors.path,
                on_exit=self._rank_ended,
                write=self._outlet.write,
            )
        return Guests(
            self.grid,
            ended=self.post.folder / f"{self.post.name}{ENDED}",
            return_s_max=self.job.timing.return_s_max,
            events=Events(
                exited=self._rank_ended,
                waits=lambda place: self.carry(self.worker.waits(place)),
                alone=lambda reason: self.leave(1, reason),
            ),
        )

    def _rank_ended(self, round: int, rank: int, status: int, tail: list[str]) -> None:
        self.carry(self._lookout.rank_ended(round, rank, status, tail))

    async def run(self) -> int:
        """Serves until the job is over; returns the status it ended with."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.leave, 0, "asked to end")
        self.doors.open()
        self._tasks = [self.loop.create_task(self._ticks())]
        join = self.worker.root_here()[0]
        assert isinstance(join, do.TellRoot)
        value = msgspec.json.encode(join.message)
        try:
            if self.job.health.port:
                await self._health.open()
            await self.loop.run_in_executor(None, self.seat.take, value)
            return await self._left
        except TwinstepError as error:
            self.log(f"leaves: {error}")
            return 2 if isinstance(error, UsageError) else 1
        finally:
            self._close()

    def leave(self, status: int, reason: str) -> None:
        """The agent ends soon; its ranks end with it."""
        if not self._left.done():
            self.log(f"leaves: {reason}" if reason else "leaves")
            self._left.set_result(status)

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._checkup.close()
        if not isinstance(self.crew, Guests) or self._status():
            self.crew.stop()  # guests that go on without protection are let go
        self.mover.close()
        self._drains.stop()
        self.rooting.close()
        self.seat.leave()
        self.doors.close()
        self._health.close()
        self.crew.close()
        looking.tidy(self.post.folder)
        self._estate.close()
        self._pulses.close()
        self._outlet.close()

    def _status(self) -> int:
        return self._left.result() if self._left.done() else 1

    def _begin_task(self, work: Coroutine[None, None, None]) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self.loop.create_task(work))

    def soon(self, work: Callable[[], None]) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(work)

    def _post(self, decide: Callable[[], Actions]) -> Future[None]:
        """From a thread: decides and acts in the loop."""
        done: Future[None] = Future()

        def work() -> None:
            try:
                self.carry(decide())
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)
                raise

        self.soon(work)
        return done

    def log(self, text: str) -> None:
        """One line of the event log: the same columns everywhere."""
        worker = self.worker
        role = "s" if worker.machine_rank < 0 else "w"
        role = "ROOT" if self.rooting.is_root else role
        state = "stopped" if worker.stopped else "running"
        step, keep = worker.vote.reached_max, worker.vote.keep
        now = clock.now_s() - self.post.started_s
        self._outlet.write(
            f"{now:9.3f}  {worker.machine:<7}  {role:<4}  {state:<8}  {step:>6}"
            f"  {keep:>6}  {text}"
        )

    # Decisions.

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(self.job.timing.tick_s)
            self.carry(self._transit.tick(clock.now_s()))
            self._checkup.tick()
            self.rooting.tick()
            if self.rooting.is_cut_off():
                self.carry(self.worker.cut_off())

    def hear_rank(self, message: say.FromRank) -> None:
        """A rank says something; what its page tells of a step may be for the root."""
        self.carry(self.worker.from_rank(message))
        if isinstance(message, say.Reached) and not self.worker.stopped:
            self.carry(self.mover.pacing.tells(message.rank))

    # Actions.

    def carry(self, actions: Actions) -> None:
        for action in actions:
            self._carry(action)

    def _carry(self, action: do.WorkerAction) -> None:
        match action:
            case do.TellRank(rank=rank, message=message, slots=slots):
                descriptors = [self._estate.slots[where].fd for where in slots]
                if isinstance(message, say.Welcome):
                    message, page = self._pulses.beside(rank, message)
                    descriptors += page
                self.doors.tell_rank(rank, message, descriptors)
            case do.TellRoot(message=message):
                if self.rooting.is_root:
                    self.rooting.soon(message)
                else:
                    self.doors.tell_root(message)
            case do.StartRanks(begin=begin, machine_rank=machine_rank):
                self.mover.pacing.begins()
                self.crew.start(
                    begin,
                    machine_rank=machine_rank,
                    grid=self.worker.grid,
                    job=self.post.job_name,
                )
            case do.StopRanks(round=round):
                self._stop_ranks(round)
            case do.ReserveSlots():
                self._begin_task(self._reserve(action))
            case do.ReleaseSlots(shards=shards):
                self._estate.release(shards)
            case do.HashCopy():
                self.mover.hash(action)
            case do.ShipCopy():
                self.mover.ship(action)
            case do.FetchCopy():
                self.mover.fetch(action)
            case do.StoreCopies():
                self._drains.store(action)
            case do.LookAtRanks():
                self._look(action)
            case do.Log(text=text):
                self.log(text)
            case do.Leave(status=status, reason=reason):
                if isinstance(self.crew, Guests):
                    refused = self.crew.leave(status, reason)
                    self.log(f"{reason}{refused}")
                self.leave(status, "")  # the launcher tells the reason

    def _look_after(self) -> Checkup:
        """The machine's probes begin to look."""
        health = self.job.health
        probes, failed = probes_of(
            health, machine=self.post.name, folder=self.post.folder
        )
        for text in failed:
            self.log(text)

        def tell(failing: str, warnings: list[str]) -> None:
            self.carry(self._lookout.condition(failing, warnings))

        return Checkup(probes, health, post=self.soon, on_change=tell)

    def _look(self, action: do.LookAtRanks) -> None:
        round = action.round
        self._looker.look(
            self.crew.pids,
            round=round,
            threads=action.threads,
            done=lambda sights: self.carry(self._lookout.looked(round, sights)),
        )

    def _stop_ranks(self, round: int) -> None:
        self.crew.stop()
        self.mover.stop()
        self._drains.stop()
        self.doors.part_with_ranks()
        self._begin_task(self._quiet(round))

    async def _quiet(self, round: int) -> None:
        while not (self.crew.gone and self.mover.idle):
            if self.worker.round != round:
                return
            await asyncio.sleep(POLL_S)
        port = links.free_port(self.post.host)
        self.carry(self.worker.all_quiet(round, port))

    async def _reserve(self, action: do.ReserveSlots) -> None:
        try:
            said = await self._estate.reserve(action, self.loop)
        except DoesNotFit as error:
            self.carry(self.worker.unreserved(action.sizes, str(error)))
            return
        self.log(said)
        self.carry(self.worker.reserved(action.sizes))


def serve(
    job: Job,
    post: Post,
    command: Command | None,
    store: KeyValueStore,
    operator: Operator,
) -> int:
    """Runs an agent until its job is over; returns its status.

    Args:
      command: what ranks run; None where another launcher starts them (post.guests)."""

    async def run() -> int:
        return await Agent(job, post, command, store, operator).run()

    try:
        return asyncio.run(run())
    except TwinstepError as error:
        tell(f"twinstep: {post.name}: {error}", error=True)
        return 1
