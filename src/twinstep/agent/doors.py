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
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from twinstep.agent import links, messages as say
from twinstep.errors import ProtocolError
from twinstep.transfer.frame import Fetch, Offer, encode

if TYPE_CHECKING:
    from twinstep.agent.process import Agent

RETRY_S = 0.1
"""Between two attempts to reach the root."""

First = say.Opening | say.Question | Offer | Fetch
_first: Decoder[First] = Decoder(First)
_from_rank: Decoder[say.FromRank] = Decoder(say.FromRank)
_to_root: Decoder[say.ToRoot] = Decoder(say.ToRoot)
_from_root: Decoder[say.FromRoot] = Decoder(say.FromRoot)
Incoming = TypeVar("Incoming")


class Doors:
    """An agent's listening sockets, and its links to its ranks and to the root."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        post = agent.post
        self._listener = links.listen_tcp(post.host)
        self.port = int(self._listener.getsockname()[1])
        self.path = str(post.folder / f"{post.name}.sock")
        self._unix = links.listen_unix(self.path)
        self._ranks: dict[int, links.Link[say.FromRank]] = {}
        self._root: links.Link[say.FromRoot] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._greeted: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Whoever comes is attended to from now on."""
        loop = self._agent.loop
        self._tasks = [
            loop.create_task(links.accept_all(self._listener, self._greet)),
            loop.create_task(links.accept_all(self._unix, self._greet_rank)),
        ]

    def close(self) -> None:
        """Nobody comes in any more."""
        for task in (*self._tasks, *self._greeted):
            task.cancel()
        self._listener.close()
        self._unix.close()
        Path(self.path).unlink(missing_ok=True)

    def _link(
        self, connection: socket.socket, decoder: Decoder[Incoming], name: str
    ) -> links.Link[Incoming]:
        job = self._agent.job
        return links.Link(
            connection,
            decoder,
            name=name,
            header_bytes_max=job.transfer.header_bytes_max,
            queue_max=job.transfer.queue_max,
            write_s_max=job.timing.transfer_s_max,
        )

    # Other agents.

    def _greet(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if len(self._greeted) >= self._agent.job.transfer.connections_max:
            connection.close()
            return
        task = self._agent.loop.create_task(self._attend(connection))
        self._greeted.add(task)
        task.add_done_callback(self._greeted.discard)

    async def _attend(self, connection: socket.socket) -> None:
        """Reads the first word of a connection, and gives it to who it is for."""
        agent = self._agent
        try:
            async with asyncio.timeout(agent.job.timing.connect_s_max):
                header = await links.read_frame(
                    connection,
                    _first,
                    header_bytes_max=agent.job.transfer.header_bytes_max,
                )
            if header.job != agent.post.job_name:
                raise ProtocolError(f"it is of job {header.job!r}")
        except (OSError, ProtocolError, TimeoutError) as error:
            agent.log(f"dropped {links.peer_name(connection)}: {error!r}")
            connection.close()
            return
        match header:
            case say.Opening():
                link = self._link(connection, _to_root, header.machine)
                agent.rooting.attend(header.machine, link)
            case say.Question():
                await self._show(connection)
            case _:
                agent.mover.attend(connection, header)

    async def _show(self, connection: socket.socket) -> None:
        """Answers somebody who wants to know what this machine holds."""
        agent = self._agent
        try:
            async with asyncio.timeout(agent.job.timing.connect_s_max):
                answer = encode(agent.worker.held())
                await agent.loop.sock_sendall(connection, answer)
        except (OSError, TimeoutError) as error:
            agent.log(f"dropped {links.peer_name(connection)}: {error!r}")
        finally:
            connection.close()

    # The ranks.

    def _greet_rank(self, connection: socket.socket) -> None:
        agent = self._agent
        link = self._link(connection, _from_rank, "a rank")

        def hear(message: say.FromRank) -> None:
            if isinstance(message, say.Hello):
                link.name = f"rank {message.rank}"
                self._ranks[message.rank] = link
                pid = agent.crew.pids.get(message.rank, 0)
                message = msgspec.structs.replace(message, pid=pid)
            known = self._ranks.get(message.rank) is link
            if not known and not isinstance(message, say.Hopeless):
                link.close("it speaks for another rank")
                return
            agent.carry(agent.worker.from_rank(message))

        link.start(hear, lambda _reason: None)

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

    def tell_root(self, message: say.ToRoot) -> None:
        """The message waits to be written, if there is a connection; what the root
        must not miss is said again by the next one (Worker.root_here)."""
        if self._root is not None:
            self._root.send(message)

    async def follow(self, host: str, port: int, is_same: Callable[[], bool]) -> None:
        """Keeps a connection to the root for as long as it is root."""
        while is_same():
            try:
                connection = await links.connect(
                    host, port, connect_s_max=self._agent.job.timing.connect_s_max
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
        agent = self._agent
        closed = asyncio.Event()
        link = self._link(connection, _from_root, "the root")
        link.start(
            lambda message: agent.carry(agent.worker.from_root(message)),
            lambda _reason: closed.set(),
        )
        self._root = link
        link.send(say.Opening(job=agent.post.job_name, machine=agent.post.name))
        agent.carry(agent.worker.root_here())
        while is_same() and not closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(agent.job.timing.tick_s):
                    await closed.wait()
        self._root = None
        link.close("another root")
