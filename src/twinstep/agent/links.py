"""Framed connections of an agent's loop: to the root, from agents, to its ranks.

One task reads, one writes; what waits to be written is bounded, and a peer that does
not read, or sends nonsense, is dropped and named. A message to a rank may carry file
descriptors, which travel with its first byte.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from twinstep.errors import ProtocolError
from twinstep.transfer.frame import (
    PREFIX_BYTES,
    decode_header,
    encode,
    parse_prefix,
)
from twinstep.trust import streams
from twinstep.trust.streams import Connection

Incoming = TypeVar("Incoming")
PROBE_S, PROBES = 1, 9
"""A connection that nothing came back on for 10 s is closed by the kernel. So many
probes, because on a link that loses a fifth of its packets a few in a row are lost."""


async def read_frame(
    connection: Connection,
    decoder: msgspec.msgpack.Decoder[Incoming],
    *,
    header_bytes_max: int,
) -> Incoming:
    """Returns the next message of a non-blocking socket; its payload is empty.

    Raises: ProtocolError, ConnectionError at the end of the stream."""
    prefix = parse_prefix(
        await _read(connection, PREFIX_BYTES),
        header_bytes_max=header_bytes_max,
        payload_bytes_max=0,
    )
    return decode_header(prefix, await _read(connection, prefix.header_bytes), decoder)


async def _read(connection: Connection, count: int) -> bytes:
    # One growing buffer: a list of pieces would hold a hundred bytes for each byte of
    # a peer that sends one at a time.
    received = bytearray()
    while len(received) < count:
        part = await streams.receive(connection, min(count - len(received), 1 << 20))
        if not part:
            raise ConnectionError("the peer closed the connection")
        received += part
    return bytes(received)


class Link(Generic[Incoming]):
    """A connection with one reader, one writer and a bounded queue between."""

    def __init__(
        self,
        connection: Connection,
        decoder: msgspec.msgpack.Decoder[Incoming],
        *,
        name: str,
        header_bytes_max: int,
        queue_max: int,
        write_s_max: float,
        blame: Callable[[str, str], None] | None = None,
    ) -> None:
        """`blame` is called with the peer and why, when it is dropped for nonsense."""
        connection.setblocking(False)
        self.name = name
        self._blame = blame
        self._connection = connection
        self._decoder = decoder
        self._header_bytes_max = header_bytes_max
        self._write_s_max = write_s_max
        self._queue: asyncio.Queue[tuple[bytes, Sequence[int]]] = asyncio.Queue(
            queue_max
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.reason = ""

    def start(
        self,
        on_message: Callable[[Incoming], None],
        on_close: Callable[[str], None],
    ) -> None:
        """Messages arrive at `on_message`; `on_close` is called once, with why."""
        loop = asyncio.get_running_loop()
        self._on_close = on_close
        self._tasks = [
            loop.create_task(self._reads(on_message)),
            loop.create_task(self._writes()),
        ]

    def send(self, message: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        """The message waits to be written; a peer with a full queue is dropped."""
        if self.reason:
            return
        try:
            self._queue.put_nowait((encode(message), descriptors))
        except asyncio.QueueFull:
            self.close(f"{self.name} does not read: {self._queue.qsize()} wait")

    async def _reads(self, on_message: Callable[[Incoming], None]) -> None:
        try:
            while True:
                on_message(
                    await read_frame(
                        self._connection,
                        self._decoder,
                        header_bytes_max=self._header_bytes_max,
                    )
                )
        except OSError as error:
            self.close(f"{self.name}: {error}")
        except ProtocolError as error:
            self.drop(str(error))
        except Exception:
            # A mistake of ours. The peer connects anew, rather than wait for ever for
            # one who reads no more.
            self.close(f"{self.name}: what it said could not be dealt with")
            raise

    def drop(self, reason: str) -> None:
        """The peer speaks nonsense: the connection ends, and the log names it."""
        if self._blame is not None and not self.reason:
            self._blame(peer_name(self._connection), f"{self.name}: {reason}")
        self.close(f"{self.name}: {reason}")

    async def _writes(self) -> None:
        try:
            while True:
                frame, descriptors = await self._queue.get()
                async with asyncio.timeout(self._write_s_max):
                    await self._write(frame, descriptors)
        except TimeoutError:
            self.close(f"{self.name} took nothing for {self._write_s_max:g} s")
        except OSError as error:
            self.close(f"{self.name}: {error}")

    async def _write(self, frame: bytes, descriptors: Sequence[int]) -> None:
        sent = 0
        while descriptors:
            assert isinstance(self._connection, socket.socket), "a rank's"
            try:
                sent = socket.send_fds(self._connection, [frame], descriptors)
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        await streams.send(self._connection, memoryview(frame)[sent:])

    async def drained(self) -> None:
        """Everything that was sent so far is with the kernel."""
        while not self._queue.empty() and not self.reason:
            await asyncio.sleep(0.005)

    def close(self, reason: str = "closed") -> None:
        """The connection ends; `on_close` hears the first reason."""
        if self.reason:
            return
        self.reason = reason
        for task in self._tasks:
            task.cancel()
        self._connection.close()
        if self._tasks:
            self._on_close(reason)


async def connect(host: str, port: int, *, connect_s_max: float) -> socket.socket:
    """Returns a connected non-blocking socket. Raises: OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(connect_s_max):
            await loop.sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    _attend_to(connection)
    return connection


def _attend_to(sock: socket.socket) -> None:
    """Small words leave at once, and a peer that is cut off is noticed.

    Without the first, the root's answer waits for the receipt of the one before, 40 ms:
    ranks with shorter steps would skip them all."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    sock.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * PROBE_S * (PROBES + 1)
    )


def listen_tcp(host: str, port: int = 0) -> socket.socket:
    """Returns a non-blocking listening socket. Raises: OSError when taken."""
    listener = socket.create_server((host, port), backlog=1024)
    _attend_to(listener)  # those who come inherit it
    listener.setblocking(False)
    return listener


def listen_unix(path: str) -> socket.socket:
    """Returns a listening Unix socket at `path`, which only this user may open."""
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def free_port(host: str) -> int:
    """Returns a port that nobody listens on now."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


async def accept_all(
    listener: socket.socket, attend: Callable[[socket.socket], Any]
) -> None:
    """Gives every new connection to `attend`, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        attend(connection)


def peer_pid(connection: socket.socket) -> int:
    """The process at the other end of a Unix socket; 0 when this process cannot see
    it, or it is gone."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], sys.byteorder)


def peer_name(connection: Connection) -> str:
    """Who is at the other end, for the log."""
    try:
        name = connection.getpeername()
    except OSError:
        return "a peer that is gone"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a local process"
