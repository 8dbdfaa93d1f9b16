"""Sees from outside how far a copy has come: by the memory that it is written into.

An agent's slots are files that only their owners know (memfd), and /proc leads to
them. They are mapped here for reading, and looked at in many places that lie apart.
Where all of a slot changes with every copy (ballast.py), the places that are no longer
as they were in the last whole copy tell which share has been written anew:

    slot, two copies old   aaaaaaaaaaaa
    a copy is written      cccccaaaaaaa     5 of 12: torn
    whole again            cccccccccccc

Nothing in the process that writes knows of this, nor can it be disturbed by it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import final

from twinstep.errors import UsageError

PLACES = 64
EDGE_SHARE = 0.15
"""The places are in between: at both ends may lie state that is not ballast."""
PLACE_BYTES = 8
FRESH_S = 1.0
"""A copy takes less. What is torn for longer was given up, and nobody writes it."""

Places = tuple[bytes, ...]


@dataclass(slots=True, kw_only=True)
class Progress:
    """How much of one slot has been written since the last whole copy. Pure."""

    whole: Places
    """What it was like before the copy that is under way."""
    known: bool = False
    """A copy was seen to become whole: before that, `whole` may be a torn one."""
    changed: int = 0
    untouched_s: float = field(default=-1e9)
    """When nothing was changed, for the last time."""

    def take(self, places: Places, now_s: float) -> None:
        """The slot looks like this now."""
        self.changed = sum(
            new != old for new, old in zip(places, self.whole, strict=True)
        )
        if self.changed == len(self.whole):
            self.whole, self.known, self.changed = places, True, 0
        if self.changed == 0:
            self.untouched_s = now_s

    def torn(self, now_s: float) -> bool:
        """A copy has begun here, not long ago, and is not whole."""
        return self.known and self.changed > 0 and now_s < self.untouched_s + FRESH_S

    @property
    def share(self) -> float:
        return self.changed / len(self.whole)


@final
class Eyes:
    """Watches some slots, given as files. Close it: it keeps their memory alive.

    Raises: UsageError when they are gone, or there are none."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = ExitStack()
        self._slots: list[tuple[mmap.mmap, range, Progress]] = []
        try:
            for path in paths:
                memory = self._stack.enter_context(_mapped(path))
                edge = int(len(memory) * EDGE_SHARE)
                step = max(1, (len(memory) - 2 * edge) // PLACES)
                at = range(edge, edge + PLACES * step, step)
                progress = Progress(whole=_look(memory, at))
                self._slots.append((memory, at, progress))
        except OSError as error:
            self._stack.close()
            raise UsageError(f"a slot is gone: {error}") from error
        if not self._slots:
            raise UsageError("no slot to watch: there is none yet, or no more")

    def look(self, now_s: float) -> float:
        """Returns the share that is written of a copy under way; 0.0 for none."""
        for memory, at, progress in self._slots:
            progress.take(_look(memory, at), now_s)
        shares = [p.share for _, _, p in self._slots if p.torn(now_s)]
        return max(shares, default=0.0)

    def __enter__(self) -> Eyes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slots.clear()
        self._stack.close()


def _mapped(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _look(memory: mmap.mmap, at: range) -> Places:
    return tuple(memory[place : place + PLACE_BYTES] for place in at)
