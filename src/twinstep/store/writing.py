"""Writes a machine's part of a step to storage, and makes a step of all the parts.

Every byte is written by one machine: what a rank owns by the rank's machine (of a box
that several ranks hold, by the first of them), what all ranks hold alike by all
machines in equal portions. The bytes go from the slots where they lie into the file,
tile by tile, hashed on the way; nothing else of the size of the state is held.

A step appears when its table of contents does, which is written last, after every
machine has said that its part is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

from twinstep.capture.manifest import (
    ITEM_BYTES,
    Entry,
    Manifest,
    values_of,
)
from twinstep.capture.snapshot import cut
from twinstep.store import contents as stored
from twinstep.store.archive import archive_plain
from twinstep.store.chunks import even_rows
from twinstep.store.contents import (
    SHARED,
    Box,
    Contents,
    File,
    Form,
    Leaf,
    Plain,
    Values,
)
from twinstep.store.flattened import of_trees, plain_items
from twinstep.store.orbax import leaves_of
from twinstep.store.places import Output, Place
from twinstep.store.publishing import around, published

TILE_BYTES = 1 << 20
"""Hashed and then written at a time, while it is in the cache."""
PART_BYTES_MAX = 1 << 31

Pace = Callable[[int], None]
"""Called before so many bytes are written; may wait, and raises to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one machine has of a step, in memory."""

    step: int
    captured_in: int
    machines: int
    ranks_per_machine: int
    index: int
    parts: int
    """Which portion of what all ranks hold alike it writes, of how many; -1: none."""
    own: dict[int, tuple[Manifest, memoryview]]
    """Per rank that it writes the state of: its manifest, and the own slot that begins
    with that."""
    shared: Sequence[memoryview]
    """The ranges of the shared region, in order; empty where nothing is shared."""
    form: Form = "dcp"


def write_part(
    place: Place,
    holding: Holding,
    *,
    name: str,
    now_s: float,
    pace: Pace = lambda _bytes: None,
) -> Contents:
    """The machine's data file and the list of what is in it are durable afterwards;
    returns that list. `name` starts the names of both (contents.part_name).

    Raises: OSError when the place cannot take it, and what `pace` raises; the step's
    folder has no new file then."""
    folder = stored.folder_name(holding.step)
    form = holding.form
    data = name + stored.DATA[form]
    with place.create(f"{folder}/{data}") as output:
        writer = ItemWriter(output=output, file=data, pace=pace, form=form)
        for rank, (manifest, own) in sorted(holding.own.items()):
            writer.values(rank, manifest.values)
            for entry in manifest.entries:
                if entry.region == "own" and entry.replica == 0:
                    for box, span in boxes_of(entry, form=form):
                        writer.box(box, rank, [own[span.start : span.stop]])
        manifest = next(iter(holding.own.values()))[0]
        for box, span in portion(
            manifest.entries, parts=holding.parts, index=holding.index, form=form
        ):
            writer.box(box, SHARED, list(_pieces(span, manifest, holding.shared)))
        if 0 in holding.own:
            manifest = holding.own[0][0]
            names = [entry.name for entry in manifest.entries]
            writer.plain(values_of(manifest), names)
    part = Contents(
        step=holding.step,
        captured_in=holding.captured_in,
        machines=holding.machines,
        ranks_per_machine=holding.ranks_per_machine,
        written_s=now_s,
        files=[File(name=data, size=writer.at)],
        boxes=writer.boxes,
        values=writer.values_at,
        plain=writer.plain_at,
        tied=writer.tied,
        form=form,
        leaves=writer.leaves,
        trees=writer.trees,
    )
    try:
        with place.create(f"{folder}/{name}{stored.PART}") as output:
            output.write(stored.encode(part))
    except BaseException:
        with contextlib.suppress(OSError):
            place.remove(folder, [data])
        raise
    return part


def make_whole(place: Place, *, step: int, names: Iterable[str]) -> Contents:
    """All parts are one step afterwards, for twinstep and for whom its form is.

    Args:
      names: how the names of each machine's files start, by machine rank.

    Raises: OSError, ProtocolError; nothing appears then."""
    folder = stored.folder_name(step)
    lists = [f"{name}{stored.PART}" for name in names]
    whole = stored.merge(
        stored.decode(place.read_whole(f"{folder}/{name}", bytes_max=PART_BYTES_MAX))
        for name in lists
    )
    for name, encoded in (
        (stored.CONTENTS, stored.encode(whole)),
        *published(whole).items(),
    ):
        with place.create(f"{folder}/{name}") as output:
            output.write(encoded)
    place.remove(folder, lists)
    return whole


def form_of(manifest: Manifest) -> Form:
    """Returns whose checkpoint a rank's framework reads. Raises: ProtocolError."""
    return "orbax" if of_trees(values_of(manifest)) else "dcp"


def boxes_of(entry: Entry, *, form: Form = "dcp") -> Iterator[tuple[Entry, range]]:
    """Yields the parts of an entry, cut along its first dimension, each with its bytes
    in the entry's region. For Orbax all parts are alike, so that they make a grid."""
    rows = entry.box_shape[0] if entry.box_shape else 1
    row_bytes = entry.size // rows if rows else 0
    step = max(1, stored.BOX_BYTES // row_bytes) if row_bytes else max(1, rows)
    if form == "orbax":
        step = even_rows(rows, row_bytes)
    for first in range(0, rows, step) if rows else (0,):
        count = min(step, rows - first)
        at = entry.offset + first * row_bytes
        span = range(at, at + count * row_bytes)
        if count == rows:
            yield entry, range(entry.offset, entry.offset + entry.size)
            continue
        yield (
            msgspec.structs.replace(
                entry,
                box_offsets=(entry.box_offsets[0] + first, *entry.box_offsets[1:]),
                box_shape=(count, *entry.box_shape[1:]),
                offset=at,
                size=len(span),
            ),
            span,
        )


def portion(
    entries: Iterable[Entry], *, parts: int, index: int, form: Form = "dcp"
) -> Iterator[tuple[Entry, range]]:
    """Yields those boxes of the shared entries that machine `index` of `parts` writes:
    every box is in one portion, and none is further from its fair share than a box."""
    shared = [
        box for e in entries if e.region == "shared" for box in boxes_of(e, form=form)
    ]
    total = sum(len(span) for _, span in shared)
    before = 0
    for box, span in shared:
        middle = before + len(span) / 2
        if min(parts - 1, int(middle * parts / total) if total else 0) == index:
            yield box, span
        before += len(span)


@dataclass(slots=True, kw_only=True)
class ItemWriter:
    """Writes items one after the other, and notes where they are."""

    output: Output
    file: str
    pace: Pace
    form: Form
    at: int = 0
    boxes: list[Box] = field(default_factory=list[Box])
    values_at: list[Values] = field(default_factory=list[Values])
    plain_at: list[Plain] = field(default_factory=list[Plain])
    leaves: list[Leaf] = field(default_factory=list[Leaf])
    trees: bool = False
    tied: dict[str, str] = field(default_factory=dict[str, str])

    def box(self, entry: Entry, owner: int, pieces: list[memoryview]) -> None:
        assert sum(map(len, pieces)) == entry.size, (entry, pieces)
        assert entry.dtype in ITEM_BYTES
        prefix, suffix = around(self.form, entry.dtype, entry.box_shape)
        first = self.at
        self._write(prefix)
        data_at, digest = self.at, xxhash.xxh3_128()
        for piece in pieces:
            for start in range(0, len(piece), TILE_BYTES):
                tile = piece[start : start + TILE_BYTES]
                digest.update(tile)
                self._write(tile)
        self._write(suffix)
        self.boxes.append(
            Box(
                name=entry.name,
                dtype=entry.dtype,
                global_shape=entry.global_shape,
                offsets=entry.box_offsets,
                shape=entry.box_shape,
                owner=owner,
                file=self.file,
                at=first,
                size=self.at - first,
                data_at=data_at,
                data_bytes=entry.size,
                digest=digest.digest(),
            )
        )

    def values(self, rank: int, data: bytes) -> None:
        digest = xxhash.xxh3_128_digest(data)
        self.values_at.append(
            Values(rank=rank, file=self.file, at=self.at, size=len(data), digest=digest)
        )
        self._write(data)

    def plain(self, values: dict[str, Any], names: Iterable[str]) -> None:
        """What others read of rank 0's values, decoded, without twinstep. `names` are
        those of its tensors."""
        self.tied = dict(values.get("tied", {}))
        self.trees = of_trees(values)
        items = plain_items(values, names)
        if self.form == "orbax":
            self.leaves = leaves_of(items, values.get("empty", {}))
            return
        for path, value in items:
            data = archive_plain(value)
            self.plain_at.append(
                Plain(path=path, file=self.file, at=self.at, size=len(data))
            )
            self._write(data)

    def _write(self, data: memoryview | bytes) -> None:
        self.pace(len(data))
        self.output.write(data)
        self.at += len(data)


def _pieces(
    span: range, manifest: Manifest, views: Sequence[memoryview]
) -> Iterator[memoryview]:
    """Yields the bytes of a span of the shared region, which ranges may cut."""
    for index, view in enumerate(views):
        held = cut(manifest.shared_bytes, parts=len(views), index=index)
        both = range(max(span.start, held.start), min(span.stop, held.stop))
        if both:
            yield view[both.start - held.start : both.stop - held.start]
