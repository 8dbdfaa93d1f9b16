"""Batches that a thread makes ahead, so that training does not wait for them.

At most `ahead` batches lie ready: memory has a bound, and what is ready after a restart
is nothing, since batch k follows from k alone. How long training waited is measured
where it waits (loop.py).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

from twinstep.errors import DeadlinePassed

AHEAD = 2
WAIT_S_MAX = 600.0
"""For one batch, and for the thread at the end: reading that hangs (a folder of a
network that is away) must not hold training for ever."""
LOOK_S = 0.1
"""How often a thread that cannot hand a batch over looks whether it is to end."""


class Source(Protocol):
    """Where batches come from: number k, whoever asks, and whenever."""

    def __getitem__(self, k: int, /) -> Any: ...


class Feed:
    """Batches `start` to `stop - 1`, in order, each handed over once.

    Args:
      place: what is done with each batch in the thread: it is cut to this process's
        rows and put on devices."""

    def __init__(
        self,
        source: Source,
        *,
        start: int,
        stop: int,
        place: Callable[[Any], Any] = lambda batch: batch,
        ahead: int = AHEAD,
        wait_s_max: float = WAIT_S_MAX,
    ) -> None:
        self._source, self._place = source, place
        self._range = range(start, stop)
        self._taken, self._wait_s_max = start, wait_s_max
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._make, name="decoder-feed", daemon=True
        )
        self._thread.start()

    def take(self) -> Any:
        """Returns the next batch, and waits for it.

        Raises: whatever making it has raised; DeadlinePassed naming the batch."""
        try:
            found = self._ready.get(timeout=self._wait_s_max)
        except queue.Empty:
            raise DeadlinePassed(
                f"batch {self._taken} is not there after {self._wait_s_max:g} s; does "
                "reading the run's data hang?"
            ) from None
        self._taken += 1
        if isinstance(found, _Failed):
            raise found.error
        return found

    def close(self) -> None:
        """The thread has ended, or hangs in reading. Safe to repeat."""
        self._closed.set()
        self._thread.join(timeout=self._wait_s_max)

    def _make(self) -> None:
        for k in self._range:
            try:
                made = self._place(self._source[k])
            except Exception as error:
                made = _Failed(error)
            if not self._hand_over(made) or isinstance(made, _Failed):
                return

    def _hand_over(self, made: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(made, timeout=LOOK_S)
            except queue.Full:
                continue
            return True
        return False


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error
