"""Every item of a wanted box comes from one place, or is said to be missing."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from hypothesis import given, strategies
from hypothesis.strategies import DrawFn

from twinstep.recovery.reshard import (
    Extent,
    Plan,
    StoredTensor,
    StoredTensors,
    extent_of,
    overlap,
    plan_of,
    without,
)
from twinstep.store.contents import SHARED, Box

Array = numpy.ndarray[Any, Any]


def box(
    extent: Extent, whole: tuple[int, ...], *, owner: int = 0, **changes: Any
) -> Box:
    size = math.prod(extent.shape)
    given = {
        "name": "model.weight",
        "dtype": "uint8",
        "global_shape": whole,
        "offsets": extent.offsets,
        "shape": extent.shape,
        "owner": owner,
        "file": f"{owner}.distcp",
        "at": 0,
        "size": size,
        "data_at": 0,
        "data_bytes": size,
        "digest": b"same",
    }
    return Box(**(given | changes))


@strategies.composite
def extents(draw: DrawFn, whole: tuple[int, ...]) -> Extent:
    spans = [
        sorted((draw(strategies.integers(0, n)), draw(strategies.integers(0, n))))
        for n in whole
    ]
    return Extent(tuple(a for a, _ in spans), tuple(b - a for a, b in spans))


wholes = strategies.lists(strategies.integers(1, 6), max_size=3).map(tuple)


def part(array: Array, extent: Extent) -> Array:
    slices = zip(*extent, strict=True)
    return array[(*(slice(first, first + count) for first, count in slices), ...)]


@given(data=strategies.data(), whole=wholes)
def test_overlap_and_what_is_left_are_those_of_arrays(
    data: strategies.DataObject, whole: tuple[int, ...]
) -> None:
    a, b = data.draw(extents(whole)), data.draw(extents(whole))
    both = numpy.zeros(whole, int)
    part(both, a)[...] += 1
    part(both, b)[...] += 1
    found = overlap(a, b)
    assert (found is not None) == bool((both == 2).any())
    if found is not None:
        assert (part(both, found) == 2).all()
        assert part(both, found).size == (both == 2).sum()
        marks = numpy.zeros(whole, int)
        for piece in [found, *without(a, found)]:
            part(marks, piece)[...] += 1
        assert (part(marks, a) == 1).all()
        assert marks.sum() == part(marks, a).size


def carried_out(plan: Plan, items: Array, wanted: Extent) -> tuple[Array, Array]:
    """Returns what arrives in the wanted box, and how often each item does."""
    target = numpy.full(wanted.shape, -1)
    times = numpy.zeros(wanted.shape, int)
    for copy in plan.copies:
        target[copy.target] = part(items, extent_of(copy.box))[copy.source]
        times[copy.target] += 1
    return target, times


@given(data=strategies.data(), whole=wholes)
def test_each_item_comes_once_and_from_its_own_place(
    data: strategies.DataObject, whole: tuple[int, ...]
) -> None:
    items = numpy.arange(math.prod(whole)).reshape(whole)
    stored = data.draw(strategies.lists(extents(whole), min_size=1, max_size=8))
    boxes = [box(extent, whole, owner=rank) for rank, extent in enumerate(stored)]
    wanted = data.draw(extents(whole))
    there = numpy.zeros(whole, bool)
    for extent in stored:
        part(there, extent)[...] = True
    near, _ = StoredTensor(boxes).plan(wanted, owner=data.draw(strategies.integers(0)))
    for plan in (plan_of(wanted, boxes), near):
        target, times = carried_out(plan, items, wanted)
        assert (times == part(there, wanted)).all()
        assert (target[times == 1] == part(items, wanted)[times == 1]).all()
        lost = numpy.zeros(whole, int)
        for extent in plan.missing:
            part(lost, extent)[...] += 1
        assert (part(lost, wanted) == ~part(there, wanted)).all()
        assert lost.sum() == (~part(there, wanted)).sum()


def rows(owner: int, first: int, count: int, **changes: Any) -> Box:
    return box(Extent((first, 0), (count, 2)), (6, 2), owner=owner, **changes)


def test_the_picture_of_the_docstring() -> None:
    plan = plan_of(Extent((2, 0), (2, 2)), [rows(1, 3, 3), rows(0, 0, 3)])
    found = [(c.box.owner, c.source[0], c.target[0]) for c in plan.copies]
    assert found == [(0, slice(2, 3), slice(0, 1)), (1, slice(0, 1), slice(1, 2))]
    assert plan.missing == []


def test_what_the_owner_has_is_not_mixed_with_that_of_others() -> None:
    boxes = [rows(owner, first, 3) for owner in (0, 1) for first in (0, 3)]
    tensor = StoredTensor(boxes)
    for owner in (0, 1):
        plan, own = tensor.plan(Extent((1, 0), (4, 2)), owner=owner)
        assert own
        assert {copy.box.owner for copy in plan.copies} == {owner}
    plan, own = tensor.plan(Extent((1, 0), (4, 2)), owner=2)
    assert not own
    assert len(plan.copies) == 2


def test_what_all_hold_alike_is_everybodys() -> None:
    tensor = StoredTensor([rows(SHARED, 0, 6)])
    assert tensor.held_by(7)
    assert tensor.plan(Extent((0, 0), (6, 2)), owner=7)[1]
    assert not StoredTensor([rows(0, 0, 6)]).held_by(7)


@pytest.mark.parametrize(
    ("digests", "differ"), [((b"a", b"a"), False), ((b"a", b"b"), True)]
)
def test_tensors_that_are_each_rank_s_own_are_told_from_parts(
    digests: tuple[bytes, ...], differ: bool
) -> None:
    boxes = [rows(rank, 0, 6, digest=digest) for rank, digest in enumerate(digests)]
    assert StoredTensor(boxes).has_versions() == differ
    parts = [rows(0, 0, 3, digest=b"a"), rows(1, 3, 3, digest=b"b")]
    assert not StoredTensor(parts).has_versions()


def test_a_name_may_be_another_tensor_on_each_rank() -> None:
    long = box(Extent((0,), (9,)), (9,), owner=1)
    tensors = StoredTensors([box(Extent((0,), (4,)), (4,), owner=0), long])
    assert list(tensors.names) == ["model.weight"]
    assert tensors.of("model.weight", owner=0).global_shape == (4,)
    assert tensors.of("model.weight", owner=1).global_shape == (9,)
    assert tensors.of("model.weight", owner=2).global_shape == (4,)


def test_a_tensor_without_some_of_its_bytes_is_not_complete() -> None:
    assert StoredTensor([rows(0, 0, 3), rows(1, 3, 3)]).is_complete()
    assert not StoredTensor([rows(0, 0, 3)]).is_complete()
