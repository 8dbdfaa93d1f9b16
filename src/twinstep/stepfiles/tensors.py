"""Puts whole tensors together from the boxes of a stored step, one at a time.

Bytes are moved, never numbers: the items are NumPy's void of as many bytes, which fits
every dtype, those that NumPy does not know too. Of a tensor that is not sharded, of
which each rank has its own, it is the lowest rank's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.errors import Corrupt
from twinstep.recovery.reshard import Copy, Extent, StoredTensors
from twinstep.store.contents import SHARED, Box
from twinstep.store.flattened import dotted, key_paths, settled
from twinstep.store.stored import StoredStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole tensor, and where each part of it is."""

    object: str
    """What the tensor is of, as it was given to the Session: model, optimizer."""
    key: str
    """Its name within the object: layer.weight, state.layer.weight.exp_avg."""
    dtype: str
    shape: tuple[int, ...]
    copies: tuple[Copy, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(copy_bytes(copy) for copy in self.copies)


def copy_bytes(copy: Copy) -> int:
    """Bytes of what is taken from one box."""
    items = 1
    for part in copy.source:
        items *= part.stop - part.start
    return items * ITEM_BYTES[copy.box.dtype]


def wholes(step: StoredStep) -> Iterator[Whole]:
    """Yields the tensors of a step, in the order in which they were stored.

    Raises: Corrupt naming a tensor of which something is missing."""
    boxes = step.contents.boxes
    lowest: dict[str, int] = {}
    for box in boxes:
        known = lowest.setdefault(box.name, box.owner)
        if known == SHARED or SHARED < box.owner < known:
            lowest[box.name] = box.owner
    paths = settled(key_paths(lowest, trees=step.contents.trees))
    tensors = StoredTensors(boxes)
    for name, owner in lowest.items():
        tensor = tensors.of(name, owner=owner)
        shape = tensor.global_shape
        plan, alone = tensor.plan(Extent((0,) * len(shape), shape), owner=owner)
        fault = f"{len(plan.missing)} parts of {shape} are in no file"
        if plan.missing or (not alone and tensor.has_versions()):
            fault = fault if plan.missing else "ranks have parts that differ"
            raise Corrupt(f"step {step.contents.step}: {name}: {fault}")
        head, *rest = paths[name]
        yield Whole(
            object=str(head),
            key=dotted(tuple(rest)) or str(head),
            dtype=tensor.dtype,
            shape=shape,
            copies=tuple(plan.copies),
        )


def assemble(step: StoredStep, whole: Whole, target: memoryview) -> None:
    """`target` holds the tensor's bytes (C order) afterwards, all verified; a box is
    read once, and is the only other thing in memory.

    Raises: what StoredStep.read does."""
    assert len(target) == whole.size, (len(target), whole)
    if not whole.size:
        return
    items = numpy.dtype((numpy.void, ITEM_BYTES[whole.dtype]))
    into = numpy.frombuffer(target, dtype=items).reshape(whole.shape)
    by_box: dict[int, list[Copy]] = {}
    for copy in whole.copies:
        by_box.setdefault(id(copy.box), []).append(copy)
    for copies in by_box.values():
        box: Box = copies[0].box
        data = bytearray(box.data_bytes)
        step.read(box, memoryview(data))
        source = numpy.frombuffer(data, dtype=items).reshape(box.shape)
        for copy in copies:
            into[copy.target] = source[copy.source]
