"""Writes an agent's lines where its output goes, and lets nobody wait for that.

Where the event log goes is not ours to choose: a file on a disk that is full, a disk or
a network file system that hangs, a pipe into a pager that somebody has left. An agent
that waited there would answer nobody, and one that stopped at an error would lose its
machine for a line. So a thread writes; lines wait in a queue with a bound, and what
cannot be written is counted, and said as soon as something can be.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from dataclasses import dataclass
from typing import final

WAITING_BYTES_MAX = 8 * 1024 * 1024
"""Some 80,000 lines that wait; a line more is lost."""
PIECE_BYTES_MAX = 4096
"""Written at once: what a pipe keeps in one piece when others write to it, too."""
CLOSE_S_MAX = 1.0
"""What waits at the end is written within this time."""


@dataclass(slots=True, kw_only=True)
class _Gap:
    """Where lines are missing."""

    lines: int
    reason: str


@final
class Outlet:
    """The way of lines to a descriptor. Any thread may write."""

    def __init__(
        self, descriptor: int = 1, *, waiting_bytes_max: int = WAITING_BYTES_MAX
    ) -> None:
        self._descriptor, self._waiting_bytes_max = descriptor, waiting_bytes_max
        self._changed = threading.Condition()
        # Invariant: no two gaps are neighbours.
        self._waiting: deque[bytes | _Gap] = deque()
        self._waiting_bytes = 0
        self._torn = False  # a line was written in part
        self._closed = False
        self._thread = threading.Thread(
            target=self._writes, name="twinstep-outlet", daemon=True
        )
        self._thread.start()

    def write(self, line: str) -> None:
        """The line waits to be written, or is counted as lost."""
        raw = line.encode(errors="replace") + b"\n"
        with self._changed:
            if self._waiting_bytes + len(raw) <= self._waiting_bytes_max:
                self._waiting.append(raw)
                self._waiting_bytes += len(raw)
                self._changed.notify()
                return
            last = self._waiting[-1] if self._waiting else None
            if not isinstance(last, _Gap):
                last = _Gap(lines=0, reason="nobody took what was before them")
                self._waiting.append(last)
            last.lines += 1

    def close(self) -> None:
        """What waited is written, or was given up after CLOSE_S_MAX."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_S_MAX)

    def _writes(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting_bytes or self._closed):
                    self._changed.wait()
                if not self._waiting:
                    return
                gap, lines = self._next()
                over = not lines  # a gap at the end: said now, or never
            notice = [f"twinstep: {gap.lines} lines are missing here: {gap.reason}\n"]
            head = "".join(notice if gap.lines else []).encode()
            why = self._put(head + b"".join(lines))
            with self._changed:
                self._waiting_bytes -= sum(map(len, lines))
                if why:
                    self._miss(_Gap(lines=gap.lines + len(lines), reason=why))
            if over:
                return

    def _next(self) -> tuple[_Gap, list[bytes]]:
        """Takes a gap, if one is next, and the lines after it that go at once."""
        gap = _Gap(lines=0, reason="")
        lines: list[bytes] = []
        size = 0
        if isinstance(first := self._waiting[0], _Gap):
            gap = first
            self._waiting.popleft()
        while self._waiting and not isinstance(line := self._waiting[0], _Gap):
            size += len(line)
            if lines and size > PIECE_BYTES_MAX:
                break
            lines.append(line)
            self._waiting.popleft()
        return gap, lines

    def _miss(self, gap: _Gap) -> None:
        if self._waiting and isinstance(after := self._waiting[0], _Gap):
            gap.lines += after.lines
            self._waiting.popleft()
        self._waiting.appendleft(gap)

    def _put(self, raw: bytes) -> str:
        """Returns why the bytes could not be written, all of them; "" if they were."""
        view = memoryview(b"\n" + raw if self._torn else raw)
        size = len(view)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # somebody has made it so: it is shared
                    poll = select.poll()
                    poll.register(self._descriptor, select.POLLOUT)
                    poll.poll()
        except OSError as error:
            self._torn = self._torn or len(view) < size
            return str(error.strerror)
        self._torn = False
        return ""
