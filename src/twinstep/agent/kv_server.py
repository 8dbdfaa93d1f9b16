"""Keeps the embedded key-value store, and serves it: on loopback, or to credentials.

`Embedded` is a ledger with a lock, a clock and a thread that looks at the clock twenty
times a second while there are leases. `serve` gives each connection a thread: an agent
has about three connections and a trial has tens of agents, so a thread is cheaper than
the code it saves. A watch keeps no queue. Each watcher has a place in the ledger's
history and reads on from there when its peer takes bytes, so that a slow one costs
nothing and, in the end, gets Compacted.

Left out: anything that outlives the process. On one computer the launcher holds the
store, and a run without its launcher is over; several computers use etcd.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import final

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
    Response,
    Revoke,
    Transact,
)
from twinstep.agent.kv_ledger import Ledger, Limits
from twinstep.agent.kv_wire import Bounds, Frames, encode, failure, requests
from twinstep.clock import monotonic_s
from twinstep.errors import ConfigError, DeadlinePassed, Refused, TwinstepError
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.gate import Gate
from twinstep.trust.handshake import Role
from twinstep.trust.streams import Connection
from twinstep.trust.wire import prove

LOOK_S = 0.05
"""How late a lease may lapse."""
_log = logging.getLogger(__name__)


@final
class Embedded:
    """The key-value store of this process; safe to use from any thread."""

    def __init__(
        self, *, limits: Limits | None = None, clock: Callable[[], float] = monotonic_s
    ) -> None:
        self._ledger = Ledger(limits=limits or Limits())
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._looker = threading.Thread(
            target=self._look, name="twinstep-kv-leases", daemon=True
        )
        self._looker.start()

    def apply(self, request: Request) -> Response:
        """Returns the ledger's answer; who watches is woken when anything changed."""
        with self._changed:
            if self._closed:
                raise Refused("the key-value store is closed")
            before = self._ledger.revision
            response = self._ledger.apply(request, self._clock())
            if self._ledger.revision != before or isinstance(request, Grant):
                self._changed.notify_all()
            return response

    def get(self, prefix: str) -> tuple[int, Mapping[str, Item]]:
        response = self.apply(Get(prefix=prefix))
        assert isinstance(response, Got)
        return response.revision, response.items

    def transact(
        self, operations: Sequence[Operation], *, when: Sequence[Compare] = ()
    ) -> tuple[bool, int]:
        request = Transact(operations=list(operations), when=list(when))
        response = self.apply(request)
        assert isinstance(response, Done)
        return response.done, response.revision

    def grant(self, ttl_s: float) -> EmbeddedLease:
        response = self.apply(Grant(ttl_s=ttl_s))
        assert isinstance(response, Granted)
        return EmbeddedLease(self, response.lease, ttl_s=ttl_s)

    def watch(self, prefix: str, *, after: int) -> EmbeddedWatch:
        watch = EmbeddedWatch(self, prefix, after)
        watch.changes(0)  # raises Compacted now, rather than at the first next
        watch.after = after
        return watch

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._looker.join(1.0)

    def wait(self, watch: EmbeddedWatch, timeout_s: float) -> Changes | None:
        """Returns what a watch has not seen, or after `timeout_s` how far it is;
        None when either is closed."""
        until_s = monotonic_s() + timeout_s
        with self._changed:
            while not (self._closed or watch.closed):
                events = self._ledger.events(watch.prefix, watch.after)
                watch.after = self._ledger.revision
                left_s = until_s - monotonic_s()
                if events or left_s <= 0:
                    return Changes(revision=watch.after, events=events)
                self._changed.wait(left_s)
            return None

    def wake(self) -> None:
        """Whoever waits looks again."""
        with self._changed:
            self._changed.notify_all()

    def _look(self) -> None:
        with self._changed:
            while not self._closed:
                self._changed.wait(LOOK_S if self._ledger.leases else None)
                before = self._ledger.revision
                self._ledger.expire(self._clock())
                if self._ledger.revision != before:
                    self._changed.notify_all()


@final
class EmbeddedLease:
    """A lease of this process's store."""

    def __init__(self, store: Embedded, lease: int, *, ttl_s: float) -> None:
        self._store = store
        self.id, self.ttl_s = lease, ttl_s

    def renew(self) -> bool:
        response = self._store.apply(Renew(lease=self.id))
        assert isinstance(response, Done)
        return response.done

    def revoke(self) -> None:
        self._store.apply(Revoke(lease=self.id))


@final
class EmbeddedWatch:
    """A place in the history of this process's store: all up to `after` is seen."""

    def __init__(self, store: Embedded, prefix: str, after: int) -> None:
        self._store = store
        self.prefix = prefix
        self.after = after
        self.closed = False

    def next(self, timeout_s: float) -> list[Event]:
        changes = self.changes(timeout_s)
        return changes.events if changes else []

    def changes(self, timeout_s: float) -> Changes | None:
        return self._store.wait(self, timeout_s)

    def close(self) -> None:
        self.closed = True
        self._store.wake()


@final
class Server:
    """An embedded store that other processes of this computer reach at `address`."""

    def __init__(
        self,
        store: Embedded,
        listener: socket.socket,
        *,
        bounds: Bounds,
        credentials: Credentials = NONE,
    ) -> None:
        self.store = store
        self._bounds = bounds
        self._credentials = credentials
        self._gate = Gate(
            credentials.limits,
            write=lambda line: _log.warning("key-value store: %s", line),
        )
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        self._acceptor = threading.Thread(
            target=self._accept, name="twinstep-kv-accept", daemon=True
        )
        self._acceptor.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No thread, connection or port is left."""
        with self._lock:
            self._closed = True
            connections = dict(self._connections)
        for connection in [self._listener, *connections]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.store.close()
        self._acceptor.join(1.0)
        for thread in connections.values():
            thread.join(1.0)
        self._listener.close()
        self._gate.flush()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                _log.warning("key-value store: cannot accept: %s", error)
                time.sleep(LOOK_S)  # out of descriptors: let some end
                continue
            thread = threading.Thread(
                target=self._attend,
                args=(connection, f"{address[0]}:{address[1]}"),
                name="twinstep-kv-peer",
                daemon=True,
            )
            with self._lock:
                full = len(self._connections) >= self._bounds.connections_max
                if full or self._closed:
                    connection.close()
                    continue
                self._connections[connection] = thread
            thread.start()

    def _attend(self, connection: socket.socket, peer: str) -> None:
        """One peer, from its proof until it goes or speaks nonsense."""
        number = self._gate.came(peer, lambda: _shut(connection))
        served = False
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            frames, request = self._admit(connection, number, peer)
            self._gate.proved(number)
            served = True
            while self._answer(frames, request):
                request = None
        except (TwinstepError, OSError) as error:
            if not served:
                self._gate.refused(number, str(error))
            elif not isinstance(error, OSError):
                self._gate.say(peer, str(error))
            # Else the peer is gone: its leases tell the others.
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _admit(
        self, connection: socket.socket, number: int, peer: str
    ) -> tuple[Frames, Request]:
        """Returns the first request of a peer that has proved itself, and its frames.

        Raises: ProtocolError, DeadlinePassed, OSError."""
        carried: Connection = connection
        handshake = self._credentials.server((Role.STORE,), job="")
        if handshake is not None:
            prove(
                connection,
                handshake,
                limit_s=self._credentials.limits.handshake_s_max,
                spoke=lambda: self._gate.spoke(number),
            )
            carried = self._credentials.carry(connection, handshake)
        bounds = self._bounds
        frames = Frames(
            connection=carried, bytes_max=bounds.request_bytes_max, peer=peer
        )
        request = frames.receive(requests, until_s=monotonic_s() + bounds.frame_s_max)
        if request is None:
            raise DeadlinePassed(f"it asked for nothing within {bounds.frame_s_max} s")
        return frames, request

    def _answer(self, frames: Frames, request: Request | None) -> bool:
        """Answers one request, `request` if it is here already; False when the
        connection is idle for too long."""
        bounds = self._bounds
        idle_until_s = monotonic_s() + bounds.idle_s_max
        while request is None:
            request = frames.receive(
                requests, until_s=monotonic_s() + bounds.frame_s_max
            )
            if request is None and frames.begun:
                raise DeadlinePassed(f"{frames.peer} did not finish its frame")
            if request is None and monotonic_s() >= idle_until_s:
                return False
        try:
            if isinstance(request, Follow):
                self._stream(frames, request)
                return False
            frame = self._encode(self.store.apply(request))
        except Refused as error:
            frame = self._encode(failure(error))
        frames.send(frame, until_s=monotonic_s() + bounds.frame_s_max)
        return True

    def _stream(self, frames: Frames, follow: Follow) -> None:
        watch = self.store.watch(follow.prefix, after=follow.after)
        timeout_s = 0.0  # the first answer comes at once: the watch is there
        while (changes := watch.changes(timeout_s)) is not None:
            frames.send(
                self._encode(changes), until_s=monotonic_s() + self._bounds.frame_s_max
            )
            timeout_s = self._bounds.progress_s

    def _encode(self, message: Response | Changes | Failed) -> bytes:
        return encode(message, bytes_max=self._bounds.response_bytes_max)


def serve(
    store: Embedded | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    bounds: Bounds | None = None,
    credentials: Credentials = NONE,
) -> Server:
    """Returns a server of the store that already listens; port 0 takes a free one.

    Raises: ConfigError when the port is in use, or `host` is not loopback and there
        are no credentials."""
    credentials.check_host(host)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the key-value store cannot listen on {host}:{port}: {error}; "
            "take another port, or 0 for a free one"
        ) from error
    listener.listen(128)
    return Server(
        store or Embedded(),
        listener,
        bounds=bounds or Bounds(),
        credentials=credentials,
    )


def _shut(connection: socket.socket) -> None:
    """Wakes the thread that waits for it, which closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
