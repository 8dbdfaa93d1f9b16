"""Decides which stored boxes make up a tensor, and by which regular grid they are cut.

Boxes of one name are the parts of one tensor, whoever's they are. Orbax keeps a tensor
as chunks of equal shape, each a run of bytes:

    machine 0's file   rows 0..3 │ rows 4..7 │ ...      boxes one after the other
                       └──── run of 8 rows ───┘         are one run
    machine 1's file   rows 8..11 │ ...                 a run of 4 rows
    the grid           chunks of 4 rows: what divides where runs begin, and all runs

Boxes lie in C order, so that a chunk is a range of a run whenever it has the run's
extent in all dimensions but the first. JAX shards evenly, and a grid is found with
chunks of a box. Where shards are uneven along the first dimension chunks are small,
where they are along another there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.store.contents import BOX_BYTES, Box

CHUNKS_MAX = 1 << 16
"""Of one tensor. Below a row each, more would cost more than the tensor."""


class Chunk(NamedTuple):
    """A cell of a tensor's grid, and the file that has it."""

    cell: tuple[int, ...]
    file: str
    at: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A tensor cut into chunks of one shape.

    Invariant: every item is in exactly one chunk; an empty tensor has no chunks."""

    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


def by_name(boxes: Iterable[Box]) -> dict[str, list[Box]]:
    """Returns the boxes of each tensor, in the order of their names' first."""
    result: dict[str, list[Box]] = {}
    for box in boxes:
        result.setdefault(box.name, []).append(box)
    return result


def made_up_of(boxes: Sequence[Box]) -> list[Box]:
    """Returns those boxes of one name that make up one tensor; none if none do. Of a
    tensor that each rank has for itself it is the lowest rank's."""
    boxes = sorted(boxes, key=lambda box: box.owner)
    dtype, shape = boxes[0].dtype, boxes[0].global_shape
    missing = math.prod(shape)
    if not missing:
        return boxes[:1]
    chosen: dict[tuple[int, ...], Box] = {}
    for box in boxes:
        same = (box.dtype, box.global_shape) == (dtype, shape)
        if missing > 0 and same and math.prod(box.shape) and box.offsets not in chosen:
            chosen[box.offsets] = box
            missing -= math.prod(box.shape)
    return [] if missing else list(chosen.values())


def even_rows(rows: int, row_bytes: int) -> int:
    """Returns how many rows a piece has, so that all pieces of `rows` are alike: the
    most that fit BOX_BYTES, unless that are far fewer than would fit. Then the next
    number that divides, which may be all."""
    room = max(1, BOX_BYTES // max(1, row_bytes))
    if rows <= room:
        return max(1, rows)
    small = [n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0]
    divisors = [*small, *(rows // n for n in reversed(small))]
    below = max(n for n in divisors if n <= room)
    return below if below * 8 >= room else min(n for n in divisors if n > room)


def grid_of(boxes: Sequence[Box]) -> Grid | str:
    """Returns the grid of what made_up_of() gives, or in words why there is none."""
    shape, dtype = boxes[0].global_shape, boxes[0].dtype
    if not math.prod(shape):
        return Grid(shape=tuple(max(1, extent) for extent in shape), chunks=())
    if not shape:
        (box,) = boxes
        chunk = Chunk((), box.file, box.data_at, box.data_bytes)
        return Grid(shape=(), chunks=(chunk,))
    first = boxes[0].shape[1:]
    for box in boxes:
        columns = zip(box.offsets[1:], first, strict=True)
        if box.shape[1:] != first or any(at % extent for at, extent in columns):
            return f"its boxes, {box.offsets} {box.shape} of {shape}, make no grid"
    runs = list(_runs(boxes))
    divisor = math.gcd(*(number for run in runs for number in (run.first, run.rows)))
    row_bytes = ITEM_BYTES[dtype] * math.prod(first)
    rows = even_rows(divisor, row_bytes)
    count = sum(run.rows // rows for run in runs)
    if count > CHUNKS_MAX:
        return f"its shards are uneven: {count} chunks, at most {CHUNKS_MAX}"
    chunks = [chunk for run in runs for chunk in run.chunks(rows, row_bytes, first)]
    return Grid(shape=(rows, *first), chunks=tuple(chunks))


@dataclass(slots=True, kw_only=True)
class _Run:
    """Rows that lie one after the other in a file."""

    first: int
    rows: int
    columns: tuple[int, ...]
    file: str
    at: int
    end: int

    def chunks(
        self, rows: int, row_bytes: int, extents: tuple[int, ...]
    ) -> Iterator[Chunk]:
        column = [n // extent for n, extent in zip(self.columns, extents, strict=True)]
        size = rows * row_bytes
        for number in range(self.rows // rows):
            cell = (self.first // rows + number, *column)
            yield Chunk(cell, self.file, self.at + number * size, size)


def _runs(boxes: Sequence[Box]) -> Iterator[_Run]:
    """Yields the runs, in the order of their columns and rows."""
    run: _Run | None = None
    for box in sorted(boxes, key=lambda box: (box.offsets[1:], box.offsets[0])):
        first, columns = box.offsets[0], box.offsets[1:]
        end = box.data_at + box.data_bytes
        if (
            run is not None
            and (run.columns, run.first + run.rows) == (columns, first)
            and (run.file, run.end) == (box.file, box.data_at)
        ):
            run.rows += box.shape[0]
            run.end = end
            continue
        if run is not None:
            yield run
        run = _Run(
            first=first,
            rows=box.shape[0],
            columns=columns,
            file=box.file,
            at=box.data_at,
            end=end,
        )
    if run is not None:
        yield run
