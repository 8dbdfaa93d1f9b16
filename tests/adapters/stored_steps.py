"""A stored step in memory, made of the slots that a run's ranks captured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from tests.adapters.small_runs import Slots
from twinstep.capture.manifest import Entry, Manifest, read_manifest
from twinstep.errors import Corrupt
from twinstep.store.contents import SHARED, Box, Contents, File, Values, decode, encode


@dataclass(kw_only=True)
class InMemory:
    """Satisfies StoredStep; counts how often each box was read."""

    contents: Contents
    files: dict[str, bytearray]
    reads: Counter[tuple[str, int]] = field(default_factory=Counter)

    def read(self, box: Box, into: memoryview) -> None:
        assert len(into) == box.data_bytes
        into[:] = self.files[box.file][box.data_at : box.data_at + box.data_bytes]
        self.reads[box.file, box.data_at] += 1
        if xxhash.xxh3_128_digest(into) != box.digest:
            raise Corrupt(f"{box.file}: the box of {box.name} at {box.offsets}")

    def values(self, rank: int) -> bytes:
        item = self.contents.values[rank]
        return bytes(self.files[item.file][item.at : item.at + item.size])


def stored_step(ranks: Sequence[Slots], *, box_bytes: int = 64) -> InMemory:
    """Returns what the ranks, in order, captured, one file a rank; tensors are cut
    into boxes of about `box_bytes` along their first dim."""
    manifests = [read_manifest(slots.own) for slots in ranks]
    files = {f"r1-t1-m{rank}.distcp": bytearray() for rank in range(len(ranks))}
    boxes: list[Box] = []
    values: list[Values] = []
    shared = b"".join(bytes(view) for view in ranks[0].shared)
    for rank, (name, data) in enumerate(files.items()):
        manifest = manifests[rank]
        own = bytes(ranks[rank].own)
        for entry in manifest.entries:
            if entry.region == "own" and entry.replica == 0:
                boxes += _boxes(entry, own, rank, name, data, box_bytes)
            elif entry.region == "shared" and rank == 0:
                boxes += _boxes(entry, shared, SHARED, name, data, box_bytes)
        values.append(_values(manifest, rank, name, data))
    contents = Contents(
        step=manifests[0].step,
        captured_in=1,
        machines=len(ranks),
        ranks_per_machine=1,
        written_s=1.0,
        files=[File(name=name, size=len(data)) for name, data in files.items()],
        boxes=boxes,
        values=values,
        plain=[],
    )
    return InMemory(contents=decode(encode(contents)), files=files)


def _boxes(
    entry: Entry, region: bytes, owner: int, file: str, data: bytearray, box_bytes: int
) -> list[Box]:
    raw = region[entry.offset : entry.offset + entry.size]
    if not raw:
        return []
    rows = entry.box_shape[0] if entry.box_shape else 1
    row_bytes = len(raw) // rows
    step = max(1, box_bytes // row_bytes)
    boxes: list[Box] = []
    for row in range(0, rows, step):
        part = raw[row * row_bytes : (row + step) * row_bytes]
        at = len(data)
        data += b"head" + part + b"tail"
        shape, offsets = entry.box_shape, entry.box_offsets
        if shape:
            shape = (len(part) // row_bytes, *shape[1:])
            offsets = (offsets[0] + row, *offsets[1:])
        boxes.append(
            Box(
                name=entry.name,
                dtype=entry.dtype,
                global_shape=entry.global_shape,
                offsets=offsets,
                shape=shape,
                owner=owner,
                file=file,
                at=at,
                size=len(part) + 8,
                data_at=at + 4,
                data_bytes=len(part),
                digest=xxhash.xxh3_128_digest(part),
            )
        )
    return boxes


def _values(manifest: Manifest, rank: int, file: str, data: bytearray) -> Values:
    at = len(data)
    data += manifest.values
    return Values(
        rank=rank,
        file=file,
        at=at,
        size=len(manifest.values),
        digest=xxhash.xxh3_128_digest(manifest.values),
    )
