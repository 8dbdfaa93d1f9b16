"""The rank's end of the socket to its agent: typed messages, and slots beside them.

Blocking, for one reading thread; sending is allowed from any thread. File descriptors
of slots travel with the first byte of the message that names them, in its order.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque

import msgspec

from twinstep.agent.messages import FromRank, ToRank
from twinstep.errors import DeadlinePassed, ProtocolError
from twinstep.transfer.frame import (
    PREFIX_BYTES,
    decode_header,
    encode,
    parse_prefix,
)

HEADER_BYTES_MAX = 64 * 1024 * 1024  # digests of a slot: 16 bytes per chunk
DESCRIPTORS_MAX = 250  # the kernel's limit for one message is 253

_decoder: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)


class Tether:
    """A connection from a rank to the agent of its machine."""

    def __init__(self, path: str, *, connect_s_max: float) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(connect_s_max)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise DeadlinePassed(
                f"the agent at {path} does not answer ({error}); is it running?"
            ) from error
        self._write = threading.Lock()
        self._descriptors: deque[int] = deque()

    def send(self, message: FromRank) -> None:
        """The message is with the kernel. Raises: OSError when the agent is gone."""
        with self._write:
            self._socket.sendall(encode(message))

    def receive(self, timeout_s: float | None) -> ToRank:
        """Returns the next message.

        Raises: DeadlinePassed naming the agent; ConnectionError when it is gone."""
        self._socket.settimeout(timeout_s)
        prefix = parse_prefix(
            self._read(PREFIX_BYTES),
            header_bytes_max=HEADER_BYTES_MAX,
            payload_bytes_max=0,
        )
        return decode_header(prefix, self._read(prefix.header_bytes), _decoder)

    def take(self, count: int) -> list[int]:
        """Returns the descriptors that came with the last message, as its slots."""
        if len(self._descriptors) < count:
            raise ProtocolError(
                f"the agent named {count} descriptors and sent {len(self._descriptors)}"
            )
        return [self._descriptors.popleft() for _ in range(count)]

    def leave(self, count: int) -> None:
        """The descriptors that came with the last message are not wanted."""
        for descriptor in self.take(count):
            os.close(descriptor)

    def _read(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0:
            try:
                part, descriptors, _, _ = socket.recv_fds(
                    self._socket, min(count, 1 << 20), DESCRIPTORS_MAX
                )
            except TimeoutError as error:
                raise DeadlinePassed(
                    f"no word from the agent at {self.path} within "
                    f"{self._socket.gettimeout()} s"
                ) from error
            self._descriptors.extend(descriptors)
            if not part:
                raise ConnectionError(f"the agent at {self.path} is gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """The connection ends; a waiting receive ends with it."""
        with contextlib.suppress(OSError):  # the agent may be gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())
