"""What an agent holds to prove that it is of the job: nothing, a token, certificates.

Everything that listens or connects takes `Credentials`. `NONE` is what a trial on one
computer has: it speaks on loopback only, and whoever asks for more is told what to
make. What is on disk is read here and in certificates.py, nowhere else.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import final

from twinstep.config import Trust
from twinstep.errors import ConfigError
from twinstep.trust.certificates import Certificates, find_folder
from twinstep.trust.handshake import (
    NONCE_BYTES,
    Handshake,
    Role,
    TokenClient,
    TokenServer,
)
from twinstep.trust.sealed import GcmSeal, check_library
from twinstep.trust.streams import Connection, SealedStream
from twinstep.trust.tls import TlsHandshake

TOKEN_BYTES_MIN = 32
TOKEN_BYTES_MAX = 4096
_OTHERS = 0o007
"""Permissions that a secret's file must not have."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What this process proves, and what it wants to see proved.

    At most one of `token` and `certificates` is there."""

    token: bytes = dataclasses.field(default=b"", repr=False)
    certificates: Certificates | None = None
    limits: Trust = dataclasses.field(default_factory=Trust)

    @property
    def none(self) -> bool:
        return not self.token and self.certificates is None

    @property
    def kind(self) -> str:
        """In words, for the log."""
        if self.certificates is not None:
            return "certificates"
        return "a token" if self.token else "no credentials"

    def client(self, role: Role, *, job: str) -> Handshake | None:
        """Returns how an outgoing connection proves itself; None where nothing is
        to be proved."""
        if self.certificates is not None:
            return TlsHandshake(
                self.certificates, server=False, roles=[role], data=self.limits.data
            )
        if self.token:
            nonce = os.urandom(NONCE_BYTES)
            return TokenClient(self.token, role=role, job=job, nonce=nonce)
        return None

    def server(self, roles: tuple[Role, ...], *, job: str) -> Handshake | None:
        """Returns how an accepted connection proves itself, as `client` does."""
        if self.certificates is not None:
            return TlsHandshake(
                self.certificates, server=True, roles=roles, data=self.limits.data
            )
        if self.token:
            nonce = os.urandom(NONCE_BYTES)
            return TokenServer(self.token, roles=roles, job=job, nonce=nonce)
        return None

    def carry(self, sock: socket.socket, handshake: Handshake) -> Connection:
        """Returns what carries the bytes of a connection that has proved itself.

        Raises: Stranger."""
        if not isinstance(handshake, TlsHandshake):
            return sock
        if handshake.role is Role.DATA and self.limits.data != "tls":
            handshake.let_go()
            if self.limits.data == "plain":
                return sock
            return SealedStream(
                sock, GcmSeal(handshake.secret, server=handshake.server)
            )
        return SealedStream(sock, handshake.link())

    def check_host(self, host: str) -> None:
        """Nothing, where speaking with or on `host` is allowed.

        Raises: ConfigError naming the way out: without credentials only loopback."""
        if self.none and not is_loopback(host):
            raise ConfigError(
                f"{host} is not loopback, and this job has no credentials: whoever "
                "reaches the port could read and write its state; set trust.certs "
                "(twinstep certs DIR --machine NAME --host IP makes them) or "
                "trust.token_file (twinstep token FILE makes one), or use 127.0.0.1"
            )


NONE = Credentials()
"""Loopback only."""


def is_loopback(host: str) -> bool:
    """Whether only this computer is reached at `host`; no name but localhost is."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(trust: Trust, *, machine: str = "") -> Credentials:
    """Returns what the settings name; `NONE` when they name nothing.

    Args:
      machine: whose certificates, where the folder has one folder for each machine.

    Raises: ConfigError naming the file, what is wrong with it and the way out."""
    if trust.certs:
        folder = find_folder(Path(trust.certs).expanduser(), machine=machine)
        certificates = Certificates(folder)
        certificates.check()  # now, rather than at the first connection
        if trust.data == "sealed":
            check_library()
        return Credentials(certificates=certificates, limits=trust)
    if trust.token_file:
        path = Path(trust.token_file).expanduser()
        return Credentials(token=_read_token(path), limits=trust)
    return Credentials(limits=trust)


def _read_token(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            others = os.fstat(file.fileno()).st_mode & _OTHERS
            token = file.read(TOKEN_BYTES_MAX + 1).strip()
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise ConfigError(
            f"trust.token_file {path} cannot be read: {error}; `twinstep token {path}` "
            "makes one"
        ) from error
    if others:
        raise ConfigError(
            f"trust.token_file {path} can be read by others; chmod 600 {path}"
        )
    if not TOKEN_BYTES_MIN <= len(token) <= TOKEN_BYTES_MAX:
        raise ConfigError(
            f"trust.token_file {path} holds {len(token)} bytes; it must be "
            f"{TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} that nobody can guess: "
            "`twinstep token FILE` makes one"
        )
    return token
