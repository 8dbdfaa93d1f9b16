"""Finds what the boxes of a tensor leave out, and what they hold twice.

    rows 0 ┌─────────┐        rows 0 ┌─────────┐
           │ owner 0 │               │ owner 0 │
         3 ├─────────┤             3 ├─────────┤
           │ missing │               │ owner 1 │  begins at 2: both have row 2
         4 ├─────────┤             5 └─────────┘
           │ owner 1 │
         6 └─────────┘

Where one owner has all of a tensor, so must each that has any of it: then it is not
sharded, and every rank has its own. Otherwise all boxes together are the tensor, where
several owners may have the very same box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from twinstep.recovery.reshard import Extent, overlap, without
from twinstep.store.contents import SHARED

NAMED_MAX = 4
"""So many gaps of one tensor are named, and the rest counted."""


def faults_of(shape: tuple[int, ...], boxes: Iterable[tuple[int, Extent]]) -> list[str]:
    """Returns what is wrong with the boxes of one tensor, in words; each comes with
    its owner, a rank or SHARED, and lies inside of the tensor."""
    whole = Extent((0,) * len(shape), shape)
    total = volume(whole)
    filled = [(owner, extent) for owner, extent in boxes if volume(extent)]
    by_owner: dict[int, list[Extent]] = {}
    for owner, extent in filled:
        by_owner.setdefault(owner, []).append(extent)
    twice = [
        f"{who(owner)} has {words(extent)} twice"
        for owner, extents in by_owner.items()
        for extent in _repeated(extents)
    ]
    if twice or not total:
        return twice[:NAMED_MAX]
    alone = [sum(map(volume, extents)) >= total for extents in by_owner.values()]
    if any(alone) and len(by_owner) > 1:
        return [
            f"of {who(owner)}: {fault}"
            for owner, extents in by_owner.items()
            for fault in _inexact(whole, extents)
        ]
    return _inexact(whole, list({extent for _, extent in filled}))


def volume(extent: Extent) -> int:
    return math.prod(extent.shape)


def who(owner: int) -> str:
    return "what all ranks hold" if owner == SHARED else f"rank {owner}"


def words(extent: Extent) -> str:
    """Where a box is, as one writes slices: [0:3, 0:16]."""
    spans = zip(*extent, strict=True)
    return f"[{', '.join(f'{first}:{first + count}' for first, count in spans)}]"


def _inexact(whole: Extent, extents: Sequence[Extent]) -> list[str]:
    missing = uncovered(whole, extents)
    faults = [f"{words(gap)} is in no file" for gap in missing[:NAMED_MAX]]
    if len(missing) > NAMED_MAX:
        faults.append(f"and {len(missing) - NAMED_MAX} parts more are in no file")
    covered = volume(whole) - sum(map(volume, missing))
    if sum(map(volume, extents)) > covered:
        faults.append(_doubled(sorted(extents)))
    return faults


def uncovered(whole: Extent, extents: Iterable[Extent]) -> list[Extent]:
    """Returns the parts of `whole` that lie in none of `extents`."""
    missing: list[Extent] = []
    rest = [whole]
    for extent in sorted(extents):
        kept: list[Extent] = []
        for part in rest:
            if extent.offsets and part.offsets[0] + part.shape[0] <= extent.offsets[0]:
                missing.append(part)  # no later box begins before this one
                continue
            both = overlap(part, extent)
            kept += [part] if both is None else without(part, both)
        rest = kept
    return [*missing, *rest]


def _repeated(extents: Sequence[Extent]) -> list[Extent]:
    seen: set[Extent] = set()
    again: list[Extent] = []
    for extent in extents:
        if extent in seen:
            again.append(extent)
        seen.add(extent)
    return again


def _doubled(extents: Sequence[Extent]) -> str:
    """Names two boxes that overlap; some of these do."""
    for index, first in enumerate(extents):
        for other in extents[index + 1 :]:
            if first.offsets and other.offsets[0] >= first.offsets[0] + first.shape[0]:
                break
            if overlap(first, other) is not None:
                return f"{words(first)} and {words(other)} overlap"
    raise AssertionError("no two boxes overlap")
