"""Copies in sealed records: AES-256-GCM with keys that a TLS handshake has agreed.

    length (4 bytes, big-endian) | ciphertext | tag (16 bytes)

TLS cuts what it carries into records of 16 KiB, and that is most of what it costs. Here
a record is as long as what is sent at once: a chunk. Otherwise it is what TLS does: a
key for each direction, made of 64 random bytes that both ends have just sent each other
under TLS and that no other connection has; the number of the record as nonce, so none
can be left out, repeated or moved; the length is authenticated with it. What does not
have its tag ends the connection.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import final

from twinstep.errors import ConfigError, ProtocolError

Buffer = bytes | memoryview | bytearray
LENGTH = struct.Struct(">I")
TAG_BYTES = 16
RECORD_BYTES_MAX = 1024 * 1024
_WHOLE = LENGTH.size + RECORD_BYTES_MAX + TAG_BYTES
RECORDS_MAX = 1 << 32
"""Of one key; the connection ends before (at 2 PiB)."""
_OUT, _BACK = b"twinstep client to server", b"twinstep server to client"


def check_library() -> None:
    """Raises: ConfigError when the package is not there."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        AESGCM.encrypt_into  # noqa: B018  (version 47 and newer)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "trust.data = 'sealed' needs the package cryptography, 47 or newer: pip "
            "install 'twinstep[tls]'; or use 'tls'"
        ) from error


@final
class GcmSeal:
    """One end of a connection; one thread or loop uses it."""

    def __init__(self, secret: bytes, *, server: bool) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        assert len(secret) == 64, len(secret)
        out, back = (hmac.digest(secret, way, "sha256") for way in (_OUT, _BACK))
        self._send, self._receive = (
            AESGCM(back if server else out),
            AESGCM(out if server else back),
        )
        self._sent = self._received = 0
        self._outgoing: list[bytearray] = []
        self._room = memoryview(bytearray(_WHOLE))
        # Invariant: 0 <= start <= end <= len(room); unread records lie between.
        self._start = self._end = 0
        self._opened = memoryview(b"")
        self._spare = memoryview(bytearray(0))

    def seal(self, parts: Sequence[Buffer]) -> list[Buffer]:
        """Returns what to send in place of `parts`; it is overwritten by the next."""
        sealed: list[Buffer] = []
        for index, part in enumerate(parts):
            assert len(part) <= RECORD_BYTES_MAX, len(part)
            if index == len(self._outgoing):
                self._outgoing.append(bytearray())
            size = LENGTH.size + len(part) + TAG_BYTES
            if len(self._outgoing[index]) < size:
                self._outgoing[index] = bytearray(size)
            record = memoryview(self._outgoing[index])[:size]
            LENGTH.pack_into(record, 0, len(part))
            nonce = _nonce(self._sent)
            self._sent += 1
            head, body = bytes(record[: LENGTH.size]), record[LENGTH.size :]
            self._send.encrypt_into(nonce, part, head, body)
            sealed.append(record)
        return sealed

    def room(self) -> memoryview:
        """Where to receive to; `fed` tells how much came."""
        if self._start == self._end:
            self._start = self._end = 0
        if self._end == len(self._room):
            left = self._end - self._start
            self._room[:left] = bytes(self._room[self._start : self._end])
            self._start, self._end = 0, left
        return self._room[self._end :]

    def fed(self, count: int) -> None:
        self._end += count

    def read_into(self, view: memoryview) -> int:
        """Returns how many bytes are in `view` now; 0 when more must be fed first.

        Raises: ConnectionError when they were changed on the way."""
        got = 0
        while got < len(view):
            if len(self._opened):
                count = min(len(self._opened), len(view) - got)
                view[got : got + count] = self._opened[:count]
                self._opened = self._opened[count:]
                got += count
            else:
                count = self._open(view[got:])
                if count < 0:
                    break
                got += count
        return got

    def _open(self, view: memoryview) -> int:
        """Opens the next record into `view`, or beside it where it is longer; returns
        how many bytes are in `view`, -1 when the record is not whole yet."""
        have = self._end - self._start
        if have < LENGTH.size:
            return -1
        (length,) = LENGTH.unpack_from(self._room, self._start)
        if length > RECORD_BYTES_MAX:
            raise ConnectionAbortedError(
                f"a sealed record of {length} bytes is announced; at most "
                f"{RECORD_BYTES_MAX}"
            )
        size = LENGTH.size + length + TAG_BYTES
        if have < size:
            return -1
        record = self._room[self._start : self._start + size]
        direct = length <= len(view)
        if not direct and len(self._spare) < length:
            self._spare = memoryview(bytearray(length))
        target = view[:length] if direct else self._spare[:length]
        self._unseal(record, target)
        self._start += size
        if direct:
            return length
        self._opened = target
        return 0

    def _unseal(self, record: memoryview, target: memoryview) -> None:
        from cryptography.exceptions import InvalidTag

        nonce, head = _nonce(self._received), bytes(record[: LENGTH.size])
        try:
            self._receive.decrypt_into(nonce, record[LENGTH.size :], head, target)
        except InvalidTag as error:
            raise ConnectionAbortedError("a record was changed on the way") from error
        self._received += 1


def _nonce(number: int) -> bytes:
    if number >= RECORDS_MAX:
        raise ProtocolError(f"{RECORDS_MAX} records are under one key; connect anew")
    return number.to_bytes(12, "big")
