"""Runs an agent: the one place where decisions meet sockets, processes and threads.

One loop in the main thread owns all decisions of the machine (worker.py, and root.py
while this agent is root). What happens is given to them with the time; what they
return is carried out here. Ranks and their sockets are crew.py and links.py, copies
move in the threads of moving.py, leases live in the threads of seat.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.msgpack import Decoder

from twinstep import clock
from twinstep.agent import actions as do, links, messages as say
from twinstep.agent.crew import Command, Crew
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.lookout import Lookout
from twinstep.agent.moving import Mover
from twinstep.agent.rooting import Operator, Rooting
from twinstep.agent.seat import Seat
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Actions, Worker
from twinstep.config import Job
from twinstep.errors import DoesNotFit, ProtocolError, TwinstepError
from twinstep.store.memory import Reservation, Slot, available_bytes, reserve
from twinstep.transfer.frame import Fetch, Offer
from twinstep.values import Grid

RETRY_S = 0.1
POLL_S = 0.005

First = say.Opening | Offer | Fetch
_first: Decoder[First] = Decoder(First)
_from_rank: Decoder[say.FromRank] = Decoder(say.FromRank)
_to_root: Decoder[say.ToRoot] = Decoder(say.ToRoot)
_from_root: Decoder[say.FromRoot] = Decoder(say.FromRoot)
Incoming = TypeVar("Incoming")


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where and as what an agent serves."""

    name: str
    job_name: str
    folder: Path
    """The job's folder, for the sockets."""
    host: str = "127.0.0.1"
    standby: bool = False
    started_s: float = 0.0
    """When the job started, by clock.now_s(): what the event log counts from."""


class Agent:
    """One machine's agent, in the loop that runs it."""

    def __init__(
        self,
        job: Job,
        post: Post,
        command: Command,
        store: KeyValueStore,
        operator: Operator,
    ) -> None:
        self.job, self.post = job, post
        self.grid = Grid(machines=job.machines, ranks_per_machine=job.ranks_per_machine)
        self.loop = asyncio.get_running_loop()
        self._left: asyncio.Future[int] = self.loop.create_future()
        self._memory: dict[tuple[int, int], Slot] = {}
        self._reservations: list[Reservation] = []
        self._listener = links.listen_tcp(post.host)
        self._path = str(post.folder / f"{post.name}.sock")
        self._unix = links.listen_unix(self._path)
        self.worker = Worker(
            machine=post.name,
            grid=self.grid,
            chunk_bytes=job.transfer.chunk_bytes,
            retry_s=RETRY_S,
            standby=post.standby,
            host=post.host,
            port=self._listener.getsockname()[1],
            group=os.getpgrp(),
        )
        self._transit = Transit(worker=self.worker)
        self._lookout = Lookout(worker=self.worker)
        self._crew = Crew(
            job,
            command,
            name=post.name,
            socket_path=self._path,
            on_exit=self._rank_ended,
        )
        self._mover = Mover(
            job=job,
            name=post.job_name,
            worker=self.worker,
            memory=self._memory,
            post=self._post,
            clock=clock.now_s,
        )
        self._rank_links: dict[int, links.Link[say.FromRank]] = {}
        self._root_link: links.Link[say.FromRoot] | None = None
        self.rooting = Rooting(self, operator)
        self.seat = Seat(
            store,
            machine=post.name,
            timing=job.timing,
            post=lambda work: self._soon(work),
            on_root=self.rooting.observe,
            on_machine_gone=self.rooting.machine_gone,
            on_lost=lambda reason: self.leave(1, reason),
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _rank_ended(self, round: int, rank: int, status: int, tail: list[str]) -> None:
        self.carry(self._lookout.rank_ended(round, rank, status, tail))

    async def run(self) -> int:
        """Serves until the job is over; returns the status it ended with."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.leave, 0, "asked to end")
        self._tasks = [
            self.loop.create_task(links.accept_all(self._listener, self._greet)),
            self.loop.create_task(links.accept_all(self._unix, self._greet_rank)),
            self.loop.create_task(self._ticks()),
        ]
        join = self.worker.root_here()[0]
        assert isinstance(join, do.TellRoot)
        value = msgspec.json.encode(join.message)
        await self.loop.run_in_executor(None, self.seat.take, value)
        try:
            return await self._left
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
        self._crew.stop()
        self._mover.close()
        self.seat.leave()
        self._listener.close()
        self._unix.close()
        Path(self._path).unlink(missing_ok=True)
        self._crew.close()
        for reservation in self._reservations:
            reservation.close()

    def _soon(self, work: Callable[[], None]) -> None:
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

        self._soon(work)
        return done

    def log(self, text: str) -> None:
        """One line of the event log: the same columns everywhere."""
        worker = self.worker
        role = "s" if worker.machine_rank < 0 else "w"
        role = "ROOT" if self.rooting.is_root else role
        state = "stopped" if worker.stopped else "running"
        step, keep = worker.vote.reached_max, worker.vote.keep
        now = clock.now_s() - self.post.started_s
        sys.stdout.write(
            f"{now:9.3f}  {worker.machine:<7}  {role:<4}  {state:<8}  {step:>6}"
            f"  {keep:>6}  {text}\n"
        )
        sys.stdout.flush()

    # Connections.

    def _link(
        self, connection: socket.socket, decoder: Decoder[Incoming], name: str
    ) -> links.Link[Incoming]:
        return links.Link(
            connection,
            decoder,
            name=name,
            header_bytes_max=self.job.transfer.header_bytes_max,
            queue_max=self.job.transfer.queue_max,
            write_s_max=self.job.timing.transfer_s_max,
        )

    def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._tasks = [task for task in self._tasks if not task.done()]
        if len(self._tasks) > self.job.transfer.connections_max:
            connection.close()
            return
        self._tasks.append(self.loop.create_task(self._attend(connection)))

    async def _attend(self, connection: socket.socket) -> None:
        """Reads the first word of a connection, and gives it to who it is for."""
        try:
            async with asyncio.timeout(self.job.timing.connect_s_max):
                header = await links.read_frame(
                    connection,
                    _first,
                    header_bytes_max=self.job.transfer.header_bytes_max,
                )
            if header.job != self.post.job_name:
                raise ProtocolError(f"it is of job {header.job!r}")
        except (OSError, ProtocolError, TimeoutError) as error:
            self.log(f"dropped {links.peer_name(connection)}: {error!r}")
            connection.close()
            return
        if isinstance(header, say.Opening):
            link = self._link(connection, _to_root, header.machine)
            self.rooting.attend(header.machine, link)
        else:
            self._mover.attend(connection, header)

    def _greet_rank(self, connection: socket.socket) -> None:
        link = self._link(connection, _from_rank, "a rank")

        def hear(message: say.FromRank) -> None:
            if isinstance(message, say.Hello):
                link.name = f"rank {message.rank}"
                self._rank_links[message.rank] = link
                pid = self._crew.pids.get(message.rank, 0)
                message = msgspec.structs.replace(message, pid=pid)
            known = self._rank_links.get(message.rank) is link
            if not known and not isinstance(message, say.Hopeless):
                link.close("it speaks for another rank")
                return
            self.carry(self.worker.from_rank(message))

        link.start(hear, lambda _reason: None)

    async def follow(
        self, root_host: str, root_port: int, is_same: Callable[[], bool]
    ) -> None:
        """Keeps a connection to the root for as long as it is root."""
        while is_same():
            try:
                connection = await links.connect(
                    root_host, root_port, connect_s_max=self.job.timing.connect_s_max
                )
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                continue
            await self._attached(connection, is_same)
            await asyncio.sleep(RETRY_S)

    async def _attached(
        self, connection: socket.socket, is_same: Callable[[], bool]
    ) -> None:
        """One connection to the root, for as long as it holds."""
        closed = asyncio.Event()
        link = self._link(connection, _from_root, "the root")
        link.start(
            lambda message: self.carry(self.worker.from_root(message)),
            lambda _reason: closed.set(),
        )
        self._root_link = link
        link.send(say.Opening(job=self.post.job_name, machine=self.post.name))
        self.carry(self.worker.root_here())
        while is_same() and not closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.job.timing.tick_s):
                    await closed.wait()
        self._root_link = None
        link.close("another root")

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(self.job.timing.tick_s)
            self.carry(self._transit.tick(clock.now_s()))
            self.rooting.tick()

    # Actions.

    def carry(self, actions: Actions) -> None:
        for action in actions:
            self._carry(action)

    def _carry(self, action: do.WorkerAction) -> None:
        match action:
            case do.TellRank():
                self._tell_rank(action)
            case do.TellRoot(message=message):
                if self.rooting.is_root:
                    self.rooting.soon(message)
                elif self._root_link is not None:
                    self._root_link.send(message)
            case do.StartRanks(begin=begin, machine_rank=machine_rank):
                self._crew.start(
                    begin,
                    machine_rank=machine_rank,
                    grid=self.grid,
                    job=self.post.job_name,
                )
            case do.StopRanks(round=round):
                self._stop_ranks(round)
            case do.ReserveSlots():
                self._tasks.append(self.loop.create_task(self._reserve(action)))
            case do.ReleaseSlots(shards=shards):
                for key in [key for key in self._memory if key[0] in shards]:
                    self._memory.pop(key).close()
            case do.HashCopy():
                self._mover.hash(action)
            case do.ShipCopy():
                self._mover.ship(action)
            case do.FetchCopy():
                self._mover.fetch(action)
            case do.ProbeRanks(round=round):
                self.carry(self._lookout.probed(round, self._crew.states()))
            case do.Log(text=text):
                self.log(text)
            case do.Leave(status=status):
                self.leave(status, "")  # the launcher tells the reason

    def _tell_rank(self, action: do.TellRank) -> None:
        link = self._rank_links.get(action.rank)
        if link is not None:
            slots = [self._memory[where].fd for where in action.slots]
            link.send(action.message, slots)

    def _stop_ranks(self, round: int) -> None:
        self._crew.stop()
        self._mover.stop()
        for link in self._rank_links.values():
            link.close("the round is over")
        self._rank_links.clear()
        self._tasks.append(self.loop.create_task(self._quiet(round)))

    async def _quiet(self, round: int) -> None:
        while not (self._crew.gone and self._mover.idle):
            if self.worker.round != round:
                return
            await asyncio.sleep(POLL_S)
        port = links.free_port(self.post.host)
        self.carry(self.worker.all_quiet(round, port))

    async def _reserve(self, action: do.ReserveSlots) -> None:
        """Reserves and touches slots in a thread: that takes seconds per GB."""
        limit = self.job.memory_bytes_max
        held = sum(r.reserved_bytes for r in self._reservations)
        available = min(available_bytes(), limit - held) if limit else None
        margin = {"margin_bytes": 0} if limit else {}
        try:
            reservation = await self.loop.run_in_executor(
                None, lambda: reserve(action.sizes, available=available, **margin)
            )
        except DoesNotFit as error:
            self.carry(self.worker.unreserved(action.sizes, str(error)))
            return
        self._reservations.append(reservation)
        for shard, slot in reservation:
            self._memory[shard, slot] = reservation.slot(shard, slot)
        self.log(f"reserved {reservation.reserved_bytes / 1e6:.1f} MB for slots")
        self.carry(self.worker.reserved(action.sizes))


def serve(
    job: Job, post: Post, command: Command, store: KeyValueStore, operator: Operator
) -> int:
    """Runs an agent until its job is over; returns its status."""

    async def run() -> int:
        return await Agent(job, post, command, store, operator).run()

    try:
        return asyncio.run(run())
    except TwinstepError as error:
        print(f"twinstep: {post.name}: {error}", file=sys.stderr, flush=True)
        return 1
