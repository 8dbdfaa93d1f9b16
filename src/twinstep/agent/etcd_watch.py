"""Follows a prefix in etcd, and goes on at another member from where it was.

A watch is one endless answer, a JSON value a line. What a client of etcd hears on a
quiet prefix is nothing, which is also what a member says that is stopped, or cut off
from its leader. So a watch that heard nothing for a second reads, of the same member
and over a connection of its own, something that only a member with a leader can
answer; without an answer it opens the watch anew elsewhere, from the revision after
the last that it returned.

Left out: advancing by those reads. They are not ordered with the watch's own
connection; only what comes on that one says how far it is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import final

from twinstep.agent.etcd_gateway import BROKEN, Gateway
from twinstep.agent.etcd_http import Link, ready
from twinstep.agent.etcd_messages import (
    RANGE,
    WATCH,
    Away,
    Change,
    Json,
    TokenRefused,
    Watched,
    WatchedLine,
    decode,
    encode,
    failed,
    refusal,
)
from twinstep.agent.kv import Compacted, Event, Item
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, ProtocolError, Refused


@final
class EtcdWatch:
    """A watch of the keys that `span` names, from a prefix of all keys on.

    Invariant: all changes up to `after` have been returned."""

    def __init__(self, gateway: Gateway, span: Json, *, after: int, cut: int) -> None:
        self.after = after
        self._gateway, self._span, self._cut = gateway, span, cut
        self._stream: Link | None = None
        self._probe: Link | None = None
        self._probing = False
        self._index = 0
        self._line = bytearray()
        self._lines: deque[bytes] = deque()
        self._heard_s = 0.0
        self._alive = False
        """Whether the member has said anything on these connections."""
        self._denied = False
        self._closed = False
        self._waiting = threading.Lock()

    def next(self, timeout_s: float) -> list[Event]:
        with self._waiting:
            try:
                return self._next(timeout_s)
            finally:
                if self._ended:
                    self._drop()

    def close(self) -> None:
        self._closed = True
        for link in (self._stream, self._probe):
            if link is not None:
                link.interrupt()
        if self._waiting.acquire(blocking=False):
            self._drop()
            self._waiting.release()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def _ended(self) -> bool:
        return self._closed or self._gateway.closed

    def _next(self, timeout_s: float) -> list[Event]:
        until_s = monotonic_s() + timeout_s
        failure: Exception | None = None
        while not self._ended:
            try:
                if self._stream is None:
                    self._open()
                events = self._wait(until_s)
            except (Compacted, Refused):
                self._drop()
                raise
            except BROKEN as error:
                self._drop()
                self._gateway.leave(self._index)
                failure, self._alive = error, False
                left_s = until_s - monotonic_s()
                time.sleep(max(0.0, min(self._gateway.bounds.pause_s, left_s)))
            else:
                if events:
                    return events
                if self._alive:
                    failure = None
            if monotonic_s() >= until_s:
                break
        if failure is not None and not self._ended:
            raise DeadlinePassed(
                f"watch: etcd at {self._gateway.address} could not be reached for "
                f"{timeout_s} s ({failure})"
            ) from failure
        return []

    def _open(self) -> None:
        gateway = self._gateway
        until_s = monotonic_s() + gateway.call_s_max
        headers = gateway.headers(until_s)
        self._index = gateway.turn
        request = {
            **self._span,
            "start_revision": str(self.after + 1),
            "progress_notify": True,
        }
        self._stream = gateway.take(self._index, until_s)
        body = encode({"create_request": request})
        self._stream.send(WATCH, body, headers, until_s)
        self._heard_s = monotonic_s()

    def _wait(self, until_s: float) -> list[Event]:
        """Returns the next changes, or none at `until_s`, or when closed.

        Raises: Compacted; Refused; what says that this member is of no use."""
        assert self._stream is not None
        bounds = self._gateway.bounds
        while not self._ended:
            # Before any waiting: bytes that were received already wake nobody.
            events = self._read(self._stream)
            now_s = monotonic_s()
            if events or now_s >= until_s:
                return events
            links = [self._stream]
            look_s = self._heard_s + bounds.quiet_s
            if self._probing and self._probe is not None:
                links.append(self._probe)
                look_s = self._probe.sent_s + bounds.probe_s_max
            found = ready(links, until_s=min(until_s, look_s))
            if self._probe in found:
                self._heed()
            if not found and monotonic_s() >= look_s:
                if self._probing:
                    raise DeadlinePassed(
                        f"{self._stream.endpoint} was silent for "
                        f"{monotonic_s() - self._heard_s:.1f} s"
                    )
                self._ask()
        return []

    def _ask(self) -> None:
        """Asks the watch's own member whether it lives and has a leader."""
        gateway = self._gateway
        until_s = monotonic_s() + gateway.call_s_max
        headers = gateway.headers(until_s)
        if self._probe is None:
            self._probe = gateway.take(self._index, until_s)
        body = encode({**self._span, "limit": "1", "count_only": True})
        self._probe.send(RANGE, body, headers, until_s)
        self._probing = True

    def _heed(self) -> None:
        """Takes the answer to that."""
        assert self._probe is not None
        body = self._probe.receive(0.0)
        if body is None:
            return
        if failed(self._probe.status, body):
            self._raise(refusal(self._probe.status, body))
        self._probing, self._alive = False, True
        self._heard_s = monotonic_s()

    def _read(self, stream: Link) -> list[Event]:
        """Returns the changes of the next line that has any, if one has arrived.

        Others are left for the next time: what they say may be that it is over."""
        while True:
            while self._lines:
                events = self._take(stream, self._lines.popleft())
                if events:
                    return events
            piece = stream.read(0.0)
            if piece is None:
                return []
            self._alive, self._heard_s = True, monotonic_s()
            if piece == b"":
                if stream.status != 200:
                    self._raise(refusal(stream.status, bytes(self._line)))
                raise ConnectionError(f"{stream.endpoint} ended the watch")
            *whole, rest = piece.split(b"\n")
            for part in whole:
                self._lines.append(bytes(self._line + part))
                self._line.clear()
            self._line += rest
            if len(self._line) > self._gateway.bounds.response_bytes_max:
                raise ProtocolError(f"{stream.endpoint} sent an endless line")

    def _take(self, stream: Link, line: bytes) -> list[Event]:
        """Returns the changes of a line, after which `after` is theirs."""
        if not line:
            return []
        if failed(stream.status, line):
            self._raise(refusal(stream.status, line))
        watched = decode(line, WatchedLine).result
        if watched.canceled:
            self._cancelled(watched)
        if watched.events:
            self._denied = False
            self.after = max(change.kv.mod_revision for change in watched.events)
        elif not watched.created:
            # A sign of progress: everything up to here has been sent before it.
            self.after = max(self.after, watched.header.revision)
        return [self._event(change) for change in watched.events]

    def _cancelled(self, watched: Watched) -> None:
        if watched.compact_revision:
            raise Compacted(
                f"changes after revision {self.after} were asked for, but etcd knows "
                f"those from {watched.compact_revision} on; get the prefix again and "
                "watch from the revision that comes with it"
            )
        reason = watched.cancel_reason
        if "permission denied" in reason or "token" in reason:
            # etcd says so of a token that has expired, too.
            self._raise(TokenRefused(reason))
        raise Away(f"etcd ended the watch: {reason}", done=False)

    def _raise(self, problem: Exception) -> None:
        """Raises what a member said; a token is tried once anew."""
        if isinstance(problem, TokenRefused) and self._gateway.address.user:
            self._gateway.forget_token()
            if not self._denied:
                self._denied = True
                raise Away(str(problem), done=False)
            self._denied = False
        raise problem

    def _event(self, change: Change) -> Event:
        pair = change.kv
        return Event(
            revision=pair.mod_revision,
            key=pair.key[self._cut :].decode(),
            item=None
            if change.type == "DELETE"
            else Item(
                value=pair.value,
                created=pair.create_revision,
                changed=pair.mod_revision,
                lease=pair.lease,
            ),
        )

    def _drop(self) -> None:
        for link in (self._stream, self._probe):
            if link is not None:
                self._gateway.drop(link)
        self._stream = self._probe = None
        self._probing = False
        self._line.clear()
        self._lines.clear()
