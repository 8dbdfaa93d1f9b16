"""Each chunk of a grid is the range of a file that holds those very numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from hypothesis import given, settings, strategies as some

from twinstep.store import chunks
from twinstep.store.chunks import Grid, even_rows, grid_of, made_up_of
from twinstep.store.contents import BOX_BYTES, Box


def box(data: np.ndarray, whole: tuple[int, ...], offsets: Any, file: str, at: int):
    return Box(
        name="w",
        dtype="int32",
        global_shape=whole,
        offsets=offsets,
        shape=data.shape,
        owner=0,
        file=file,
        at=at,
        size=data.nbytes,
        data_at=at,
        data_bytes=data.nbytes,
        digest=bytes(16),
    )


@settings(max_examples=60, deadline=None)
@given(
    some.lists(some.integers(1, 5), min_size=1, max_size=4),
    some.integers(1, 3),
    some.integers(1, 3),
    some.randoms(use_true_random=False),
    some.sampled_from([4, 40, BOX_BYTES]),
)
def test_chunks_make_up_the_array(
    heights: list[int], columns: int, width: int, random: Any, box_bytes: int
) -> None:
    """Boxes of any heights, in any order, in two files, some with a gap before them."""
    shape = (sum(heights), columns * width)
    array = np.arange(math.prod(shape), dtype="<i4").reshape(shape)
    files = {"a": b"", "b": b""}
    firsts = [sum(heights[:index]) for index in range(len(heights))]
    places = list(itertools.product(zip(firsts, heights, strict=True), range(columns)))
    if random.random() < 0.5:
        random.shuffle(places)
    boxes: list[Box] = []
    for (first, height), column in places:
        file = random.choice("aab")
        files[file] += bytes(random.choice([0, 0, 4]))
        area = array[first : first + height, column * width : (column + 1) * width]
        offsets = (first, column * width)
        boxes.append(box(area, shape, offsets, file, len(files[file])))
        files[file] += area.tobytes()
    before, chunks.BOX_BYTES = chunks.BOX_BYTES, box_bytes
    try:
        grid = grid_of(made_up_of(boxes))
    finally:
        chunks.BOX_BYTES = before
    assert isinstance(grid, Grid)
    found = np.full(shape, -1, "<i4")
    rows = grid.shape[0]
    for chunk in grid.chunks:
        data = files[chunk.file][chunk.at : chunk.at + chunk.size]
        first, left = chunk.cell[0] * rows, chunk.cell[1] * width
        target = found[first : first + rows, left : left + width]
        assert (target == -1).all(), "no number is in two chunks"
        target[:] = np.frombuffer(data, "<i4").reshape(rows, width)
    assert (found == array).all()


@settings(max_examples=60)
@given(some.integers(1, 10**9), some.integers(0, 10**9))
def test_pieces_are_alike_and_as_large_as_they_may_be(
    rows: int, row_bytes: int
) -> None:
    piece = even_rows(rows, row_bytes)
    assert rows % piece == 0
    room = max(1, BOX_BYTES // max(1, row_bytes))
    assert piece == rows or piece * 8 >= room
    larger = (n for n in range(piece + 1, min(room, piece + 1000) + 1) if rows % n == 0)
    assert next(larger, None) is None


def test_of_a_tensor_that_each_rank_has_it_is_the_lowest_ranks() -> None:
    one, data = box(np.zeros(3, "<i4"), (3,), (0,), "a", 0), np.zeros(2, "<i4")
    assert made_up_of([one, one]) == [one]
    assert made_up_of([box(data, (3,), (0,), "a", 0)]) == [], "a row is missing"
