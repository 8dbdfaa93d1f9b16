"""The connections of an agent: who comes in, by which door, and the way to the root.

Two doors. Other agents come by TCP: the first word of a connection tells whether it is
a machine that follows this root, or a copy that is offered or asked for. The machine's
own ranks come by a Unix socket. Whoever says nothing in time, or nonsense, is dropped
and named. The third connection goes out: an agent that is not root keeps one to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from twinstep import clock
from twinstep.agent import links, messages as say
from twinstep.agent.election import RootKey
from twinstep.agent.guests import Guests
from twinstep.agent.timeline import timeline_of
from twinstep.clock import monotonic_s
from twinstep.errors import ProtocolError, TwinstepError
from twinstep.transfer.frame import DATA_HEADER_BYTES_MAX, Fetch, Offer, encode
from twinstep.trust import streams
from twinstep.trust.gate import Gate
from twinstep.trust.handshake import Role
from twinstep.trust.strangers import LINE_S
from twinstep.trust.streams import Connection
from twinstep.trust.wire import prove_in_loop

if TYPE_CHECKING:
    from twinstep.agent.process import Agent

RETRY_S = 0.1
"""Between two attempts to reach the root."""
REFUSED_S = 10.0
"""Between two lines that say why the root could not be reached."""

First = say.Opening | say.Question | Offer | Fetch
_first: Decoder[First] = Decoder(First)
_first_of: dict[Role | None, Decoder[Any]] = {
    Role.CONTROL: Decoder(say.Opening | say.Question),
    Role.DATA: Decoder(Offer | Fetch),
}
_from_rank: Decoder[say.FromRank] = Decoder(say.FromRank)
_to_root: Decoder[say.ToRoot] = Decoder(say.ToRoot)
_from_root: Decoder[say.FromRoot] = Decoder(say.FromRoot)
Incoming = TypeVar("Incoming")


class Doors:
    """An agent's listening sockets, and its links to its ranks and to the root."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        post = agent.post
        agent.credentials.check_host(post.host)
        self._gate = Gate(agent.credentials.limits, write=agent.log)
        self._pool = ThreadPoolExecutor(
            agent.credentials.limits.handshake_threads,
            thread_name_prefix="twinstep-handshake",
        )
        self._listener = links.listen_tcp(post.host)
        self.port = int(self._listener.getsockname()[1])
        self.path = str(post.folder / f"{post.name}.sock")
        self._unix = links.listen_unix(self.path)
        self._ranks: dict[int, links.Link[say.FromRank]] = {}
        self._root: links.Link[say.FromRoot] | None = None
        self._attached_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._greeted: set[asyncio.Task[None]] = set()
        self._refused_s = -REFUSED_S

    def open(self) -> None:
        """Whoever comes is attended to from now on."""
        loop = self._agent.loop
        self._tasks = [
            loop.create_task(links.accept_all(self._listener, self._greet)),
            loop.create_task(links.accept_all(self._unix, self._greet_rank)),
            loop.create_task(self._write_rest()),
        ]

    def close(self) -> None:
        """Nobody comes in any more."""
        for task in (*self._tasks, *self._greeted):
            task.cancel()
        self._listener.close()
        self._unix.close()
        Path(self.path).unlink(missing_ok=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _link(
        self, connection: Connection, decoder: Decoder[Incoming], name: str
    ) -> links.Link[Incoming]:
        job = self._agent.job
        return links.Link(
            connection,
            decoder,
            name=name,
            header_bytes_max=job.transfer.header_bytes_max,
            queue_max=job.transfer.queue_max,
            write_s_max=job.timing.transfer_s_max,
            blame=self.blame,
        )

    def blame(self, peer: str, reason: str) -> None:
        """A peer was dropped for what it said; a line says so, if it may be written."""
        self._gate.say(peer, reason)

    # Other agents.

    def _greet(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        number = self._gate.came(links.peer_name(sock), lambda: self._drop(task))
        task = self._agent.loop.create_task(self._attend(sock, number))
        self._greeted.add(task)
        task.add_done_callback(lambda task: self._attended(task, sock))

    def _drop(self, task: asyncio.Task[None]) -> None:
        task.cancel()

    def _attended(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self._greeted.discard(task)
        if task.cancelled():  # perhaps before its first line
            sock.close()

    async def _attend(self, sock: socket.socket, number: int) -> None:
        """Lets a connection prove itself, and gives it to who it is for."""
        try:
            async with asyncio.timeout(self._agent.credentials.limits.handshake_s_max):
                connection, header = await self._first_word(sock, number)
        except (OSError, TwinstepError) as error:
            # TimeoutError is an OSError, without words.
            self._gate.refused(number, str(error) or "it said nothing in time")
            sock.close()
            return
        self._gate.proved(number)
        agent = self._agent
        match header:
            case say.Opening():
                link = self._link(connection, _to_root, header.machine)
                agent.rooting.attend(header.machine, link)
            case say.Question():
                await self._show(connection, header)
            case _:
                agent.mover.attend(connection, header)

    async def _show(self, connection: Connection, question: say.Question) -> None:
        """Answers somebody who wants to know what this machine holds, or sends."""
        agent = self._agent
        answer = (
            timeline_of(agent.mover.pacing, agent.worker)
            if question.traffic
            else agent.worker.held()
        )
        try:
            async with asyncio.timeout(agent.job.timing.connect_s_max):
                await streams.send(connection, encode(answer))
        except (OSError, TimeoutError) as error:
            agent.log(f"dropped {links.peer_name(connection)}: {error!r}")
        finally:
            connection.close()

    async def _first_word(
        self, sock: socket.socket, number: int
    ) -> tuple[Connection, First]:
        """Returns a connection that has proved itself, and its first word.

        Raises: OSError, ProtocolError, DeadlinePassed."""
        agent = self._agent
        credentials, job_name = agent.credentials, agent.post.job_name
        connection: Connection = sock
        decoder: Decoder[Any] = _first
        roles = (Role.CONTROL, Role.DATA)
        handshake = credentials.server(roles, job=job_name)
        if handshake is not None:
            await prove_in_loop(
                sock,
                handshake,
                limit_s=credentials.limits.handshake_s_max,
                pool=self._pool,
                spoke=lambda: self._gate.spoke(number),
            )
            connection = credentials.carry(sock, handshake)
            decoder = _first_of[handshake.role]
        bytes_max = min(agent.job.transfer.header_bytes_max, DATA_HEADER_BYTES_MAX)
        header: First = await links.read_frame(
            connection, decoder, header_bytes_max=bytes_max
        )
        if header.job != job_name:
            raise ProtocolError(f"it is of job {header.job!r}")
        return connection, header

    async def _write_rest(self) -> None:
        """Strangers that no line was left for are counted in one, a second later."""
        while True:
            await asyncio.sleep(LINE_S)
            self._gate.flush()

    # The ranks.

    def _greet_rank(self, connection: socket.socket) -> None:
        agent = self._agent
        link = self._link(connection, _from_rank, "a rank")
        guests = agent.crew if isinstance(agent.crew, Guests) else None

        def hear(message: say.FromRank) -> None:
            if guests and isinstance(message, say.Arrive | say.Leaving):
                guests.hear(message, link, links.peer_pid(connection))
                return
            if isinstance(message, say.Hello):
                link.name = f"rank {message.rank}"
                self._ranks[message.rank] = link
                pid = agent.crew.pids.get(message.rank, 0)
                message = msgspec.structs.replace(message, pid=pid)
            known = self._ranks.get(message.rank) is link
            if not known and not isinstance(message, say.Hopeless):
                link.close("it speaks for another rank")
                return
            agent.hear_rank(message)

        link.start(hear, lambda _reason: guests.parts(link) if guests else None)

    def tell_rank(
        self, rank: int, message: say.ToRank, descriptors: Sequence[int]
    ) -> None:
        """The message waits to be written, if the rank is connected."""
        link = self._ranks.get(rank)
        if link is not None:
            link.send(message, descriptors)

    def part_with_ranks(self) -> None:
        """The round is over: what its ranks still say is not heard."""
        for link in self._ranks.values():
            link.close("the round is over")
        self._ranks.clear()

    # The root.

    @property
    def is_attached(self) -> bool:
        """There is a connection to the root."""
        return self._root is not None

    @property
    def held_s(self) -> float:
        """How long the present connection to the root has held; 0 without one. A root
        that does not know this machine closes it at once."""
        return monotonic_s() - self._attached_s if self._root is not None else 0.0

    def tell_root(self, message: say.ToRoot) -> None:
        """The message waits to be written, if there is a connection; what the root
        must not miss is said again by the next one (Worker.root_here)."""
        if self._root is not None:
            self._root.send(message)

    async def follow(self, root: RootKey, is_same: Callable[[], bool]) -> None:
        """Keeps a connection to the root for as long as it is root."""
        host, port = root.host, root.port
        while is_same():
            try:
                connection = await self._connect(host, port)
            except TwinstepError as error:
                self._complain(f"no link to the root at {host}:{port}: {error}")
            except OSError:
                pass  # it is gone: its lease tells
            else:
                await self._attached(connection, root.term, is_same)
            await asyncio.sleep(RETRY_S)

    async def _connect(self, host: str, port: int) -> Connection:
        """Returns a connection to the root, proved by both ends.

        Raises: OSError, TwinstepError."""
        agent = self._agent
        limit_s = agent.job.timing.connect_s_max
        agent.credentials.check_host(host)
        sock = await links.connect(host, port, connect_s_max=limit_s)
        try:
            handshake = agent.credentials.client(Role.CONTROL, job=agent.post.job_name)
            if handshake is None:
                return sock
            await prove_in_loop(sock, handshake, limit_s=limit_s, pool=self._pool)
            return agent.credentials.carry(sock, handshake)
        except BaseException:
            sock.close()
            raise

    def _complain(self, text: str) -> None:
        """A line that would come again at each attempt comes now and then."""
        if clock.now_s() - self._refused_s >= REFUSED_S:
            self._refused_s = clock.now_s()
            self._agent.log(text)

    async def _attached(
        self, connection: Connection, term: int, is_same: Callable[[], bool]
    ) -> None:
        """One connection to the root, for as long as it holds."""
        agent = self._agent
        closed = asyncio.Event()
        link = self._link(connection, _from_root, "the root")

        def hear(message: say.FromRoot) -> None:
            if message.term != term:
                # Were a term from the future believed, the next root's words would be
                # refused for ever.
                name = type(message).__name__
                link.drop(f"{name} of term {message.term}; the store has {term}")
                return
            agent.carry(agent.worker.from_root(message))

        link.start(hear, lambda _reason: closed.set())
        self._root, self._attached_s = link, monotonic_s()
        link.send(say.Opening(job=agent.post.job_name, machine=agent.post.name))
        agent.carry(agent.worker.root_here())
        while is_same() and not closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(agent.job.timing.tick_s):
                    await closed.wait()
        if self._root is link:  # the next root's may be here before this one is gone
            self._root = None
        link.close("another root")
