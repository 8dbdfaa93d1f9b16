"""Certificates of the job's own authority, as contexts for TLS.

A folder holds ca.pem, cert.pem and key.pem. Both ends of a connection show a
certificate that the job's authority signed; whoever has one is of the job. Which
machine it is, is not read from it: machine ranks move, addresses change, and all
agents of a job may do the same. TLS 1.3 only: both ends are twinstep.

A certificate that is replaced on disk is used for the next connection: files are
looked at (not read) each time. While they cannot be used (half written, a key that
does not belong to the certificate yet), the former ones are.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import final

from twinstep.errors import ConfigError

CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"
_OTHERS = 0o007


@final
class Certificates:
    """A folder's certificates; safe to use from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int, int], ...] = ()
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None

    @property
    def ca(self) -> Path:
        return self.folder / CA

    @property
    def cert(self) -> Path:
        return self.folder / CERT

    @property
    def key(self) -> Path:
        return self.folder / KEY

    def client(self) -> ssl.SSLContext:
        """Returns the context of outgoing connections. Raises: ConfigError."""
        return self._present()[0]

    def server(self) -> ssl.SSLContext:
        """Returns the context of accepted connections. Raises: ConfigError."""
        return self._present()[1]

    def _present(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        with self._lock:
            try:
                seen = tuple(_stamp(path) for path in (self.ca, self.cert, self.key))
                if self._contexts is None or seen != self._seen:
                    self._contexts = (
                        self._context(ssl.PROTOCOL_TLS_CLIENT),
                        self._context(ssl.PROTOCOL_TLS_SERVER),
                    )
                    self._seen = seen
            except (OSError, ConfigError) as error:  # SSLError is an OSError
                if self._contexts is None:
                    raise ConfigError(
                        f"the certificates in {self.folder} cannot be used: {error}; "
                        f"it must hold {CA}, {CERT} and {KEY} as `twinstep certs` "
                        "makes them"
                    ) from error
            return self._contexts

    def _context(self, kind: int) -> ssl.SSLContext:
        if self.key.stat().st_mode & _OTHERS:
            raise ConfigError(f"{self.key} can be read by others; chmod 600 {self.key}")
        context = ssl.SSLContext(kind)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.cert, self.key)
        if kind == ssl.PROTOCOL_TLS_SERVER:
            # Nothing is resumed, and a client that waits for nothing reads nothing.
            context.num_tickets = 0
        return context


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def find_folder(folder: Path, *, machine: str) -> Path:
    """Returns the folder that has cert.pem: this one, or the machine's within it.

    Raises: ConfigError when neither has."""
    tried = [folder, folder / machine] if machine else [folder]
    tried.append(folder / os.uname().nodename)
    for path in tried:
        if (path / CERT).is_file():
            return path
    raise ConfigError(
        f"trust.certs: there is no {CERT} in {', '.join(map(str, tried))}; "
        f"twinstep certs {folder} --machine {machine or 'NAME'} --host IP makes one"
    )
