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
        self._contexts: dict[tuple[bool, tuple[str, ...]], ssl.SSLContext] = {}

    @property
    def ca(self) -> Path:
        return self.folder / CA

    @property
    def cert(self) -> Path:
        return self.folder / CERT

    @property
    def key(self) -> Path:
        return self.folder / KEY

    def check(self) -> None:
        """The files can be used. Raises: ConfigError."""
        self.context(server=True, protocols=("twinstep",))

    def context(self, *, server: bool, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """Returns the context of accepted (`server`) or outgoing connections that are
        for one of `protocols`.

        Raises: ConfigError when there never were certificates that can be used."""
        wanted = (server, protocols)
        with self._lock:
            try:
                seen = tuple(_stamp(path) for path in (self.ca, self.cert, self.key))
                if seen != self._seen:
                    fresh = {key: self._make(*key) for key in (*self._contexts, wanted)}
                    self._contexts, self._seen = fresh, seen
                elif wanted not in self._contexts:
                    self._contexts[wanted] = self._make(*wanted)
            except (OSError, ConfigError) as error:  # SSLError is an OSError
                if wanted not in self._contexts:
                    raise ConfigError(
                        f"the certificates in {self.folder} cannot be used: {error}; "
                        f"it must hold {CA}, {CERT} and {KEY} as `twinstep certs` "
                        "makes them"
                    ) from error
            return self._contexts[wanted]

    def _make(self, server: bool, protocols: tuple[str, ...]) -> ssl.SSLContext:
        if self.key.stat().st_mode & _OTHERS:
            raise ConfigError(f"others can read {self.key}; chmod 600 {self.key}")
        kind = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(kind)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.cert, self.key)
        context.set_alpn_protocols(list(protocols))
        if server:
            context.num_tickets = 0  # nothing is resumed
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
