"""Stored steps made of slots that were made by hand, with every kind of item.

Two machines of one rank each. `model.split` is sharded, `seen.total` each rank's own,
`model.gain` and `model.half` are held by all alike.
"""

from __future__ import annotations

import struct
from pathlib import Path

from twinstep.capture.manifest import (
    Entry,
    StaticPart,
    encode_entries,
    encode_manifest,
    read_manifest,
    write_head,
)
from twinstep.capture.plain import encode_plain
from twinstep.capture.snapshot import cut
from twinstep.store.contents import Contents, folder_name, part_name
from twinstep.store.places import Disk
from twinstep.store.writing import Holding, make_whole, write_part

MACHINES = 2
HEAD = 2048
VALUES = {
    "random": {},
    "optimizers": {},
    "extra": {},
    "others": {"scheduler": {"last_epoch": 3, "note": "x" * 40}},
}
SPLIT = [[float(10 * row + column) for column in range(3)] for row in range(5)]
ROWS = ((0, 3), (3, 2))
"""First row and rows of `model.split`, by rank."""
GAIN = [1.5, -2.5]
HALF = bytes(range(8))


def entry(name: str, dtype: str, shape, *, at: int, size: int, **changes) -> Entry:
    settings = {
        "name": name,
        "dtype": dtype,
        "global_shape": shape,
        "box_offsets": (0,) * len(shape),
        "box_shape": shape,
        "offset": at,
        "size": size,
        "region": "own",
    }
    return Entry(**(settings | changes))


def total(rank: int) -> bytes:
    return struct.pack("<2q", 7 + rank, 8)


def entries(rank: int) -> list[Entry]:
    first, rows = ROWS[rank]
    split = {"box_offsets": (first, 0), "box_shape": (rows, 3)}
    shared = {"region": "shared"}
    return [
        entry("model.split", "float32", (5, 3), at=HEAD, size=12 * rows, **split),
        entry("seen.total", "int64", (2,), at=HEAD + 64, size=16),
        entry("model.none", "float32", (0, 4), at=HEAD + 128, size=0),
        entry("model.gain", "float64", (2,), at=0, size=16, **shared),
        entry("model.half", "bfloat16", (2, 2), at=64, size=8, **shared),
        entry("optimizer[0:model.split].step", "float32", (), at=128, size=4, **shared),
    ]


def own_slot(rank: int, *, step: int, changed=None) -> memoryview:
    own_bytes = HEAD + 128
    made = entries(rank) if changed is None else changed(rank, entries(rank))
    static = StaticPart(
        head_bytes=HEAD,
        own_bytes=own_bytes,
        shared_bytes=132,
        entries=encode_entries(made),
    )
    values = encode_plain(VALUES, path="values")
    slot = memoryview(bytearray(own_bytes))
    write_head(slot, encode_manifest(static, step=step, values=values))
    first, rows = ROWS[rank]
    numbers = [x for row in SPLIT[first : first + rows] for x in row]
    slot[HEAD : HEAD + 12 * rows] = struct.pack(f"<{3 * rows}f", *numbers)
    slot[HEAD + 64 : HEAD + 80] = total(rank)
    return slot


def shared_region() -> memoryview:
    region = bytearray(132)
    region[:16] = struct.pack("<2d", *GAIN)
    region[64:72] = HALF
    region[128:] = struct.pack("<f", 12.0)
    return memoryview(region)


def write_step(storage: Path, *, step: int = 12, changed=None) -> tuple[Path, Contents]:
    """Returns the folder of a whole step, and what is in it.

    `changed` may give other entries for a rank's manifest."""
    names: list[str] = []
    for machine_rank in range(MACHINES):
        own = own_slot(machine_rank, step=step, changed=changed)
        holding = Holding(
            step=step,
            captured_in=1,
            machines=MACHINES,
            ranks_per_machine=1,
            index=machine_rank,
            parts=MACHINES,
            own={machine_rank: (read_manifest(own), own)},
            shared=[shared_region()],
        )
        names.append(part_name(round=1, term=1, machine_rank=machine_rank))
        write_part(Disk(storage), holding, name=names[-1], now_s=1000.0)
    whole = make_whole(Disk(storage), step=step, names=names)
    return storage / folder_name(step), whole


assert len(cut(132, parts=1, index=0)) == 132
