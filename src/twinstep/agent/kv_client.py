"""Reaches a key-value store that another process embeds.

One connection carries calls, one at a time; each watch has its own, and renewals of
leases have some of theirs (kv_lines.py). A call that finds
its connection closed opens another and tries again until its deadline, if doing it
twice is doing it once; a transaction is sent again only when it surely was not done,
that is, when no byte of it has left. An answer that comes too late is thrown away with
its connection: answers have no numbers, and none can be mistaken for another's.

Left out: a thread of its own. Whoever watches brings the thread.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, final

from twinstep.agent.dialing import dial
from twinstep.agent.kv import (
    Changes,
    Compare,
    Done,
    Event,
    Failed,
    Follow,
    Get,
    Got,
    Grant,
    Granted,
    Item,
    Operation,
    Renew,
    Request,
    Revoke,
    Transact,
)
from twinstep.agent.kv_lines import Lines
from twinstep.agent.kv_wire import Bounds, Frames, encode, raise_failure, responses
from twinstep.clock import monotonic_s
from twinstep.errors import ConfigError, DeadlinePassed, ProtocolError
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.handshake import Role
from twinstep.trust.streams import Connection
from twinstep.trust.wire import secure

_RETRY_S = 0.05
_CONNECT_S_MIN = 0.5
"""A watch that connects anew has this long, though its caller wants to be back sooner:
in a caller's 50 ms, a handshake on a busy computer would be begun again for ever."""


@final
class Client:
    """A key-value store behind `address`; safe to use from any thread."""

    def __init__(
        self,
        address: str,
        *,
        call_s_max: float,
        bounds: Bounds,
        credentials: Credentials,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(
                f"the key-value store's address is {address!r}; use HOST:PORT"
            )
        credentials.check_host(host)
        self._credentials = credentials
        self.address = address
        self._target = (host, int(port))
        self._call_s_max = call_s_max
        self._bounds = bounds
        self._lock = threading.Lock()
        self._watches_lock = threading.Lock()
        self._watches: set[RemoteWatch] = set()
        self._frames: Frames | None = None
        self._closed = False
        self._lines = Lines(
            lambda: Client(
                address, call_s_max=call_s_max, bounds=bounds, credentials=credentials
            )
        )

    def get(self, prefix: str) -> tuple[int, Mapping[str, Item]]:
        response = self.call(Get(prefix=prefix))
        if not isinstance(response, Got):
            raise _wrong(self.address, response)
        return response.revision, response.items

    def transact(
        self, operations: Sequence[Operation], *, when: Sequence[Compare] = ()
    ) -> tuple[bool, int]:
        request = Transact(operations=list(operations), when=list(when))
        response = self.call(request)
        if not isinstance(response, Done):
            raise _wrong(self.address, response)
        return response.done, response.revision

    def grant(self, ttl_s: float) -> RemoteLease:
        response = self.call(Grant(ttl_s=ttl_s))
        if not isinstance(response, Granted):
            raise _wrong(self.address, response)
        return RemoteLease(self, response.lease, ttl_s=ttl_s)

    def watch(self, prefix: str, *, after: int) -> RemoteWatch:
        """As the interface says; Compacted is raised by the first `next`."""
        watch = RemoteWatch(self, prefix, after, bounds=self._bounds)
        with self._watches_lock:
            self._watches.add(watch)
        return watch

    def close(self) -> None:
        self._closed = True
        self._lines.close()
        with self._watches_lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        if self._lock.acquire(timeout=self._call_s_max):
            try:
                self._drop()
            finally:
                self._lock.release()

    def forget(self, watch: RemoteWatch) -> None:
        """The watch is closed."""
        with self._watches_lock:
            self._watches.discard(watch)

    def call(self, request: Request) -> Any:
        """Returns the store's answer, by the deadline.

        Raises: what the store refused; DeadlinePassed."""
        until_s = monotonic_s() + self._call_s_max
        name = type(request).__name__.lower()
        frame = encode(request, bytes_max=self._bounds.request_bytes_max)
        if not self._lock.acquire(timeout=self._call_s_max):
            raise DeadlinePassed(
                f"{name}: earlier calls to the key-value store at {self.address} took "
                f"all of {self._call_s_max} s"
            )
        try:
            response = self._exchange(name, request, frame, until_s)
        finally:
            self._lock.release()
        if isinstance(response, Failed):
            raise_failure(response)
        return response

    def call_hedged(self, request: Request) -> Any:
        """As `call`, on further connections while there is no answer; for what may be
        done twice."""
        return self._lines.call(request, call_s_max=self._call_s_max)

    def _exchange(self, name: str, request: Request, frame: bytes, until_s: float):
        failed: Exception | None = None
        while not self._closed and monotonic_s() < until_s:
            sent = False
            try:
                frames = self._connected(until_s)
                sent = True
                frames.send(frame, until_s=until_s)
                response = frames.receive(responses, until_s=until_s)
                if response is not None:
                    return response
                self._drop()
                break
            except (OSError, ProtocolError, DeadlinePassed) as error:
                failed = error
                self._drop()
                if sent and isinstance(request, Transact):
                    break
            left_s = until_s - monotonic_s()
            time.sleep(max(0.0, min(_RETRY_S, left_s)))
        self._drop()
        raise DeadlinePassed(
            f"{name}: the key-value store at {self.address} gave no answer within "
            f"{self._call_s_max} s ({failed or 'it was silent'})"
            + ("; it may have been done" if isinstance(request, Transact) else "")
        ) from failed

    def _connected(self, until_s: float) -> Frames:
        frames = self._frames
        if frames is not None and _stale(frames.connection):
            self._drop()
            frames = None
        if frames is None:
            frames = self._frames = self.connect(until_s)
        return frames

    def connect(self, until_s: float) -> Frames:
        """Returns a new connection, proved by both ends.

        Raises: OSError, ProtocolError, DeadlinePassed."""
        left_s = max(until_s - monotonic_s(), 1e-3)
        plain = dial(*self._target, until_s=monotonic_s() + left_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = secure(
            plain,
            self._credentials,
            role=Role.STORE,
            job="",  # a client may ask the store what job it is
            limit_s=max(until_s - monotonic_s(), 1e-3),
        )
        return Frames(
            connection=connection,
            bytes_max=self._bounds.response_bytes_max,
            peer=f"the key-value store at {self.address}",
        )

    def _drop(self) -> None:
        if self._frames is not None:
            self._frames.connection.close()
            self._frames = None


@final
class RemoteLease:
    """A lease of a store behind a socket."""

    def __init__(self, client: Client, lease: int, *, ttl_s: float) -> None:
        self._client = client
        self.id, self.ttl_s = lease, ttl_s

    def renew(self) -> bool:
        response = self._client.call_hedged(Renew(lease=self.id))
        if not isinstance(response, Done):
            raise _wrong(self._client.address, response)
        return response.done

    def revoke(self) -> None:
        self._client.call(Revoke(lease=self.id))


@final
class RemoteWatch:
    """A watch over its own connection, opened again from where it was.

    Invariant: all changes up to `after` have been returned."""

    def __init__(
        self, client: Client, prefix: str, after: int, *, bounds: Bounds
    ) -> None:
        self._client = client
        self._prefix = prefix
        self.after = after
        self._bounds = bounds
        self._frames: Frames | None = None
        self._heard_s = 0.0
        self._closed = False
        self._waiting = threading.Lock()

    def next(self, timeout_s: float) -> list[Event]:
        with self._waiting:
            try:
                return self._next(timeout_s)
            finally:
                if self._closed:
                    self._drop()

    def close(self) -> None:
        self._closed = True
        self._client.forget(self)
        frames = self._frames
        if frames is not None:
            # Shut down, not closed: another thread may wait on it, and the number of
            # a closed descriptor may be somebody else's at once. It gets end of file.
            with contextlib.suppress(OSError):
                frames.connection.shutdown(socket.SHUT_RDWR)
        if self._waiting.acquire(blocking=False):
            self._drop()
            self._waiting.release()

    def _next(self, timeout_s: float) -> list[Event]:
        until_s = monotonic_s() + timeout_s
        failed: Exception | None = None
        while not self._closed:
            try:
                changes = self._receive(until_s)
            except (OSError, ProtocolError, DeadlinePassed) as error:
                self._drop()
                failed = error
                left_s = until_s - monotonic_s()
                time.sleep(max(0.0, min(_RETRY_S, left_s)))
            else:
                failed = None
                if changes is not None:
                    self.after = changes.revision
                    if changes.events:
                        return changes.events
            if monotonic_s() >= until_s:
                break
        if failed is not None and not self._closed:
            raise DeadlinePassed(
                f"watch of {self._prefix!r}: the key-value store at "
                f"{self._client.address} could not be reached for {timeout_s} s "
                f"({failed})"
            ) from failed
        return []

    def _receive(self, until_s: float) -> Changes | None:
        """Returns the next sign of the store; None at the deadline."""
        if self._frames is None:
            self._open(until_s)
        if self._closed or self._frames is None:
            return None
        wait_until_s = min(until_s, self._heard_s + self._bounds.silence_s_max)
        message = self._frames.receive(responses, until_s=wait_until_s)
        if message is None:
            silent_s = monotonic_s() - self._heard_s
            if silent_s >= self._bounds.silence_s_max:
                raise DeadlinePassed(f"silent for {silent_s:.1f} s")
            return None
        self._heard_s = monotonic_s()
        if isinstance(message, Failed):
            self._drop()
            raise_failure(message)
        if not isinstance(message, Changes):
            raise _wrong(self._client.address, message)
        return message

    def _open(self, until_s: float) -> None:
        frames = self._frames = self._client.connect(
            max(until_s, monotonic_s() + _CONNECT_S_MIN)
        )
        follow = Follow(prefix=self._prefix, after=self.after)
        frame = encode(follow, bytes_max=self._bounds.request_bytes_max)
        frames.send(frame, until_s=monotonic_s() + self._bounds.frame_s_max)
        self._heard_s = monotonic_s()

    def _drop(self) -> None:
        if self._frames is not None:
            self._frames.connection.close()
            self._frames = None


def connect(
    address: str,
    *,
    call_s_max: float = 2.0,
    bounds: Bounds | None = None,
    credentials: Credentials = NONE,
) -> Client:
    """Returns the store at HOST:PORT; the connection is opened by the first call.

    Raises: ConfigError when the address is none, or not loopback and there are no
        credentials."""
    return Client(
        address,
        call_s_max=call_s_max,
        bounds=bounds or Bounds(),
        credentials=credentials,
    )


def _stale(connection: Connection) -> bool:
    """Whether the store has closed an idle connection: nothing else can be read."""
    poll = select.poll()  # select() refuses descriptors above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _wrong(address: str, response: object) -> ProtocolError:
    return ProtocolError(
        f"the key-value store at {address} answered with {type(response).__name__}"
    )
