"""A channel over a connected stream socket, TCP or Unix.

What makes it as fast as a plain copy of the same bytes (docs/design/transfer.md has
the measurements): header and payload leave in one system call, because each call
wakes the receiver and a wake-up costs more than the header; a payload is received by
one blocking call straight into its place; deadlines are the kernel's (SO_RCVTIMEO,
SO_SNDTIMEO), because Python's own timeouts make a socket non-blocking, and then every
few hundred kilobytes cost a poll, a partial read and two turns of the interpreter.

Heads (prefix and header) are read with a guess: as many bytes as the last head had.
Chunk heads are nearly all of one length, so a head costs one call and takes nothing
of the payload with it.

Left out: sendfile from the slot, which saves the sender's copy but hands the receiver
4 KiB fragments: 0.65 of a plain copy where slots have small pages. Encryption is the
connection's affair (trust/streams.py), which is used as a socket is.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Sequence

from twinstep import config
from twinstep.errors import DeadlinePassed, ProtocolError
from twinstep.schedule_settings import Schedule
from twinstep.transfer import frame
from twinstep.transfer.channel import PeerClosed
from twinstep.transfer.flow import Flow
from twinstep.transfer.frame import PREFIX_BYTES, DataHeader
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.handshake import Role, Stranger
from twinstep.trust.streams import Connection
from twinstep.trust.wire import secure

_TIMEVAL = struct.Struct("ll")


class TcpChannel:
    """One end of a data connection. One thread uses it; any thread may close it."""

    def __init__(
        self,
        sock: Connection,
        *,
        limits: config.Transfer,
        deadline_s: float,
        peer: str = "",
        received: bytes = b"",
        flow: Flow | None = None,
    ) -> None:
        """Takes over `sock`. `received` are bytes that came after the frames which
        somebody else has already read from it; at most 64 KiB."""
        self._sock = sock
        self._deadline_s = deadline_s
        self._peer = peer or _name(sock)
        self._flow = Flow() if flow is None else flow
        self._header_bytes_max = min(
            limits.header_bytes_max, frame.DATA_HEADER_BYTES_MAX
        )
        self._payload_bytes_max = limits.chunk_bytes
        # Invariant: 0 <= start <= end <= len(buffer); unread bytes lie between.
        self._buffer = bytearray(
            max(len(received), PREFIX_BYTES + self._header_bytes_max)
        )
        self._buffer[: len(received)] = received
        self._start = 0
        self._end = len(received)
        self._head_bytes_guess = PREFIX_BYTES
        self._payload_due = 0
        self._closed = False
        sock.setblocking(True)
        seconds = int(deadline_s)
        limit = _TIMEVAL.pack(seconds, max(1, int((deadline_s - seconds) * 1e6)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        ask_buffers(sock, limits=limits)
        self._flow.opens(sock)

    @property
    def peer(self) -> str:
        return self._peer

    def send(self, header: DataHeader, payload: memoryview | None = None) -> None:
        size = 0 if payload is None else payload.nbytes
        head = frame.encode(header, payload_bytes=size)
        started_s = time.monotonic()
        parts = [head] if payload is None else [head, payload]
        total = len(head) + size
        sent = self._send_some(parts, total)
        while sent < total:
            if time.monotonic() - started_s >= self._deadline_s:
                raise self._late(f"took {sent} of {total} bytes")
            if sent < len(head):
                rest = [memoryview(head)[sent:], *parts[1:]]
            else:
                assert payload is not None
                rest = [payload[sent - len(head) :]]
            sent += self._send_some(rest, total - sent)

    def _send_some(self, parts: Sequence[bytes | memoryview], total: int) -> int:
        try:
            return self._sock.sendmsg(parts)
        except BlockingIOError:
            raise self._late(f"took none of {total} bytes") from None
        except OSError as error:
            raise self._lost(f"{total} bytes unsent: {error}") from error

    def receive(self) -> tuple[DataHeader, int]:
        assert self._payload_due == 0, f"{self._payload_due} bytes were not read"
        started_s = time.monotonic()
        self._fill(PREFIX_BYTES, started_s)
        view = memoryview(self._buffer)
        try:
            prefix = frame.parse_prefix(
                view[self._start : self._end],
                header_bytes_max=self._header_bytes_max,
                payload_bytes_max=self._payload_bytes_max,
            )
            head_bytes = PREFIX_BYTES + prefix.header_bytes
            self._fill(head_bytes, started_s)
            header_at = self._start + PREFIX_BYTES
            raw = view[header_at : header_at + prefix.header_bytes]
            header = frame.decode_header(prefix, raw, frame.DATA_DECODER)
        except PeerClosed:
            raise
        except ProtocolError as error:
            raise ProtocolError(f"{self._peer}: {error}") from error
        self._start += head_bytes
        self._head_bytes_guess = head_bytes
        self._payload_due = prefix.payload_bytes
        return header, prefix.payload_bytes

    def _fill(self, wanted: int, started_s: float) -> None:
        """Reads until `wanted` bytes are in the buffer."""
        if self._start and self._start + wanted > len(self._buffer):
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        if self._start == self._end:
            self._start = self._end = 0
        room = memoryview(self._buffer)
        while (have := self._end - self._start) < wanted:
            until = self._start + max(wanted, self._head_bytes_guess)
            self._end += self._receive_some(
                room[self._end : until], f"{have} of {wanted} bytes of a frame's head"
            )
            have = self._end - self._start
            if have < wanted and time.monotonic() - started_s >= self._deadline_s:
                raise self._late(f"sent {have} of {wanted} bytes of a head")

    def receive_into(self, view: memoryview) -> None:
        assert view.nbytes == self._payload_due, (view.nbytes, self._payload_due)
        started_s = time.monotonic()
        size = view.nbytes
        got = min(size, self._end - self._start)
        if got:
            view[:got] = memoryview(self._buffer)[self._start : self._start + got]
            self._start += got
        while got < size:
            got += self._receive_some(view[got:], f"{got} of {size} bytes", wait=True)
            if got < size and time.monotonic() - started_s >= self._deadline_s:
                raise self._late(f"sent {got} of {size} bytes")
        self._payload_due = 0

    def _receive_some(self, view: memoryview, where: str, *, wait: bool = False) -> int:
        flags = socket.MSG_WAITALL if wait else 0
        try:
            got = self._sock.recv_into(view, 0, flags)
        except BlockingIOError:
            raise self._late(f"sent nothing after {where}") from None
        except OSError as error:
            raise self._lost(f"after {where}: {error}") from error
        if got == 0:
            raise self._lost(f"after {where}")
        return got

    def queued(self) -> int:
        """Bytes that the peer's kernel has not acknowledged; 0 when closed."""
        count = bytearray(4)
        with contextlib.suppress(OSError, ValueError):
            fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, count)
        return int.from_bytes(count, sys.byteorder)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._flow.closes(self._sock)
        # Wakes a thread that is blocked in a call; closing alone does not.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _late(self, what: str) -> DeadlinePassed:
        return DeadlinePassed(f"{self._peer} {what} within {self._deadline_s:g} s")

    def _lost(self, what: str) -> PeerClosed:
        by = "here" if self._closed else f"by {self._peer}"
        return PeerClosed(f"connection closed {by}: {what}")


def connect(
    address: tuple[str, int],
    *,
    limits: config.Transfer,
    connect_s: float,
    deadline_s: float,
    credentials: Credentials = NONE,
    job: str = "",
    yielding: Schedule | None = None,
    flow: Flow | None = None,
) -> TcpChannel:
    """Returns a channel to `address`, both ends proved to be of `job`.

    With `yielding`, what leaves by it gives way to other traffic, as these settings say
    (`give_way`).

    Raises: DeadlinePassed after `connect_s`, or as long again for the handshake;
    PeerClosed when nobody listens, the peer does not prove itself, or it says that we
    do not; ConfigError without credentials, unless the address is loopback."""
    credentials.check_host(address[0])
    name = f"{address[0]}:{address[1]}"
    try:
        plain = socket.create_connection(address, timeout=connect_s)
        sock = secure(plain, credentials, role=Role.DATA, job=job, limit_s=connect_s)
    except (Stranger, DeadlinePassed) as error:
        raise PeerClosed(f"no connection to {name}: {error}") from error
    except TimeoutError:
        raise DeadlinePassed(
            f"{name} accepted no connection within {connect_s:g} s"
        ) from None
    except OSError as error:
        raise PeerClosed(f"no connection to {name}: {error}") from error
    channel = TcpChannel(
        sock, limits=limits, deadline_s=deadline_s, peer=name, flow=flow
    )
    if yielding is not None and yielding.mode != "off":
        give_way(sock, yielding)
    return channel


def give_way(sock: Connection, schedule: Schedule) -> list[str]:
    """Marks what leaves by a socket as less urgent than all else, in the host's queues
    and in the network's.

    A second line: copies are meant to travel when nothing else does. Returns what this
    kernel refused, in words: a copy travels without it."""
    wanted: list[tuple[str, int, int, int | bytes]] = []
    if schedule.dscp and sock.family == socket.AF_INET:
        level, option = socket.IPPROTO_IP, socket.IP_TOS
        wanted.append(("dscp", level, option, schedule.dscp << 2))
    if schedule.priority:  # after the class, with which the kernel sets a priority, too
        level, option = socket.SOL_SOCKET, socket.SO_PRIORITY
        wanted.append(("priority", level, option, schedule.priority))
    if schedule.congestion and sock.family in (socket.AF_INET, socket.AF_INET6):
        level, option = socket.IPPROTO_TCP, socket.TCP_CONGESTION
        wanted.append(("congestion", level, option, schedule.congestion.encode()))
    refused: list[str] = []
    for name, level, option, value in wanted:
        try:
            sock.setsockopt(level, option, value)
        except OSError as error:
            text = value.decode() if isinstance(value, bytes) else str(value)
            refused.append(f"schedule.{name} = {text}: {error.strerror or error}")
    return refused


def ask_buffers(sock: Connection, *, limits: config.Transfer) -> None:
    """Asks for kernel buffers and no delay; a listener passes them on.

    A listening socket should be asked too: TCP agrees on its window scale when a
    connection is made."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, limits.socket_buffer_bytes)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _name(sock: Connection) -> str:
    try:
        address = sock.getpeername()
    except OSError:
        return "a closed connection"
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return "the other end of a Unix socket"
