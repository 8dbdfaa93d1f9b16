"""Steps of a tree of arrays that ranks hold shards of, as an adapter for JAX lays them.

Each machine has one rank. An array is cut evenly over the ranks along each dimension as
often as it is said; what is not cut is held by all alike, in the shared region.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twinstep.capture.manifest import (
    Entry,
    StaticPart,
    aligned,
    encode_entries,
    encode_manifest,
    read_manifest,
    write_head,
)
from twinstep.capture.plain import Blob, encode_plain
from twinstep.capture.snapshot import cut
from twinstep.store.contents import Contents, Form, folder_name, part_name
from twinstep.store.places import Disk
from twinstep.store.writing import Holding, make_whole, write_part

HEAD = 16384
Cut = tuple[int, ...]


def boxes(shape: Cut, cuts: Cut) -> list[tuple[Cut, Cut]]:
    """Offsets and shapes of all shards, in the ranks' order."""
    extents = [-(-n // parts) for n, parts in zip(shape, cuts, strict=True)]
    found: list[tuple[Cut, Cut]] = []
    for cell in itertools.product(*map(range, cuts)):
        first = [min(c * e, n) for c, e, n in zip(cell, extents, shape, strict=True)]
        ends = [min(f + e, n) for f, e, n in zip(first, extents, shape, strict=True)]
        sizes = tuple(end - f for f, end in zip(first, ends, strict=True))
        found.append((tuple(first), sizes))
    return found


def _kept(value: object) -> Blob | None:
    return value if isinstance(value, Blob) else None


class Laid:
    """What the ranks of a job hold of some arrays."""

    def __init__(
        self, arrays: Mapping[str, tuple[np.ndarray, Cut]], ranks: int
    ) -> None:
        self.ranks = ranks
        self.shared = bytearray()
        self.own = [bytearray(HEAD) for _ in range(ranks)]
        self.entries: list[list[Entry]] = [[] for _ in range(ranks)]
        for name, (array, cuts) in arrays.items():
            for rank in range(ranks):
                self._lay(name, array, cuts, rank)

    def _lay(self, name: str, array: np.ndarray, cuts: Cut, rank: int) -> None:
        cells = boxes(array.shape, cuts)
        alike = len(cells) == 1
        offsets, shape = cells[rank % len(cells)]
        area = tuple(slice(f, f + n) for f, n in zip(offsets, shape, strict=True))
        data = np.ascontiguousarray(array[area]).tobytes()
        region = self.shared if alike else self.own[rank]
        if not alike or rank == 0:
            region += bytes(aligned(len(region)) - len(region))
            at = len(region)
            region += data
        else:
            at = next(e.offset for e in self.entries[0] if e.name == name)
        self.entries[rank].append(
            Entry(
                name=name,
                dtype=str(array.dtype),
                global_shape=array.shape,
                box_offsets=offsets,
                box_shape=shape,
                offset=at,
                size=len(data),
                region="shared" if alike else "own",
                replica=rank // len(cells) if not alike else 0,
            )
        )

    def slot(self, rank: int, step: int, values: Any) -> memoryview:
        static = StaticPart(
            head_bytes=HEAD,
            own_bytes=len(self.own[rank]),
            shared_bytes=len(self.shared),
            entries=encode_entries(self.entries[rank]),
        )
        encoded = encode_plain(values, path="values", to_blob=_kept)
        view = memoryview(bytearray(self.own[rank]))
        write_head(view, encode_manifest(static, step=step, values=encoded))
        return view

    def ranges(self) -> list[memoryview]:
        whole = memoryview(bytes(self.shared))
        spans = [
            cut(len(whole), parts=self.ranks, index=rank) for rank in range(self.ranks)
        ]
        return [whole[span.start : span.stop] for span in spans]


def write_tree(
    storage: Path,
    arrays: Mapping[str, tuple[np.ndarray, Cut]],
    *,
    ranks: int,
    plain: Mapping[str, Any] | None = None,
    empty: Mapping[str, str] | None = None,
    step: int = 12,
    form: Form = "orbax",
) -> tuple[Path, Contents]:
    """Returns the folder of a whole step that `ranks` machines wrote, and its table."""
    laid = Laid(arrays, ranks)
    values = {
        "framework": "jax",
        "others": dict(plain or {}),
        "empty": dict(empty or {}),
    }
    slots = [laid.slot(rank, step, values) for rank in range(ranks)]
    return write_slots(storage, slots, laid.ranges(), step=step, form=form)


def write_slots(
    storage: Path,
    slots: Sequence[memoryview],
    shared: Sequence[memoryview],
    *,
    step: int,
    form: Form = "orbax",
) -> tuple[Path, Contents]:
    """Returns the folder of a whole step that the slots' machines wrote, and its table.
    Each machine has one rank."""
    names: list[str] = []
    for rank, own in enumerate(slots):
        holding = Holding(
            step=step,
            captured_in=1,
            machines=len(slots),
            ranks_per_machine=1,
            index=rank,
            parts=len(slots),
            own={rank: (read_manifest(own), own)},
            shared=shared,
            form=form,
        )
        names.append(part_name(round=1, term=1, machine_rank=rank))
        write_part(Disk(storage), holding, name=names[-1], now_s=1e9)
    whole = make_whole(Disk(storage), step=step, names=names)
    return storage / folder_name(step), whole
