"""The way to the root: real doors and sockets, and roots that come and go."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec.msgpack import Decoder

from tests.agent.scenes import report
from twinstep.agent import messages as say
from twinstep.agent.doors import Doors
from twinstep.agent.election import RootKey
from twinstep.agent.links import read_frame
from twinstep.config import Job
from twinstep.trust.credentials import NONE

WAIT_S = 20.0
BYTES_MAX = 1 << 20
WORDS: Decoder[Any] = Decoder(say.Opening | say.ToRoot)


class Seat:
    """Where a root listens; it hears, and says nothing."""

    def __init__(self, term: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.key = RootKey(
            machine=f"root{term}",
            host="127.0.0.1",
            port=self.listener.getsockname()[1],
            term=term,
        )

    async def attended(self) -> socket.socket:
        """Returns the connection of a machine that has said who it is."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self.listener)
        connection.setblocking(False)
        assert isinstance(await heard(connection), say.Opening)
        return connection


async def heard(connection: socket.socket) -> Any:
    return await read_frame(connection, WORDS, header_bytes_max=BYTES_MAX)


async def gone(connection: socket.socket) -> None:
    """Returns when the other end has closed."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(connection, 4096):
        pass


async def succession(folder: Path) -> Any:
    """A root is followed by another while its connection still holds; returns what the
    second hears once the first connection has ended."""
    agent = SimpleNamespace(
        job=Job(),
        post=SimpleNamespace(host="127.0.0.1", name="m0", job_name="j", folder=folder),
        credentials=NONE,
        loop=asyncio.get_running_loop(),
        log=lambda _text: None,
        carry=lambda _actions: None,
        worker=SimpleNamespace(root_here=list, from_root=lambda _message: []),
    )
    doors, old, new = Doors(agent), Seat(1), Seat(2)  # type: ignore[arg-type]
    present: RootKey | None = old.key
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(doors.follow(old.key, lambda: present == old.key))]
    first = await old.attended()
    present = new.key
    tasks.append(loop.create_task(doors.follow(new.key, lambda: present == new.key)))
    second = await new.attended()
    await gone(first)
    doors.tell_root(report("m0", 7))
    word = await heard(second)
    present = None
    await gone(second)
    await asyncio.gather(*tasks)
    doors.close()
    for one in (first, second, old.listener, new.listener):
        one.close()
    return word


def test_a_machine_speaks_to_the_next_root_before_the_last_is_gone(
    tmp_path: Path,
) -> None:
    word = asyncio.run(asyncio.wait_for(succession(tmp_path), WAIT_S))
    assert word == report("m0", 7)
