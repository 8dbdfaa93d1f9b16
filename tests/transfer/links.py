"""Pairs of connected ends, over the double and over sockets, with damage in between.

`Link.pair(damage)` returns the two ends; `damage(offset, piece)` sees all bytes that
go from the first end to the second, in order, and returns what arrives instead.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from twinstep.config import Transfer
from twinstep.transfer.channel import Channel, LoopbackChannel
from twinstep.transfer.tcp import TcpChannel

CHUNK_BYTES = 4096
Damage = Callable[[int, bytes], bytes]


def flip(position: int, mask: int) -> Damage:
    """Damage: the byte at `position` of the stream arrives with other bits."""

    def damage(offset: int, piece: bytes) -> bytes:
        at = position - offset
        if not 0 <= at < len(piece):
            return piece
        return piece[:at] + bytes([piece[at] ^ mask]) + piece[at + 1 :]

    return damage


def cut(position: int) -> Damage:
    """Damage: nothing arrives from `position` of the stream on."""
    return lambda offset, piece: piece[: max(0, position - offset)]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        second, _ = listener.accept()
    return first, second


@dataclass
class Link:
    kind: str
    deadline_s: float = 5.0
    _opened: list[Channel] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _between: list[socket.socket] = field(default_factory=list)

    def pair(self, damage: Damage | None = None) -> tuple[Channel, Channel]:
        if self.kind == "loopback":
            ends = self._loopback(damage)
        else:
            ends = self._sockets(damage)
        self._opened += ends
        return ends

    def _loopback(self, damage: Damage | None) -> tuple[Channel, Channel]:
        offset = 0

        def tamper(raw: bytes) -> bytes | None:
            nonlocal offset
            arrives = raw if damage is None else damage(offset, raw)
            offset += len(raw)
            return arrives or None

        return LoopbackChannel.pair(
            frames_max=64,
            deadline_s=self.deadline_s,
            payload_bytes_max=CHUNK_BYTES,
            tamper=tamper,
        )

    def _sockets(self, damage: Damage | None) -> tuple[Channel, Channel]:
        make = tcp_pair if self.kind == "tcp" else socket.socketpair
        first, second = make()
        if damage is not None:
            middle_in, middle_out = second, make()
            second = middle_out[1]
            self._carry(middle_in, middle_out[0], damage)
        return self._channel(first, "first"), self._channel(second, "second")

    def _channel(self, sock: socket.socket, name: str) -> TcpChannel:
        return TcpChannel(
            sock,
            limits=Transfer(chunk_bytes=CHUNK_BYTES),
            deadline_s=self.deadline_s,
            peer=name,
        )

    def _carry(self, left: socket.socket, right: socket.socket, damage: Damage) -> None:
        def there() -> None:
            offset = 0
            while piece := read(left):
                arrives = damage(offset, piece)
                offset += len(piece)
                if not write(right, arrives) or len(arrives) < len(piece):
                    break
            end(right)

        def back() -> None:
            while piece := read(right):
                if not write(left, piece):
                    break
            end(left)

        for task in (there, back):
            thread = threading.Thread(target=task)
            thread.start()
            self._threads.append(thread)
        self._between += (left, right)

    def close(self) -> None:
        for channel in self._opened:
            channel.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for sock in self._between:
            sock.close()
        self._between.clear()
        self._opened.clear()
        self._threads.clear()


def read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except OSError:
        return b""


def write(sock: socket.socket, piece: bytes) -> bool:
    try:
        sock.sendall(piece)
    except OSError:
        return False
    return True


def end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Beside:
    """Runs one side of a conversation in a thread; `result()` returns or raises."""

    def __init__(self, task: Callable[[], object]) -> None:
        self._task = task
        self._result: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._task()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the other side has not ended"
        if self._error is not None:
            raise self._error
        return self._result
