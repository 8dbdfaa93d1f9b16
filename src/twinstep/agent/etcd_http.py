"""Carries requests to one etcd endpoint over a kept HTTP/1.1 connection.

A link is a socket and h11, which decides what the bytes mean and does no I/O: so
every wait here has our deadline, a request that has no answer yet can be left alone
and looked at later, and an endless answer (a watch) is read like any other. Requests
on a link go one after the other. Whether a request surely was not done is known by
how it failed: one that was not handed to the kernel whole is no whole JSON value to
etcd's gateway, which then does nothing.

Left out: HTTP/2 (one slow answer would hold up the others behind one lost packet),
proxies, redirects, compression. Names are looked up by the system's resolver, whose
deadline is its own; use addresses where that matters.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import final
from urllib.parse import parse_qsl, urlsplit

import h11

from twinstep.agent.dialing import dial
from twinstep.clock import monotonic_s
from twinstep.errors import ConfigError, DeadlinePassed, ProtocolError

_RECEIVE_BYTES = 64 * 1024
_PORT = 2379
_TCP = (
    (socket.TCP_NODELAY, 1),
    # A connection that is dead alone (a firewall forgot it) is found in 10 s: a watch
    # waits on one connection and asks after its member on another. Eight questions in a
    # row are not lost on a living link, even where a third of them is.
    (socket.TCP_KEEPIDLE, 2),
    (socket.TCP_KEEPINTVL, 1),
    (socket.TCP_KEEPCNT, 8),
)
_QUERY = ("user", "password_file", "ca", "cert", "key")
_EXAMPLE = (
    "etcd://HOST:PORT,HOST:PORT/JOB, or etcds:// for TLS, with "
    "?user=NAME&password_file=PATH&ca=PATH&cert=PATH&key=PATH as needed"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of an etcd cluster, as clients reach it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where etcd is, whose keys are meant, and what proves who we are.

    The password is in a file: an address is seen in process lists and logs."""

    endpoints: tuple[Endpoint, ...]
    prefix: str = ""
    """Before every key, so that jobs can share an etcd."""
    tls: bool = False
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __str__(self) -> str:
        return ",".join(map(str, self.endpoints))

    def password(self) -> str:
        """Read anew for each authentication, so that it can be changed.

        Raises: ConfigError."""
        assert self.password_file is not None
        try:
            return self.password_file.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"the etcd password of {self.user} cannot be read: {error}"
            ) from error

    def context(self) -> ssl.SSLContext | None:
        """Returns what TLS needs, None without TLS. Raises: ConfigError."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"TLS files for etcd (ca={self.ca}, cert={self.cert}, key={self.key}) "
                f"cannot be used: {error}"
            ) from error
        return context


def parse(address: str) -> Address:
    """Returns the parts of an address. Raises: ConfigError."""
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(query) - set(_QUERY))
    if parts.scheme not in ("etcd", "etcds") or parts.fragment or unknown:
        wrong = f"; it does not know {', '.join(unknown)}" if unknown else ""
        raise ConfigError(f"the etcd address is {address!r}{wrong}; use {_EXAMPLE}")
    if "@" in parts.netloc:
        raise ConfigError(
            "the etcd address names a user before its host, where a password would be "
            "seen by everybody; use ?user=NAME&password_file=PATH"
        )
    paths = {name: Path(query[name]) for name in _QUERY[1:] if query.get(name)}
    user, tls = query.get("user", ""), parts.scheme == "etcds"
    if bool(user) != ("password_file" in paths):
        raise ConfigError("an etcd user needs a password_file, and it a user")
    if not tls and {"ca", "cert", "key"} & set(paths):
        raise ConfigError("ca, cert and key are for TLS; begin with etcds://")
    if ("cert" in paths) != ("key" in paths):
        raise ConfigError("a client certificate for etcd needs both cert and key")
    name = parts.path.strip("/")
    return Address(
        endpoints=tuple(_endpoint(text, address) for text in parts.netloc.split(",")),
        prefix=f"twinstep/{name}/" if name else "",
        tls=tls,
        user=user,
        **paths,
    )


def _endpoint(text: str, address: str) -> Endpoint:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ConfigError(f"{text!r} in {address!r} is no HOST:PORT; use {_EXAMPLE}")
    return Endpoint(host, port or _PORT)


@final
class Link:
    """One connection to one endpoint.

    Used by one thread at a time, but for `interrupt`, which may come from any."""

    def __init__(
        self, endpoint: Endpoint, connection: socket.socket, *, bytes_max: int
    ) -> None:
        self.endpoint = endpoint
        self.sent_s = 0.0
        """When the request without an answer was sent."""
        self.status = 0
        """Of the present answer; 0 before its head has arrived."""
        self._connection = connection
        self._bytes_max = bytes_max
        self._received = bytearray()
        self._protocol = h11.Connection(our_role=h11.CLIENT)

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def stale(self) -> bool:
        """Whether the endpoint closed it while it was idle: nothing else is read."""
        return bool(ready([self], until_s=0.0))

    def send(
        self, path: str, body: bytes, headers: Iterable[tuple[str, str]], until_s: float
    ) -> None:
        """The request is handed to the kernel, whole.

        Raises: OSError, DeadlinePassed; then it surely is not done, and the link is
            of no further use."""
        left_s = until_s - monotonic_s()
        if left_s <= 0:
            raise DeadlinePassed(f"no time left to send to {self.endpoint}")
        fixed = [
            ("Host", str(self.endpoint)),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        request = h11.Request(method="POST", target=path, headers=[*fixed, *headers])
        pieces = [
            self._protocol.send(event)
            for event in (request, h11.Data(data=body), h11.EndOfMessage())
        ]
        self.sent_s, self.status = monotonic_s(), 0
        self._connection.settimeout(left_s)
        self._connection.sendall(b"".join(piece or b"" for piece in pieces))

    def receive(self, until_s: float) -> bytes | None:
        """Returns the whole answer's body, None when it is not here by `until_s`.

        Raises: OSError, ProtocolError; the link is of no further use."""
        while (piece := self.read(until_s)) is not None:
            if piece == b"":
                body = bytes(self._received)
                self._received.clear()
                return body
            self._received += piece
            if len(self._received) > self._bytes_max:
                raise ProtocolError(
                    f"{self.endpoint} answered with over {self._bytes_max} bytes; ask "
                    "for a longer prefix"
                )
        return None

    def read(self, until_s: float) -> bytes | None:
        """Returns the next piece of the answer, b"" at its end, None when nothing
        arrived by `until_s`. Raises: OSError, ProtocolError."""
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise ProtocolError(f"{self.endpoint} speaks no HTTP: {error}") from (
                    error
                )
            match event:
                case h11.NEED_DATA:
                    if not self._fill(until_s):
                        return None
                case h11.Response():
                    self.status = event.status_code
                case h11.Data() if event.data:
                    return bytes(event.data)
                case h11.EndOfMessage():
                    self._cycle()
                    return b""
                case h11.ConnectionClosed() | h11.PAUSED:
                    raise ConnectionError(f"{self.endpoint} closed the connection")
                case _:
                    pass

    def _cycle(self) -> None:
        """The next request may be sent, if the endpoint keeps the connection."""
        with contextlib.suppress(h11.LocalProtocolError):
            self._protocol.start_next_cycle()

    @property
    def reusable(self) -> bool:
        return self._protocol.our_state is h11.IDLE

    def _fill(self, until_s: float) -> bool:
        # At least one look, so that a caller who comes late gets what is there.
        self._connection.settimeout(max(until_s - monotonic_s(), 1e-6))
        try:
            piece = self._connection.recv(_RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        self._protocol.receive_data(piece)
        return True

    def interrupt(self) -> None:
        """Whoever waits on it finds its end, soon."""
        # Shut down, not closed: another thread may wait on it, and the number of a
        # closed descriptor may be somebody else's at once. SSLSocket's own shutdown
        # would turn it into a plain socket under that thread's hands.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


def connect(
    endpoint: Endpoint,
    context: ssl.SSLContext | None,
    *,
    connect_s_max: float,
    bytes_max: int,
) -> Link:
    """Returns a new link, its TLS handshake done. Raises: OSError."""
    until_s = monotonic_s() + connect_s_max
    connection = dial(endpoint.host, endpoint.port, until_s=until_s)
    connection.settimeout(connect_s_max)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _TCP:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        if context is not None:
            connection = context.wrap_socket(connection, server_hostname=endpoint.host)
    except BaseException:
        connection.close()
        raise
    return Link(endpoint, connection, bytes_max=bytes_max)


def ready(links: Sequence[Link], *, until_s: float) -> list[Link]:
    """Returns those that have something to read, waiting for one until then."""
    poll = select.poll()  # select() refuses descriptors above 1023
    by_number = {link.fileno(): link for link in links}
    for number in by_number:
        poll.register(number, select.POLLIN)
    wait_ms = max(0, ceil((until_s - monotonic_s()) * 1000))
    return [by_number[number] for number, _ in poll.poll(wait_ms)]
