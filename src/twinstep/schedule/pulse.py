"""The page on which a rank writes when its collectives start and end: the pulse.

The rank knows when training uses the network, the agent sends the copies. They share
one page of memory, so that the agent sees each operation within microseconds and
without a system call, and the rank is never waited for:

    rank  step_begins ─ starts ─ ends ─ starts ─ ends ─ step_begins ─ ...
    page  busy while started > ended; the operations of this step and of the last
    agent read: may I send now?       last_step: what did the step look like?

Times are of CLOCK_MONOTONIC in nanoseconds, which all processes of a host share; they
are given, as the lock is: nothing here reads a clock or knows of threads.

No read blocks the writer. A sequence number is odd while the page is being written: a
reader that finds it odd, or another one afterwards, reads again, a bounded number of
times. Words are written one by one, each in one store: struct.pack_into would clear
them all first. That a reader sees the stores in order is what x86 promises; elsewhere
a torn beat could pass, and one chunk would be sent or held back by mistake.

An operation that is still under way when a step begins ends with the old step, for
whoever reads it. In the new one it is *carried*: the rank is busy, but the operation is
not counted again, so that the n-th of a step is the same one in every step, even when
the word of the last one's end comes a moment late. One that was carried for a whole
step is taken for lost, as a work that nobody waited for: else a page could stay busy
for ever.
"""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, final

from twinstep.errors import ProtocolError

OPERATIONS_MAX = 4096
"""Listed in a step; FSDP2 makes some 3 a block. More are counted, and not listed."""
READS_MAX = 8
"""Attempts at a read that the writer disturbs. It writes for a microsecond; only a
writer that was put to sleep, or died, in it disturbs all of them."""

_WORD_BYTES = 8
_MAGIC = int.from_bytes(b"TWNPULS1", "little")
_HEAD = struct.Struct("@10Q")
_SEQUENCE_AT = struct.Struct("@8xQ")
_MAGIC_AT, _SEQUENCE, _TURN, _FED, _STEP, _BEGAN = range(6)
_STARTED, _ENDED, _CHANGED, _CARRIED = range(6, 10)

# Of a half, which has one step: steps take turns in the two.
_HALF = struct.Struct("@6Q")
_OF_STEP, _OF_BEGAN, _OF_ENDED, _OF_STARTED, _OF_FED, _OF_CARRIED = range(6)
_HALF_WORDS = 6 + 2 * OPERATIONS_MAX
_HALVES = 16  # in words

PULSE_BYTES = -(-_WORD_BYTES * (_HALVES + 2 * _HALF_WORDS) // 4096) * 4096
"""132 kB a rank, nearly all of it for steps with very many operations."""


class Beat(NamedTuple):
    """What a rank does now."""

    step: int
    """The state's step: training is on the way from it to the next."""
    began_ns: int
    started: int
    ended: int
    """Operations of this step."""
    changed_ns: int
    """When the last of them started or ended; when the step began, before the first."""
    fed: bool = True
    """Somebody tells of operations; else only of steps, and silence means nothing."""
    carried: int = 0
    """Operations of the step before that have not ended."""

    @property
    def busy(self) -> bool:
        return self.started > self.ended or self.carried > 0


class StepSeen(NamedTuple):
    """A step that is over."""

    step: int
    began_ns: int
    ended_ns: int
    operations: tuple[tuple[int, int], ...]
    """Start and end of each, in the order of their starts, inside the step."""
    overfull: bool = False
    """There were more than OPERATIONS_MAX; the rest is not listed."""
    fed: bool = True
    """Operations were told from its start to its end."""
    carried_ns: int = 0
    """Until when operations of the step before went on; 0 where there were none."""


@final
class Pulse:
    """The rank's end: writes the page, from any thread that holds no other's lock.

    Args:
      buffer: PULSE_BYTES or more, writable, zero at first.
      lock: taken for each call, sometimes twice: threading.RLock() where several
        threads call.

    Raises: ProtocolError for a buffer that is too small."""

    def __init__(
        self, buffer: memoryview, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        if buffer.nbytes < PULSE_BYTES:
            raise ProtocolError(
                f"a pulse needs a page of {PULSE_BYTES} bytes; this has {buffer.nbytes}"
            )
        self._words = buffer.cast("B")[:PULSE_BYTES].cast("Q")
        self._lock = nullcontext() if lock is None else lock
        self._sequence = self._turn = self._token = 0
        self._started = self._ended = 0
        self._fed = False
        self._half = _HALVES
        self._open: dict[int, int] = {}  # the place of its start in the page, or 0
        self._carried: set[int] = set()  # of the step before, and not in _open
        self._words[_MAGIC_AT] = _MAGIC

    @property
    def open(self) -> int:
        """Operations under way."""
        return len(self._open) + len(self._carried)

    def feeds(self, fed: bool, now_ns: int) -> None:
        """From now on operations are told, or they no longer are: none is under way."""
        with self._lock:
            self._fed = fed
            if not fed:
                self._words[self._half + _OF_FED] = 0
                for token in [*self._open, *self._carried]:
                    self.ends(token, now_ns)
            self._write(now_ns)

    def step_begins(self, step: int, now_ns: int) -> None:
        """The state is that of `step`, and training goes on from there."""
        words = self._words
        with self._lock:
            words[_SEQUENCE] = self._sequence + 1  # here, as the halves change, too
            for place in self._open.values():
                if place:
                    words[place + 1] = now_ns
            if self._carried:
                words[self._half + _OF_CARRIED] = now_ns
            words[self._half + _OF_ENDED] = now_ns
            words[self._half + _OF_STARTED] = self._started
            self._turn += 1
            self._half = half = _HALVES + self._turn % 2 * _HALF_WORDS
            words[half + _OF_STEP], words[half + _OF_BEGAN] = step, now_ns
            words[half + _OF_FED], words[half + _OF_CARRIED] = self._fed, 0
            self._started = self._ended = 0
            self._carried = set(self._open)
            self._open.clear()
            words[_TURN], words[_STEP], words[_BEGAN] = self._turn, step, now_ns
            self._write(now_ns)

    def starts(self, now_ns: int) -> int:
        """An operation is under way; returns what `ends` is told."""
        with self._lock:
            self._token += 1
            self._open[self._token] = self._list(now_ns)
            self._write(now_ns)
            return self._token

    def ends(self, token: int, now_ns: int) -> None:
        """The operation is over. One that is not known, or no longer, is left out."""
        with self._lock:
            place = self._open.pop(token, None)
            if place is not None:
                if place:
                    self._words[place + 1] = now_ns
                self._ended += 1
            elif token in self._carried:
                self._carried.remove(token)
                self._words[self._half + _OF_CARRIED] = now_ns
            else:
                return
            self._write(now_ns)

    def _list(self, now_ns: int) -> int:
        """Counts an operation, and returns where it is listed; 0 where it is not."""
        number = self._started
        self._started = number + 1
        if number >= OPERATIONS_MAX:
            return 0
        place = self._half + _HALF.size // _WORD_BYTES + 2 * number
        self._words[place] = now_ns
        return place

    def _write(self, now_ns: int) -> None:
        words = self._words
        words[_SEQUENCE] = self._sequence + 1
        words[_STARTED] = self._started
        words[_ENDED] = self._ended
        words[_CHANGED] = now_ns
        words[_CARRIED] = len(self._carried)
        words[_FED] = self._fed
        self._sequence += 2
        words[_SEQUENCE] = self._sequence


def read(buffer: memoryview) -> Beat | None:
    """Returns what the rank does now; None before its first step, and when it wrote
    during each of READS_MAX attempts."""
    head = _head(buffer)
    if head is None or not head[_TURN]:
        return None
    return Beat(
        step=head[_STEP],
        began_ns=head[_BEGAN],
        started=head[_STARTED],
        ended=head[_ENDED],
        changed_ns=head[_CHANGED],
        fed=bool(head[_FED]),
        carried=head[_CARRIED],
    )


def last_step(buffer: memoryview) -> StepSeen | None:
    """Returns the last step that is over; None before there is one, and when the rank
    was too fast for READS_MAX attempts."""
    for _ in range(READS_MAX):
        head = _head(buffer)
        if head is None or head[_TURN] < 2:
            return None
        at = _WORD_BYTES * (_HALVES + (head[_TURN] - 1) % 2 * _HALF_WORDS)
        step, began_ns, ended_ns, started, fed, carried_ns = _HALF.unpack_from(
            buffer, at
        )
        count = min(started, OPERATIONS_MAX)
        times = struct.unpack_from(f"@{2 * count}Q", buffer, at + _HALF.size)
        after = _head(buffer)
        if after is not None and after[_TURN] == head[_TURN]:
            return StepSeen(
                step=step,
                began_ns=began_ns,
                ended_ns=ended_ns,
                operations=tuple(zip(times[::2], times[1::2], strict=True)),
                overfull=started > OPERATIONS_MAX,
                fed=bool(fed),
                carried_ns=carried_ns,
            )
    return None


def _head(buffer: memoryview) -> tuple[int, ...] | None:
    for _ in range(READS_MAX):
        head = _HEAD.unpack_from(buffer)
        if head[_MAGIC_AT] != _MAGIC:
            return None
        sequence = head[_SEQUENCE]
        if sequence % 2 == 0 and _SEQUENCE_AT.unpack_from(buffer)[0] == sequence:
            return head
    return None
