"""Decides which pieces of a machine's copies go into which idle spans of its steps.

Algorithm 2 of GEMINI (SOSP 2023, section 5.3, doi 10.1145/3600006.3613145), corrected.
As printed it takes from a span the time that the *rest of the copy* would need instead
of the piece's, plans one copy more than is to be sent, never ends where less than the
start-up time is left of a span, and does not say which piece goes where;
tests/schedule/test_timetable.py shows each. What is kept: a piece of s bytes takes

    f(s) = startup_s + s / bytes_per_s

a span is filled up to the share `mu` of its length, so that one which turns out shorter
still holds what was planned, and pieces are no larger than one of p buffers.

    span      ├────────────── mu * length ──────────────┤       ┤
    pieces    [·│ R/p bytes ][·│ R/p bytes ][·│ the rest ]      · startup_s

The copies are filled in one after the other: for one copy no plan needs fewer spans,
since bytes that go into a rest of a span never make the others more pieces. Where one
step's spans do not do, those of the next steps are filled; `every` is how many steps
that takes. The paper sends what does not fit in the last span, whose length it takes
for endless: who carries the plan out decides that; here it is counted.

Left out: pieces of several copies in one, which would save a start-up time per copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from twinstep.schedule_settings import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way out of a machine, and in what pieces copies may take it."""

    bytes_per_s: float
    startup_s: float
    """What a piece takes beside its bytes: alpha of the paper."""
    chunk_bytes: int
    """What has a checksum of its own. Pieces are whole chunks, but for a copy's end."""
    buffer_bytes: int
    """All buffers together: R of the paper."""
    buffers: int
    """Pieces on their way at once: p of the paper."""
    piece_s_max: float = math.inf
    """No piece of more than a chunk takes longer."""

    def __post_init__(self) -> None:
        assert self.bytes_per_s > 0 and self.startup_s >= 0, self
        assert self.chunk_bytes >= 1 and self.buffers >= 1, self
        assert self.buffer_bytes // self.buffers >= self.chunk_bytes, self

    @property
    def piece_bytes(self) -> int:
        """The largest piece: whole chunks that fit into a buffer, and take no longer
        than piece_s_max unless they are one."""
        most = self.buffer_bytes // self.buffers
        in_time = (self.piece_s_max - self.startup_s) * self.bytes_per_s
        return self.whole_chunks(min(most, max(in_time, self.chunk_bytes)))

    def takes_s(self, size: int) -> float:
        """How long a piece of `size` bytes occupies the link."""
        return self.startup_s + size / self.bytes_per_s

    def fits_bytes(self, room_s: float, wanted_bytes: int) -> int:
        """The largest piece of a copy with so many bytes left that takes no longer
        than `room_s`; 0 where not even a chunk does."""
        room = min((room_s - self.startup_s) * self.bytes_per_s, self.piece_bytes)
        if wanted_bytes <= room:
            return wanted_bytes
        return self.whole_chunks(max(room, 0.0))

    def whole_chunks(self, size: float) -> int:
        return int(size // self.chunk_bytes) * self.chunk_bytes


def link(
    settings: Schedule,
    *,
    chunk_bytes: int,
    bytes_per_s: float,
    startup_s: float,
) -> Link:
    """Returns the link that settings describe; what they leave open is as measured."""
    return Link(
        bytes_per_s=settings.link_bytes_per_s or bytes_per_s,
        startup_s=settings.startup_s or startup_s,
        chunk_bytes=chunk_bytes,
        buffer_bytes=settings.buffer_bytes,
        buffers=settings.buffers,
        piece_s_max=settings.piece_s_max,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes of a copy that go into a span in one go."""

    span: int
    """Index of the span; it counts on over the steps."""
    copy: int
    """Index of the copy."""
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """What goes when. Every byte of every copy is in one piece, or counted."""

    pieces: tuple[Piece, ...]
    unfitted_bytes: int
    """What did not fit into the spans of `steps` steps."""
    steps: int
    """Steps whose spans the pieces use."""
    spans: int
    """Spans in a step."""

    @property
    def every(self) -> int:
        """The smallest k such that all copies fit into the spans of k steps; 0 where
        none does that is allowed."""
        return 0 if self.unfitted_bytes else self.steps

    def planned_bytes(self, span: int) -> int:
        """What goes into this span of a step, in the steps together."""
        return sum(p.size for p in self.pieces if p.span % self.spans == span)


def fit(
    spans: Sequence[float],
    *,
    copies_bytes: Sequence[int],
    link: Link,
    mu: float,
    every_max: int = 1,
) -> Timetable:
    """Returns which pieces of the copies go into which spans.

    Args:
      spans: the lengths of a step's idle spans, in seconds and in their order.
      copies_bytes: the sizes of the copies to send, in the order of sending: of each
        of a machine's shards m - 1 where m machines hold it.
      mu: the share of each span that may be planned with, in (0, 1].
      every_max: the spans of at most so many steps are used."""
    assert 0 < mu <= 1 and every_max >= 1, (mu, every_max)
    assert all(size >= 0 for size in copies_bytes), copies_bytes
    left = list(copies_bytes)
    pieces: list[Piece] = []
    copy = _next(left, 0)
    for step in range(every_max):
        begun = len(pieces)
        for index, length_s in enumerate(spans):
            room_s = mu * length_s
            while copy < len(left):
                size = link.fits_bytes(room_s, left[copy])
                if size == 0:
                    break  # not even a chunk: the printed form never gets past this
                pieces.append(
                    Piece(
                        span=step * len(spans) + index,
                        copy=copy,
                        offset=copies_bytes[copy] - left[copy],
                        size=size,
                    )
                )
                room_s -= link.takes_s(size)
                left[copy] -= size
                copy = _next(left, copy)
        if len(pieces) == begun:
            break  # all is placed, or nothing ever will be
    return Timetable(
        pieces=tuple(pieces),
        unfitted_bytes=sum(left),
        steps=max(1, math.ceil((pieces[-1].span + 1) / len(spans)) if pieces else 1),
        spans=len(spans),
    )


def _next(left: Sequence[int], copy: int) -> int:
    """The first copy from here that has bytes left; their number where none has."""
    while copy < len(left) and left[copy] == 0:
        copy += 1
    return copy
