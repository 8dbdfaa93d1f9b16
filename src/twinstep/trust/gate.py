"""Where accepted connections wait until they have proved themselves.

A gate counts them, makes room by dropping the oldest silent one, and writes about
strangers: a bounded number of lines, each with who and why. Used by the agent's loop
and by the threads of the key-value store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from twinstep.clock import monotonic_s
from twinstep.config import Trust
from twinstep.trust.strangers import Lines, Waiting


@final
class Gate:
    """The strangers of one listening socket; safe to use from any thread."""

    def __init__(self, limits: Trust, *, write: Callable[[str], None]) -> None:
        self._waiting = Waiting(strangers_max=limits.strangers_max)
        self._lines = Lines(lines_max=limits.strangers_lines_max)
        self._write = write
        self._lock = threading.Lock()
        self._number = 0
        self._drops: dict[int, tuple[str, Callable[[], None]]] = {}

    def came(self, peer: str, drop: Callable[[], None]) -> int:
        """A connection was accepted; `drop` is called, once, if it must make room."""
        with self._lock:
            self._number += 1
            number = self._number
            oldest = self._waiting.came(number)
            dropped = None if oldest is None else self._drops.pop(oldest)
            self._drops[number] = peer, drop
        if dropped is not None:
            room = self._waiting.strangers_max
            self.say(dropped[0], f"it has not proved itself, and {room} others wait")
            dropped[1]()
        return number

    def spoke(self, number: int) -> None:
        """It has sent what may be the beginning of a proof."""
        with self._lock:
            self._waiting.spoke(number)

    def proved(self, number: int) -> None:
        """It is no stranger any more."""
        with self._lock:
            self._waiting.gone(number)
            self._drops.pop(number, None)

    def refused(self, number: int, reason: str) -> None:
        """Its connection ends; a line says so, unless it was dropped before."""
        with self._lock:
            self._waiting.gone(number)
            known = self._drops.pop(number, None)
        if known is not None:
            self.say(known[0], reason)

    def flush(self) -> None:
        """A line is written about those there was no line for, if it may be."""
        with self._lock:
            line = self._lines.rest(monotonic_s())
        if line is not None:
            self._write(line)

    def say(self, peer: str, reason: str) -> None:
        """A line about one that was dropped is written, if it may be."""
        with self._lock:
            line = self._lines.say(peer, reason, monotonic_s())
        if line is not None:
            self._write(line)
