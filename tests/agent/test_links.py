"""Framed connections of an agent: bounded, named when dropped, slots in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from twinstep.agent import links, messages as say
from twinstep.agent.tether import Tether
from twinstep.transfer.frame import encode

TO_ROOT: msgspec.msgpack.Decoder[say.ToRoot] = msgspec.msgpack.Decoder(say.ToRoot)
LOOK = say.LookAtRanks(round=1, term=1)


class Ends:
    """A link, and the bare socket at its other end."""

    def __init__(self, **changed: Any) -> None:
        here, self.peer = socket.socketpair()
        values: dict[str, Any] = {
            "name": "m1",
            "header_bytes_max": 1000,
            "queue_max": 4,
            "write_s_max": 5.0,
        }
        self.link = links.Link(here, TO_ROOT, **(values | changed))
        self.heard: list[Any] = []
        self.closed: asyncio.Queue[str] = asyncio.Queue()
        self.link.start(self.heard.append, self.closed.put_nowait)

    async def reason(self) -> str:
        return await asyncio.wait_for(self.closed.get(), 10)

    def end(self) -> None:
        self.link.close()
        self.peer.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def looked(round: int) -> say.Looked:
    return say.Looked(machine="m1", round=round, term=1, ranks={})


def test_messages_arrive_whole_and_in_order() -> None:
    async def test() -> None:
        ends = Ends()
        frames = b"".join(encode(looked(round)) for round in range(3))
        for at in range(0, len(frames), 7):
            ends.peer.sendall(frames[at : at + 7])
            await asyncio.sleep(0)
        ends.peer.close()
        await ends.reason()
        assert ends.heard == [looked(round) for round in range(3)]
        ends.end()

    run(test)


def test_a_peer_that_does_not_read_is_dropped_at_the_bound_of_its_queue() -> None:
    async def test() -> None:
        ends = Ends(queue_max=4)
        for _ in range(5):
            ends.link.send(LOOK)
        assert await ends.reason() == "m1 does not read: 4 wait"
        ends.link.send(LOOK)  # and nothing more is kept for it
        assert ends.closed.empty(), "told once"
        ends.end()

    run(test)


def test_a_peer_that_takes_nothing_is_dropped_in_time() -> None:
    async def test() -> None:
        ends = Ends(write_s_max=0.05, queue_max=10_000)
        stop = say.Stop(round=1, term=1, reason="x" * 4000)
        for _ in range(2000):
            ends.link.send(stop)
        assert await ends.reason() == "m1 took nothing for 0.05 s"
        ends.end()

    run(test)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 4,
        b"\0" * 64,
        encode(LOOK),  # what a root says, and never hears
        encode(looked(1))[:-2] + b"\xff\xff",
    ],
    ids=["http", "zeros", "not for a root", "no msgpack"],
)
def test_a_peer_that_speaks_nonsense_is_dropped_and_named(nonsense: bytes) -> None:
    async def test() -> None:
        ends = Ends()
        ends.peer.sendall(nonsense)
        assert (await ends.reason()).startswith("m1: ")
        assert ends.heard == []
        with contextlib.suppress(ConnectionResetError):  # what it sent was not read
            assert ends.peer.recv(1) == b"", "the connection is closed"
        ends.end()

    run(test)


def test_a_header_may_not_be_larger_than_allowed() -> None:
    async def test() -> None:
        ends = Ends(header_bytes_max=100)
        unable = say.Unable(machine="m1", round=1, term=1, reason="x" * 200)
        ends.peer.sendall(encode(unable))
        assert "100" in await ends.reason()
        ends.end()

    run(test)


def test_slots_travel_with_the_message_that_names_them_in_its_order(
    tmp_path: Path,
) -> None:
    """Three messages with two, none and one descriptor, over a real Unix socket."""
    path = str(tmp_path / "agent.sock")
    taken: list[list[bytes]] = []

    def rank() -> None:
        tether = Tether(path, connect_s_max=5.0)
        for count in (2, 0, 1):
            message = tether.receive(5.0)
            assert isinstance(message, say.Slots)
            descriptors = tether.take(count)
            taken.append([os.pread(fd, 10, 0) for fd in descriptors])
            for fd in descriptors:
                os.close(fd)
        tether.close()

    async def test() -> None:
        listener = links.listen_unix(path)
        assert os.stat(path).st_mode & 0o777 == 0o600
        thread = threading.Thread(target=rank)
        thread.start()
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        link = links.Link(
            connection,
            TO_ROOT,
            name="rank 0",
            header_bytes_max=1000,
            queue_max=10,
            write_s_max=5.0,
        )
        ended: asyncio.Queue[str] = asyncio.Queue()
        link.start(lambda _message: None, ended.put_nowait)
        descriptors = [memory(text) for text in (b"first", b"second", b"third")]
        slots = say.Slots(round=1, chunk_bytes=4096, slots=[])
        link.send(slots, descriptors[:2])
        link.send(slots)
        link.send(slots, descriptors[2:])
        await link.drained()
        await asyncio.wait_for(ended.get(), 10)
        await loop.run_in_executor(None, thread.join)
        for fd in descriptors:
            os.close(fd)
        listener.close()

    run(test)
    assert taken == [[b"first", b"second"], [], [b"third"]]


def memory(text: bytes) -> int:
    fd = os.memfd_create("test")
    os.pwrite(fd, text, 0)
    return fd


def test_a_port_that_is_taken_cannot_be_listened_on() -> None:
    with links.listen_tcp("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            links.listen_tcp("127.0.0.1", port)
        assert links.free_port("127.0.0.1") != port


def test_a_connection_is_made_in_time_or_not_at_all() -> None:
    async def test() -> None:
        with links.listen_tcp("127.0.0.1") as listener:
            port = listener.getsockname()[1]
            accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
            task = asyncio.create_task(links.accept_all(listener, accepted.put_nowait))
            first = await links.connect("127.0.0.1", port, connect_s_max=5.0)
            second = await asyncio.wait_for(accepted.get(), 5)
            assert links.peer_name(first) == f"127.0.0.1:{port}"
            for end in (first, second):  # small words do not wait for each other
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            first.close()
            second.close()
            task.cancel()
            await asyncio.wait([task])
        with pytest.raises(ConnectionRefusedError):
            await links.connect("127.0.0.1", port, connect_s_max=5.0)

    run(test)
