"""What the boxes of a tensor leave out or hold twice, against counting of items."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings, strategies as some

from twinstep.recovery.reshard import Extent
from twinstep.stepfiles.coverage import faults_of, uncovered, volume
from twinstep.store.contents import SHARED

LEFT, RIGHT = Extent((0, 0), (2, 3)), Extent((2, 0), (2, 3))
WHOLE = Extent((0, 0), (4, 3))


@pytest.mark.parametrize(
    "boxes",
    [
        [(0, LEFT), (1, RIGHT)],
        [(0, LEFT), (1, LEFT), (2, RIGHT)],
        [(0, WHOLE), (1, WHOLE)],
        [(0, LEFT), (0, RIGHT), (1, LEFT), (1, RIGHT)],
        [(SHARED, LEFT), (SHARED, RIGHT)],
        [(0, WHOLE), (1, Extent((4, 0), (0, 3)))],
    ],
)
def test_boxes_that_make_up_a_tensor_are_no_fault(boxes) -> None:
    assert faults_of((4, 3), boxes) == []


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([(0, LEFT)], ["[2:4, 0:3] is in no file"]),
        ([], ["[0:4, 0:3] is in no file"]),
        ([(0, LEFT), (0, LEFT), (1, RIGHT)], ["rank 0 has [0:2, 0:3] twice"]),
        ([(0, WHOLE), (1, LEFT)], ["of rank 1: [2:4, 0:3] is in no file"]),
        (
            [(0, LEFT), (1, Extent((1, 0), (3, 3)))],
            ["[0:2, 0:3] and [1:4, 0:3] overlap"],
        ),
    ],
)
def test_what_is_wrong_is_said(boxes, says: list[str]) -> None:
    assert faults_of((4, 3), boxes) == says


def test_a_number_and_an_empty_tensor_are_covered() -> None:
    assert faults_of((), [(0, Extent((), ()))]) == []
    assert faults_of((), []) == ["[] is in no file"]
    assert faults_of((0, 4), []) == []


extents = some.builds(
    lambda a, b, c, d: Extent((a, b), (min(c, 5 - a), min(d, 4 - b))),
    some.integers(0, 4),
    some.integers(0, 3),
    some.integers(1, 5),
    some.integers(1, 4),
)


@settings(max_examples=40)
@given(some.lists(extents, max_size=6))
def test_missing_and_doubled_are_what_counting_finds(boxes: list[Extent]) -> None:
    count = numpy.zeros((5, 4), int)
    for (row, column), (rows, columns) in boxes:
        count[row : row + rows, column : column + columns] += 1
    missing = uncovered(Extent((0, 0), (5, 4)), boxes)
    assert sum(map(volume, missing)) == (count == 0).sum()
    owned = list(enumerate(dict.fromkeys(boxes)))
    alone = any(volume(extent) == 20 for _, extent in owned)
    if not alone:
        distinct = numpy.zeros((5, 4), int)
        for _, ((row, column), (rows, columns)) in owned:
            distinct[row : row + rows, column : column + columns] += 1
        assert bool(faults_of((5, 4), owned)) == bool((distinct != 1).any())
