"""Strangers of every kind, each a connection to an address; what is said of each.

They are what an attacker or a scanner without the job's credentials can do, by code
of their own: nothing here asks the tested code to be polite.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.trust import made
from twinstep.agent.messages import Opening
from twinstep.errors import ProtocolError
from twinstep.transfer.frame import MAGIC, encode
from twinstep.trust.credentials import Credentials
from twinstep.trust.handshake import Role

Address = tuple[str, int]
Stranger = Callable[[Address], None]
WAIT_S = 10.0
GIBIBYTE = 1 << 30


def until_dropped(sock: socket.socket) -> bytes:
    """Returns what the port says until it ends the connection.

    Raises: AssertionError when it does not."""
    said = b""
    sock.settimeout(WAIT_S)
    try:
        while piece := sock.recv(65536):
            said += piece
    except TimeoutError:
        raise AssertionError(f"not dropped within {WAIT_S} s; it said {said!r}") from (
            None
        )
    except OSError:
        pass  # reset: it did not read all of what was sent
    return said


def says(sent: bytes) -> Stranger:
    """Says this, and waits."""

    def stranger(address: Address) -> None:
        with socket.create_connection(address, timeout=WAIT_S) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(sent)
            until_dropped(sock)

    return stranger


def announces_a_gibibyte() -> bytes:
    """The prefix of a frame, whole, with a header of 1 GiB."""
    fields = struct.pack("<4sIQI", MAGIC, GIBIBYTE, 0, 0)
    return fields + struct.pack("<I", zlib.crc32(fields)) + bytes(4096)


def byte_by_byte(sent: bytes) -> Stranger:
    def stranger(address: Address) -> None:
        with socket.create_connection(address, timeout=WAIT_S) as sock:
            with contextlib.suppress(OSError):
                for byte in sent:
                    sock.sendall(bytes([byte]))
                    time.sleep(0.01)
            until_dropped(sock)

    return stranger


def speaks_tls(folder: Path | None = None) -> Stranger:
    """A TLS client that believes every server, with the certificate in a folder, or
    none."""

    def stranger(address: Address) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["twinstep-control-1"])
        if folder is not None:
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        with (
            socket.create_connection(address, timeout=WAIT_S) as sock,
            contextlib.suppress(OSError),
            context.wrap_socket(sock) as inner,
        ):
            inner.sendall(bytes(32) + encode(Opening(job="job", machine="m9")))
            until_dropped(inner)

    return stranger


def holds(credentials: Credentials, *, job: str, role: Role) -> Stranger:
    """Goes through our own handshake with other credentials."""

    def stranger(address: Address) -> None:
        with socket.create_connection(address, timeout=WAIT_S) as sock:
            handshake = credentials.client(role, job=job)
            assert handshake is not None
            with contextlib.suppress(OSError, ProtocolError):
                sock.sendall(handshake.begin())
                while not handshake.done:
                    received = sock.recv(handshake.wants)
                    if not received:
                        return
                    sock.sendall(handshake.feed(received))
            until_dropped(sock)

    return stranger


class Replay:
    """Records a handshake that succeeds, and says it again."""

    def __init__(self, credentials: Credentials, *, job: str, role: Role) -> None:
        self._credentials, self._job, self._role = credentials, job, role
        self._said: list[bytes] = []

    def record(self, address: Address) -> None:
        with socket.create_connection(address, timeout=WAIT_S) as sock:
            handshake = self._credentials.client(self._role, job=self._job)
            assert handshake is not None
            self._said = [handshake.begin()]
            sock.sendall(self._said[0])
            while not handshake.done:
                received = sock.recv(handshake.wants)
                assert received, "the handshake to record was refused"
                self._said.append(handshake.feed(received))
                sock.sendall(self._said[-1])

    def __call__(self, address: Address) -> None:
        if not self._said:
            self.record(address)
        says(b"".join(self._said) + encode(Opening(job=self._job, machine="m9")))(
            address
        )


def strangers(
    kind: str, folder: Path, *, job: str, role: Role = Role.CONTROL
) -> dict[str, tuple[Stranger, str]]:
    """All that come to a port with credentials of a kind, and what is said of them."""
    opening = encode(Opening(job=job, machine="m9"))
    found: dict[str, tuple[Stranger, str]] = {
        "http": (says(b"GET / HTTP/1.1\r\n\r\n"), "no twinstep"),
        "plain twinstep": (says(opening), "twinstep without credentials"),
        "1 GiB announced": (says(announces_a_gibibyte()), "without credentials"),
        "zeros": (says(bytes(100_000)), "no twinstep"),
        "gone at once": (
            lambda address: socket.create_connection(address).close(),
            "ended the connection|reset",
        ),
    }
    if kind == "token":
        credentials = made.token()
        found |= {
            "TLS": (speaks_tls(), "speaks TLS, and we hold a token"),
            "wrong token": (
                holds(made.token("x" * 40), job=job, role=role),
                "another token",
            ),
            "another job": (
                holds(credentials, job="theirs", role=role),
                "of another job",
            ),
            "replayed": (
                Replay(credentials, job=job, role=Role.CONTROL),
                "repeats an old handshake",
            ),
        }
    else:
        if not (folder / "expired").exists():
            made.expired(folder / "expired")
        found |= {
            "token": (holds(made.token(), job=job, role=role), "speaks of a token"),
            "no certificate": (speaks_tls(), "it shows no certificate"),
            "wrong authority": (
                speaks_tls(made.folder() / "theirs" / "m0"),
                "its certificate is not accepted",
            ),
            "expired": (
                speaks_tls(folder / "expired"),
                "its certificate is not accepted: certificate has expired",
            ),
            "replayed": (
                Replay(made.tls(), job=job, role=Role.CONTROL),
                "decrypt|mac|digest|unexpected|finished|verify",
            ),
        }
    return found


def silent(address: Address, count: int) -> list[socket.socket]:
    """So many connections that say nothing; the port may have dropped some."""
    found: list[socket.socket] = []
    for _ in range(count):
        sock = socket.socket()
        sock.settimeout(WAIT_S)
        with contextlib.suppress(OSError):
            sock.connect(address)
        found.append(sock)
    return found
