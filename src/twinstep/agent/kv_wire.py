"""Carries the key-value store's messages over a socket, within bounds.

A frame is a length, the CRC-32 of the body, the CRC-32 of these two (each 4 bytes,
big-endian), and the body: typed msgpack. TCP's own checksum lets through what bad
memory in a switch does, such as two words that changed places; a lease, or a vote, must
not be read off such bytes.

Nothing is unpickled. A checksum that is wrong, a length above the bound, bytes that are
no message, or a frame that does not arrive in time end the connection: there is no way
to resynchronise, and a peer that speaks nonsense is not to be trusted with a second
try. Memory grows with the bytes that arrive, not with the length that is announced.

Left out: who may speak: a connection has proved itself before (trust/wire.py).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from twinstep.agent.kv import (
    Changes,
    Compacted,
    Done,
    Failed,
    Follow,
    Get,
    Got,
    Grant,
    Granted,
    LeaseGone,
    Renew,
    Revoke,
    Transact,
)
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, ProtocolError, Refused
from twinstep.trust.streams import Connection

_FIELDS = struct.Struct(">II")
_CHECK = struct.Struct(">I")
PREFIX_BYTES = _FIELDS.size + _CHECK.size
_RECEIVE_BYTES = 64 * 1024
_encoder = msgspec.msgpack.Encoder()
requests: msgspec.msgpack.Decoder[Get | Transact | Grant | Renew | Revoke | Follow] = (
    msgspec.msgpack.Decoder(Get | Transact | Grant | Renew | Revoke | Follow)
)
responses: msgspec.msgpack.Decoder[Got | Done | Granted | Changes | Failed] = (
    msgspec.msgpack.Decoder(Got | Done | Granted | Changes | Failed)
)
_KINDS: dict[str, type[Refused]] = {"compacted": Compacted, "lease": LeaseGone}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large a frame may be, and how long a connection may be silent."""

    request_bytes_max: int = 4 * 1024 * 1024
    """What a client may make the store hold: a few values of the largest size."""
    response_bytes_max: int = 96 * 1024 * 1024
    """Everything the store may hold (64 MiB) with its keys' and revisions' bytes."""
    connections_max: int = 1024
    """Three an agent, and ten where its link loses much."""
    frame_s_max: float = 5.0
    """A frame that has begun is complete within this time, or the peer is dropped."""
    idle_s_max: float = 600.0
    """A connection without a request for so long is closed; clients open another."""
    progress_s: float = 1.0
    """A watch hears from the store so often, changes or not."""

    @property
    def silence_s_max(self) -> float:
        """A watch that hears nothing for three signs of life connects anew."""
        return 3 * self.progress_s


def encode(message: msgspec.Struct, *, bytes_max: int) -> bytes:
    """Returns a whole frame. Raises: Refused when it is over the bound."""
    body = _encoder.encode(message)
    if len(body) > bytes_max:
        raise Refused(
            f"{type(message).__name__} takes {len(body)} bytes; at most {bytes_max}: "
            "ask for a longer prefix, or put less at once"
        )
    fields = _FIELDS.pack(len(body), zlib.crc32(body))
    return fields + _CHECK.pack(zlib.crc32(fields)) + body


def failure(error: Refused) -> Failed:
    """Returns an error as a message; `raise_failure` is the way back."""
    if isinstance(error, Compacted):
        return Failed(kind="compacted", reason=str(error))
    if isinstance(error, LeaseGone):
        return Failed(kind="lease", reason=str(error))
    return Failed(kind="refused", reason=str(error))


def raise_failure(failed: Failed) -> None:
    raise _KINDS.get(failed.kind, Refused)(failed.reason)


@dataclass(slots=True, kw_only=True)
class Frames:
    """A connection's frames, one after the other; a frame that has arrived in part
    is kept for the next call."""

    connection: Connection
    bytes_max: int
    peer: str
    received: bytearray = field(default_factory=bytearray)

    def receive(self, decoder: msgspec.msgpack.Decoder[Any], *, until_s: float) -> Any:
        """Returns the next message, or None when it is not whole by `until_s`.

        Raises: ProtocolError when the peer speaks nonsense; ConnectionError when it
            has closed."""
        while True:
            body = self._body()
            if body is not None:
                try:
                    return decoder.decode(body)
                except (ValueError, RecursionError) as error:
                    raise ProtocolError(f"{self.peer} sent no message: {error}") from (
                        error
                    )
            # At least one look, so that a caller who comes late gets what is there.
            self.connection.settimeout(max(until_s - monotonic_s(), 1e-6))
            try:
                piece = self.connection.recv(_RECEIVE_BYTES)
            except (TimeoutError, BlockingIOError):
                return None
            if not piece:
                raise ConnectionError(f"{self.peer} closed the connection")
            self.received += piece

    def send(self, frame: bytes, *, until_s: float) -> None:
        """The frame is handed to the kernel. Raises: DeadlinePassed, OSError; either
        way the connection is of no further use."""
        left_s = until_s - monotonic_s()
        if left_s <= 0:
            raise DeadlinePassed(f"no time left to send to {self.peer}")
        self.connection.settimeout(left_s)
        try:
            self.connection.sendall(frame)
        except TimeoutError as error:
            raise DeadlinePassed(f"{self.peer} took no bytes in {left_s:.1f} s") from (
                error
            )

    @property
    def begun(self) -> bool:
        """Whether a part of a frame has arrived."""
        return bool(self.received)

    def _body(self) -> bytes | None:
        if len(self.received) < PREFIX_BYTES:
            return None
        length, body_crc = _FIELDS.unpack_from(self.received)
        (check,) = _CHECK.unpack_from(self.received, _FIELDS.size)
        if zlib.crc32(self.received[: _FIELDS.size]) != check:
            raise ProtocolError(
                f"{self.peer} sent bytes that begin no frame: the prefix does not have "
                "the checksum it carries"
            )
        if length > self.bytes_max:
            raise ProtocolError(
                f"{self.peer} announced {length} bytes; at most {self.bytes_max}"
            )
        end = PREFIX_BYTES + length
        if len(self.received) < end:
            return None
        body = bytes(self.received[PREFIX_BYTES:end])
        del self.received[:end]
        if zlib.crc32(body) != body_crc:
            raise ProtocolError(f"{self.peer} sent a frame with a wrong checksum")
        return body
