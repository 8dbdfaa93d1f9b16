"""Writes a stored step anew in another form: what torch wrote for Orbax, and back.

All of it becomes one data file, in which the boxes of a tensor lie in the order of its
rows. So shards that are uneven along the first dimension, of which Orbax could read
only small chunks where they lie in several files, are one run here.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from twinstep.capture.manifest import Entry
from twinstep.capture.plain import decode_plain
from twinstep.store import contents as stored
from twinstep.store.contents import (
    SHARED,
    Box,
    Contents,
    File,
    Form,
    part_name,
)
from twinstep.store.places import Place
from twinstep.store.publishing import published
from twinstep.store.stored import StoredStep
from twinstep.store.writing import ItemWriter


def rewrite(
    step: StoredStep,
    place: Place,
    *,
    form: Form,
    tick: Callable[[int], None] = lambda _bytes: None,
) -> Contents:
    """The step is whole in `place` afterwards, in `form`; returns what is in it. A box
    is in memory at a time.

    Args:
      tick: called before so many bytes are written.

    Raises: Corrupt when the step is damaged; OSError; ProtocolError."""
    old = step.contents
    folder = stored.folder_name(old.step)
    name = part_name(round=old.captured_in, term=0, machine_rank=0)
    data = name + stored.DATA[form]
    with place.create(f"{folder}/{data}") as output:
        writer = ItemWriter(output=output, file=data, pace=tick, form=form)
        for values in old.values:
            writer.values(values.rank, step.values(values.rank))
        for box in _ordered(old.boxes):
            held = memoryview(bytearray(box.data_bytes))
            step.read(box, held)
            writer.box(_entry(box), box.owner, [held])
        names = {box.name for box in old.boxes if box.owner in (0, SHARED)}
        writer.plain(decode_plain(step.values(0)), sorted(names))
    new = msgspec.structs.replace(
        old,
        files=[File(name=data, size=writer.at)],
        boxes=writer.boxes,
        values=writer.values_at,
        plain=writer.plain_at,
        tied=writer.tied,
        form=form,
        leaves=writer.leaves,
        trees=writer.trees,
    )
    table = {stored.CONTENTS: stored.encode(new)}
    for file, encoded in (table | published(new)).items():
        with place.create(f"{folder}/{file}") as output:
            output.write(encoded)
    return new


def _ordered(boxes: list[Box]) -> list[Box]:
    """Tensor by tensor as they were, and each by columns and rows. What all hold alike
    comes first, then what the lowest rank holds; shards of several ranks that make up
    one tensor lie as its rows do."""
    place = {name: n for n, name in enumerate(dict.fromkeys(b.name for b in boxes))}
    copies: dict[tuple[str, tuple[int, ...]], int] = {}

    def turn(box: Box) -> int:
        """Which copy of this extent it is."""
        key = (box.name, box.offsets)
        copies[key] = copies.get(key, -1) + 1
        return copies[key]

    turns = [(turn(box), box) for box in sorted(boxes, key=lambda box: box.owner)]
    turns.sort(
        key=lambda one: (
            place[one[1].name],
            one[0],
            one[1].offsets[1:],
            one[1].offsets[:1],
        )
    )
    return [box for _, box in turns]


def _entry(box: Box) -> Entry:
    return Entry(
        name=box.name,
        dtype=box.dtype,
        global_shape=box.global_shape,
        box_offsets=box.offsets,
        box_shape=box.shape,
        offset=0,
        size=box.data_bytes,
        region="own",
    )
