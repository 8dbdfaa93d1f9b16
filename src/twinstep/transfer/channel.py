"""What the sender needs of a connection, and its double that needs no network.

A channel moves whole frames in order between two ends. It is synchronous: the same
sender runs on a TCP connection in a thread of the agent and on a loopback pair in a
test. Every call ends within the channel's deadline. A channel whose call has raised
is of no further use, because nobody knows where the next frame begins: close it.

Left out: several frames in flight in one call, priorities, reconnection. A copy that
was interrupted is offered again on a new connection.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from typing import Protocol

from twinstep.errors import DeadlinePassed, ProtocolError
from twinstep.transfer import frame
from twinstep.transfer.frame import DataHeader


class PeerClosed(ProtocolError, ConnectionError):
    """The connection ended before the frame did."""


class Channel(Protocol):
    """One end of a connection for data.

    `receive` and `receive_into` are apart so that the receiver says where a payload
    goes after it has seen the header, and the bytes are never held anywhere else.
    """

    def send(self, header: DataHeader, payload: memoryview | None = None) -> None:
        """Sends one frame; `payload` may be reused when the call returns.

        Raises: DeadlinePassed, PeerClosed."""
        ...

    def receive(self) -> tuple[DataHeader, int]:
        """Returns the next header and the bytes of its payload, still unread.

        Raises: DeadlinePassed, PeerClosed, ProtocolError."""
        ...

    def receive_into(self, view: memoryview) -> None:
        """Fills `view`, as long as the payload announced, with that payload.

        Raises: DeadlinePassed, PeerClosed."""
        ...

    def queued(self) -> int:
        """Bytes that were sent and are not known to be at the other end yet."""
        ...

    def close(self) -> None:
        """Ends the connection for both sides; may be called again."""
        ...


class LoopbackChannel:
    """One end of a pair inside a process; frames are encoded as on a socket."""

    def __init__(
        self,
        *,
        outgoing: queue.Queue[bytes | None],
        incoming: queue.Queue[bytes | None],
        deadline_s: float,
        payload_bytes_max: int,
        tamper: Callable[[bytes], bytes | None],
    ) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._deadline_s = deadline_s
        self._payload_bytes_max = payload_bytes_max
        self._tamper = tamper
        self._payload: memoryview | None = None
        self._closed = False

    @classmethod
    def pair(
        cls,
        *,
        frames_max: int = 16,
        deadline_s: float = 5.0,
        payload_bytes_max: int = 1 << 20,
        tamper: Callable[[bytes], bytes | None] = lambda raw: raw,
    ) -> tuple[LoopbackChannel, LoopbackChannel]:
        """Returns two connected ends.

        `tamper` sees every frame that the first end sends, and returns what arrives
        in its place; None loses the frame."""
        there: queue.Queue[bytes | None] = queue.Queue(frames_max)
        back: queue.Queue[bytes | None] = queue.Queue(frames_max)
        first = cls(
            outgoing=there,
            incoming=back,
            deadline_s=deadline_s,
            payload_bytes_max=payload_bytes_max,
            tamper=tamper,
        )
        second = cls(
            outgoing=back,
            incoming=there,
            deadline_s=deadline_s,
            payload_bytes_max=payload_bytes_max,
            tamper=lambda raw: raw,
        )
        return first, second

    def send(self, header: DataHeader, payload: memoryview | None = None) -> None:
        if self._closed:
            raise PeerClosed("loopback: closed at this end")
        size = 0 if payload is None else payload.nbytes
        raw = frame.encode(header, payload_bytes=size)
        if payload is not None:
            raw += payload.tobytes()
        arrives = self._tamper(raw)
        if arrives is None:
            return
        try:
            self._outgoing.put(arrives, timeout=self._deadline_s)
        except queue.Full:
            raise DeadlinePassed(
                f"loopback took no frame for {self._deadline_s} s"
            ) from None

    def receive(self) -> tuple[DataHeader, int]:
        assert not self._payload, "the last payload was not read"
        if self._closed:
            raise PeerClosed("loopback: closed at this end")
        try:
            raw = self._incoming.get(timeout=self._deadline_s)
        except queue.Empty:
            raise DeadlinePassed(
                f"loopback sent no frame for {self._deadline_s} s"
            ) from None
        if raw is None:
            self._closed = True
            raise PeerClosed("loopback: closed at the other end")
        header, self._payload = frame.decode_frame(
            raw,
            frame.DATA_DECODER,
            header_bytes_max=frame.DATA_HEADER_BYTES_MAX,
            payload_bytes_max=self._payload_bytes_max,
        )
        return header, len(self._payload)

    def receive_into(self, view: memoryview) -> None:
        assert self._payload is not None, "no payload is waiting"
        assert view.nbytes == len(self._payload), (view.nbytes, len(self._payload))
        view[:] = self._payload
        self._payload = None

    def queued(self) -> int:
        return 0  # a queue of this process is no wire

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # Where the queue is full, the other end finds silence, then its deadline.
        with contextlib.suppress(queue.Full):
            self._outgoing.put_nowait(None)
