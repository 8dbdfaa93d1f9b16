"""Makes a call again on further connections while there is no answer.

A lost packet stops a connection until TCP sends it again, 0.2 s later and more each
time, while others work. What may be done twice (the renewal of a lease) therefore goes
out on another connection as soon as an answer is late, and the first answer counts. The
late ones are waited for meanwhile, each by a thread of its own, so that a connection
is kept: to open one costs several packets, and each may be lost.

The same is in etcd_gateway.py for etcd, with one thread and HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue
from typing import Any, Protocol, final

from twinstep.agent.kv import Request
from twinstep.agent.lifeline import prefer_thread
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, ProtocolError

LINES_MAX = 8
"""Connections, and threads, of one client; as many as calls are late at once. Only the
first is there on a link that loses nothing."""
HEDGE_S = 0.1
"""A call without an answer for so long is made on one more connection."""
GROWTH = 1.25
"""Each further one waits so much longer: eight within 1.5 s."""


class Line(Protocol):
    """A connection that carries one call at a time."""

    def call(self, request: Request) -> Any:
        """Returns the answer, by the line's deadline. Raises: DeadlinePassed."""
        ...

    def close(self) -> None: ...


_Work = tuple[Request, Future[Any]] | None


@final
class _Lined:
    """A line and the thread that waits for its answers."""

    def __init__(self, line: Line, free: Callable[[_Lined, bool], None]) -> None:
        self.line, self._free = line, free
        self.answered = True
        self._work: SimpleQueue[_Work] = SimpleQueue()
        threading.Thread(target=self._run, name="twinstep-line", daemon=True).start()

    def make(self, request: Request) -> Future[Any]:
        answer: Future[Any] = Future()
        self._work.put((request, answer))
        return answer

    def _run(self) -> None:
        prefer_thread()  # it is renewals that are hedged
        while (work := self._work.get()) is not None:
            request, answer = work
            try:
                response = self.line.call(request)
            except Exception as error:
                self._free(self, False)
                answer.set_exception(error)
            else:
                self._free(self, True)
                answer.set_result(response)

    def close(self) -> None:
        self._work.put(None)
        self.line.close()


@final
class Lines:
    """Connections of one client, opened when they are wanted; safe to use from any
    thread."""

    def __init__(self, open_line: Callable[[], Line]) -> None:
        self._open_line = open_line
        self._lock = threading.Lock()
        self._idle: list[_Lined] = []
        self._lines: list[_Lined] = []
        self._closed = False

    def call(self, request: Request, *, call_s_max: float) -> Any:
        """Returns the first answer. Raises: what the store refused; DeadlinePassed."""
        until_s = monotonic_s() + call_s_max
        flights: set[Future[Any]] = set()
        begun, next_s = 0, 0.0
        reason = "no connection was free"
        while not self._closed and (now_s := monotonic_s()) < until_s:
            if now_s >= next_s:
                line = self._take()
                if line is not None:
                    flights.add(line.make(request))
                next_s = now_s + HEDGE_S * GROWTH**begun
                begun += 1
            timeout_s = max(0.0, min(until_s, next_s) - monotonic_s())
            if not flights:
                time.sleep(timeout_s)
                continue
            done, flights = wait(flights, timeout_s, return_when=FIRST_COMPLETED)
            for flight in done:
                try:
                    return flight.result()
                except (OSError, DeadlinePassed, ProtocolError) as error:
                    reason = str(error)
        raise DeadlinePassed(
            f"{type(request).__name__.lower()}: no answer on any of "
            f"{len(self._lines)} connections within {call_s_max} s ({reason})"
        )

    def _take(self) -> _Lined | None:
        """A line that carries nothing now; None when all are busy."""
        with self._lock:
            room = not self._closed and len(self._lines) < LINES_MAX
            if self._idle and (self._idle[-1].answered or not room):
                return self._idle.pop()
            if not room:
                return None
            line = _Lined(self._open_line(), self._put_back)
            self._lines.append(line)
            return line

    def _put_back(self, line: _Lined, answered: bool) -> None:
        """Those that answered last are the first to be taken again."""
        line.answered = answered
        with self._lock:
            self._idle.insert(len(self._idle) if answered else 0, line)

    def close(self) -> None:
        """Calls end soon; nobody waits for late ones."""
        with self._lock:
            self._closed = True
            lines = list(self._lines)
        for line in lines:
            line.close()
