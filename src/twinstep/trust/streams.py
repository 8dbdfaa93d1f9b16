"""A connection whose bytes are sealed on the way, used as a socket is used.

It has those of a socket's methods that the rest of twinstep calls, with their meaning,
and their deadlines: the socket's own timeout, or the kernel's (SO_RCVTIMEO), passes
through. What was sealed and not sent yet is kept, and sent by the next call.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Protocol, final

Buffer = bytes | memoryview | bytearray
_PIECE_BYTES = 1024 * 1024
"""Sealed at once, at most: a chunk and its head."""
_SMALL_BYTES = 64 * 1024
"""Received at once where messages are small."""
_PARTS_MAX = 64


class Seal(Protocol):
    """What bytes become on the way, and how they come back."""

    def seal(self, parts: Sequence[Buffer]) -> list[Buffer]: ...

    def room(self) -> memoryview: ...

    def fed(self, count: int) -> None: ...

    def read_into(self, view: memoryview) -> int: ...


@final
class SealedStream:
    """A connected socket, and what seals its bytes. One thread uses it, or one loop;
    any thread may shut it down."""

    def __init__(self, sock: socket.socket, seal: Seal) -> None:
        self.socket = sock
        self.family = sock.family
        self._seal = seal
        # Sealed bytes that were not sent yet, and how many of the caller's they are.
        self._unsent: list[memoryview] = []
        self._unsent_of = 0

    # Blocking: a thread's.

    def sendmsg(self, parts: Sequence[Buffer]) -> int:
        """Returns how many bytes of `parts` are with the kernel. With 0 the same
        bytes must come again: they are sealed, and sent in part."""
        if not self._unsent:
            piece = _piece(parts)
            sealed = self._seal.seal(piece)
            self._unsent = [memoryview(part) for part in sealed if len(part)]
            self._unsent_of = sum(len(part) for part in piece)
        sent = self.socket.sendmsg(self._unsent)
        self._unsent = _after(self._unsent, sent)
        return 0 if self._unsent else self._unsent_of

    def sendall(self, data: Buffer) -> None:
        """All bytes are with the kernel, within the socket's timeout."""
        limit_s = self.socket.gettimeout()
        until_s = None if limit_s is None else time.monotonic() + limit_s
        view, sent = memoryview(data), 0
        try:
            while sent < len(view):
                sent += self.sendmsg([view[sent:]])
                if until_s is not None and sent < len(view):
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        raise TimeoutError("timed out")
                    self.socket.settimeout(left_s)
        finally:
            self.socket.settimeout(limit_s)

    def recv_into(self, view: memoryview, count: int = 0, flags: int = 0) -> int:
        """Returns how many bytes are in `view` now: at least one, 0 at the end."""
        del flags  # callers that want all of them ask again
        wanted = view[:count] if count else view
        try:
            while not (got := self._seal.read_into(wanted)):
                received = self.socket.recv_into(self._seal.room())
                if not received:
                    return 0
                self._seal.fed(received)
        except EOFError:
            return 0
        return got

    def recv(self, count: int) -> bytes:
        """Returns at least one byte, b"" at the end."""
        piece = bytearray(min(count, _SMALL_BYTES))
        return bytes(piece[: self.recv_into(memoryview(piece))])

    # In a loop.

    async def receive(self, count: int) -> bytes:
        """Returns at least one byte, b"" at the end."""
        loop = asyncio.get_running_loop()
        piece = bytearray(min(count, _SMALL_BYTES))
        view = memoryview(piece)
        try:
            while not (got := self._seal.read_into(view)):
                received = await loop.sock_recv_into(self.socket, self._seal.room())
                if not received:
                    return b""
                self._seal.fed(received)
        except EOFError:
            return b""
        return bytes(piece[:got])

    async def send(self, data: Buffer) -> None:
        """All bytes are with the kernel."""
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        for at in range(0, len(view), _PIECE_BYTES):
            for part in self._seal.seal([view[at : at + _PIECE_BYTES]]):
                await loop.sock_sendall(self.socket, part)

    # As the socket's own.

    def fileno(self) -> int:
        return self.socket.fileno()

    def getpeername(self) -> tuple[str, int]:
        return self.socket.getpeername()

    def setblocking(self, blocking: bool) -> None:
        self.socket.setblocking(blocking)

    def settimeout(self, timeout_s: float | None) -> None:
        self.socket.settimeout(timeout_s)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.socket.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self.socket.getsockopt(level, option, size)

    def shutdown(self, how: int) -> None:
        self.socket.shutdown(how)

    def close(self) -> None:
        self.socket.close()


Connection = socket.socket | SealedStream


async def receive(connection: Connection, count: int) -> bytes:
    """Returns at least one byte of a non-blocking connection, b"" at its end."""
    if isinstance(connection, SealedStream):
        return await connection.receive(count)
    return await asyncio.get_running_loop().sock_recv(connection, count)


async def send(connection: Connection, data: Buffer) -> None:
    """All bytes are with the kernel."""
    if isinstance(connection, SealedStream):
        await connection.send(data)
    else:
        await asyncio.get_running_loop().sock_sendall(connection, data)


def _piece(parts: Sequence[Buffer]) -> list[memoryview]:
    """The first bytes of `parts`: as many as are sealed at once."""
    piece: list[memoryview] = []
    left = _PIECE_BYTES
    for part in parts[:_PARTS_MAX]:
        if left <= 0:
            break
        piece.append(memoryview(part)[:left])
        left -= len(piece[-1])
    return piece


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `parts` when `sent` bytes are gone."""
    left: list[memoryview] = []
    for part in parts:
        skipped = min(sent, len(part))
        sent -= skipped
        if skipped < len(part):
            left.append(part[skipped:])
    return left
