"""Decides whether a peer holds the job's token; sends and receives nothing itself.

    client                                server
      Hello: role, job, nonce   ─────►
                                ◄─────    Challenge: nonce      (both at once)
      Proof of the client       ─────►
                                ◄─────    Proof of the server

A proof is HMAC-SHA256 with the token over who proves, the role, the job's name (its
SHA-256) and both nonces. So a proof that was recorded is worth nothing for the next
connection, and none can be sent back to where it came from. The client proves itself
first: who only connects learns nothing that depends on the token. Every message has a
fixed length, so nobody can announce one.

What a token is worth afterwards: the bytes that follow are as the network carries
them. Who can read or change a cable's bytes can read and change these; certificates
are for such networks (docs/design/trust.md).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import Protocol, final

from twinstep.errors import ProtocolError

MAGIC = b"TWH1"
NONCE_BYTES = 32
PROOF_BYTES = 32
_HELLO = struct.Struct("<4sI32s32s")
_CHALLENGE = struct.Struct("<4s32s")
_CLIENT, _SERVER, _KEYS = b"twinstep client", b"twinstep server", b"twinstep keys"


class Stranger(ProtocolError):
    """A peer that did not prove that it is of the job, and how."""


class Role(IntEnum):
    """What a connection is for; it is proved together with the token."""

    CONTROL = 1
    """An agent follows the root."""
    DATA = 2
    """A copy is offered or asked for."""
    STORE = 3
    """A client of the embedded key-value store."""


class Handshake(Protocol):
    """One end of a connection that is about to prove itself.

    The caller sends what `begin` and `feed` return, and feeds at most `wants` bytes of
    what it receives, until `done`."""

    @property
    def role(self) -> Role | None:
        """What the connection is for; the accepting end learns it."""
        ...

    @property
    def farewell(self) -> bytes:
        """What to send after a Stranger was raised, so that the peer learns why."""
        ...

    @property
    def wants(self) -> int: ...

    @property
    def done(self) -> bool: ...

    def begin(self) -> bytes: ...

    def feed(self, received: bytes) -> bytes: ...


def job_digest(job: str) -> bytes:
    """What stands for a job's name: as long for every name."""
    return hashlib.sha256(job.encode()).digest()


def describe(first: bytes) -> str:
    """What a peer speaks that begins with `first`, and none of what it should."""
    if first[:2] in (b"\x16\x03", b"\x15\x03"):
        return "it speaks TLS, and we hold a token"
    if first[:4] == MAGIC:
        return "it speaks of a token, and we hold certificates"
    if first[:3] == b"TWN":
        return "it is twinstep without credentials"
    return f"it begins with {first[:8]!r}, which is no twinstep"


class _Stages:
    """Collects messages of fixed lengths, one after the other."""

    farewell = b""

    def __init__(self) -> None:
        self._received = bytearray()
        self._wanted = len(MAGIC)
        self.done = False
        self.role: Role | None = None
        self.secret = b""
        """Known to both ends of this connection only, once it is done."""

    @property
    def wants(self) -> int:
        return 0 if self.done else self._wanted - len(self._received)

    def feed(self, received: bytes) -> bytes:
        """Returns what to send. Raises: Stranger."""
        assert len(received) <= self.wants, (len(received), self.wants)
        self._received += received
        if self.wants:
            return b""
        if len(self._received) == len(MAGIC) and bytes(self._received) != MAGIC:
            raise Stranger(describe(bytes(self._received)))
        return self._whole(bytes(self._received))

    def _whole(self, message: bytes) -> bytes:
        raise NotImplementedError

    def _next(self, wanted: int) -> None:
        self._received.clear()
        self._wanted = wanted


@final
class TokenClient(_Stages):
    """The end that connects."""

    def __init__(self, token: bytes, *, role: Role, job: str, nonce: bytes) -> None:
        assert len(nonce) == NONCE_BYTES, len(nonce)
        super().__init__()
        self.role = role
        self._token, self._nonce = token, nonce
        self._hello = _HELLO.pack(MAGIC, role, job_digest(job), nonce)
        self._transcript = b""

    def begin(self) -> bytes:
        return self._hello

    def _whole(self, message: bytes) -> bytes:
        if len(message) == len(MAGIC):
            self._wanted = _CHALLENGE.size
            return b""
        if not self._transcript:
            self._transcript = self._hello + message
            self._next(PROOF_BYTES)
            return _proof(self._token, _CLIENT, self._transcript)
        if not hmac.compare_digest(
            message, _proof(self._token, _SERVER, self._transcript)
        ):
            raise Stranger("it does not hold this job's token")
        self.secret = _proof(self._token, _KEYS, self._transcript)
        self.done = True
        return b""


@final
class TokenServer(_Stages):
    """The end that accepts; `roles` is what it is there for."""

    def __init__(
        self, token: bytes, *, roles: tuple[Role, ...], job: str, nonce: bytes
    ) -> None:
        assert len(nonce) == NONCE_BYTES, len(nonce)
        super().__init__()
        self._token, self._roles = token, roles
        self._job = job_digest(job)
        self._challenge = _CHALLENGE.pack(MAGIC, nonce)
        self._transcript = b""

    def begin(self) -> bytes:
        return self._challenge

    def _whole(self, message: bytes) -> bytes:
        if len(message) == len(MAGIC):
            self._wanted = _HELLO.size
            return b""
        if not self._transcript:
            _, role, job, _ = _HELLO.unpack(message)
            if job != self._job:
                raise Stranger("it is of another job")
            if role not in self._roles:
                raise Stranger(f"it asks for role {role}, which is not served here")
            self.role = Role(role)
            self._transcript = message + self._challenge
            self._next(PROOF_BYTES)
            return b""
        if not hmac.compare_digest(
            message, _proof(self._token, _CLIENT, self._transcript)
        ):
            raise Stranger("it holds another token, or repeats an old handshake")
        self.secret = _proof(self._token, _KEYS, self._transcript)
        self.done = True
        return _proof(self._token, _SERVER, self._transcript)


def _proof(token: bytes, who: bytes, transcript: bytes) -> bytes:
    return hmac.digest(token, who + transcript, "sha256")
