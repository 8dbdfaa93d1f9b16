"""TLS over bytes that somebody else sends and receives.

OpenSSL works on memory here, not on the socket. So one handshake serves a thread that
blocks, and a loop that does not; a slow peer costs neither a thread nor the loop; and
copies need a system call for each half megabyte instead of two for each record of 16
KiB, which is worth as much as the encryption itself (docs/design/trust.md).

The role is agreed in the handshake (ALPN). At its end each side sends 32 random bytes:
with the server's the client knows that its certificate was accepted, before it says
anything; both together are a secret that only these two ends know.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import final

from twinstep.trust.certificates import Certificates
from twinstep.trust.handshake import NONCE_BYTES, Role, Stranger, describe

Buffer = bytes | memoryview | bytearray
_STEP_BYTES = 16 * 1024
_CHUNK_BYTES = 512 * 1024
"""Received at once where chunks come."""
_MESSAGE_BYTES = 64 * 1024
"""Received at once elsewhere."""
_HANDSHAKE_BYTES_MAX = 256 * 1024
"""What a peer may send before it has proved itself: a few certificates."""
_ALERT = b"\x15\x03\x03\x00\x02\x02\x0a"
"""Unexpected message: tells a peer that speaks no TLS that we do."""
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate, and we showed none",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "NO_SHARED_CIPHER": "it speaks no cipher of TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
}


@final
class TlsHandshake:
    """One end's handshake; afterwards `link` carries bytes."""

    def __init__(
        self,
        certificates: Certificates,
        *,
        server: bool,
        roles: Sequence[Role],
        data: str,
    ) -> None:
        """`data` is how copies travel afterwards; both ends must mean the same."""
        self.role: Role | None = None
        self.done = False
        self.farewell = b""
        self.secret = b""
        self._names = {_name(role, data): role for role in roles}
        context = certificates.context(server=server, protocols=tuple(self._names))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self.server = server
        self._shaken = False
        self._fed = 0
        self._own = os.urandom(NONCE_BYTES)
        self._others = b""

    @property
    def wants(self) -> int:
        return 0 if self.done else _STEP_BYTES

    def begin(self) -> bytes:
        return b"" if self.server else self._step()

    def feed(self, received: bytes) -> bytes:
        """Returns what to send. Raises: Stranger, with `farewell` set."""
        if not self._fed and received[:1] not in (b"\x15", b"\x16"):
            self.farewell = _ALERT
            raise Stranger(describe(received))
        self._fed += len(received)
        if self._fed > _HANDSHAKE_BYTES_MAX:
            raise Stranger(f"its handshake takes over {_HANDSHAKE_BYTES_MAX} bytes")
        self._incoming.write(received)
        return self._step()

    def link(self) -> TlsLink:
        """What carries bytes from now on."""
        assert self.done
        room_bytes = _CHUNK_BYTES if self.role is Role.DATA else _MESSAGE_BYTES
        return TlsLink(self._tls, self._incoming, self._outgoing, room_bytes)

    def let_go(self) -> None:
        """TLS has done its part: what follows is not TLS any more.

        Raises: Stranger when the peer has not waited for our answer."""
        if self._incoming.pending or self._tls.pending():
            raise Stranger("it has sent more before it had our answer")

    def _step(self) -> bytes:
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self._agree()
                if not self.server:
                    self._tls.write(self._own)
            self._others += self._tls.read(NONCE_BYTES - len(self._others))
            if len(self._others) == NONCE_BYTES:
                self._finish()
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, Stranger) as error:
            self.farewell = self._outgoing.read()
            if isinstance(error, Stranger):
                raise
            raise Stranger(words(error)) from error
        return self._outgoing.read()

    def _agree(self) -> None:
        name = self._tls.selected_alpn_protocol()
        if name is None or name not in self._names:
            offered = ", ".join(self._names)
            raise Stranger(f"it serves or asks for something other than {offered}")
        self.role = self._names[name]

    def _finish(self) -> None:
        if self.server:
            self._tls.write(self._own)
            self.secret = self._others + self._own
        else:
            self.secret = self._own + self._others
        self.done = True


@final
class TlsLink:
    """Bytes in and out of an established connection; one thread or loop uses it."""

    def __init__(
        self,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        room_bytes: int,
    ) -> None:
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing
        self._room = memoryview(bytearray(room_bytes))

    def seal(self, parts: Sequence[Buffer]) -> list[Buffer]:
        """Returns what to send in place of `parts`."""
        for part in parts:
            if len(part):
                self._tls.write(part)
        return [self._outgoing.read()]

    def room(self) -> memoryview:
        """Where to receive to; `fed` tells how much came."""
        return self._room

    def fed(self, count: int) -> None:
        self._incoming.write(self._room[:count])

    def read_into(self, view: memoryview) -> int:
        """Returns how many bytes are in `view` now; 0 when more must be fed first.

        Raises: ConnectionError when they were changed on the way; EOFError at the end
            that the peer has declared."""
        got = 0
        try:
            while got < len(view):
                count = self._tls.read(len(view) - got, view[got:])  # type: ignore[arg-type]
                if not count:
                    break
                got += int(count)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError as error:
            if not got:
                raise EOFError from error
        except ssl.SSLError as error:
            raise ConnectionAbortedError(words(error)) from error
        return got


def _name(role: Role, data: str) -> str:
    """The role as TLS names it: how copies travel is part of what is agreed."""
    name = f"twinstep-{role.name.lower()}-1"
    return f"{name}-{data}" if role is Role.DATA else name


def words(error: ssl.SSLError) -> str:
    """What went wrong, for the log."""
    why = getattr(error, "verify_message", "")
    if not why and error.reason == "CERTIFICATE_VERIFY_FAILED":
        _, _, after = str(error).rpartition("certificate verify failed: ")
        why = after.partition(" (_")[0]
    if why:
        return f"its certificate is not accepted: {why}"
    reason = error.reason or str(error)
    return _WORDS.get(reason, reason.lower().replace("_", " "))
