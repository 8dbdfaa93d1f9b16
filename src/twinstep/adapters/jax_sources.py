"""Where the bytes of a state to be restored come from: slots, or a stored step.

From slots: all boxes that a rank of the same place captured. They are enough where this
process holds the same boxes now, and where it holds parts of them. From storage: the
boxes of all ranks, whatever their number was; each that is needed is read once, whole
and verified. What a rank has for itself (plain values, host arrays, the objects beside
the state) comes from the rank of the same number, and with another number of ranks from
`rank % ranks of then`, with a warning. Keys are arrays like others, and exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy

from twinstep.adapters.jax_arrays import Wanted
from twinstep.adapters.jax_leaves import Form, Kind, from_blob
from twinstep.adapters.jax_restore import Targets
from twinstep.adapters.jax_values import check_others, checked_values
from twinstep.capture.manifest import Entry, Manifest, read_manifest, values_of
from twinstep.capture.plain import decode_plain
from twinstep.capture.snapshot import cut
from twinstep.errors import StateError
from twinstep.recovery.reshard import Copy, StoredTensor, StoredTensors
from twinstep.store.contents import SHARED, Box
from twinstep.store.stored import StoredStep

Copies = list[tuple[Copy, Any]]
"""Each with the box of the state that it goes to."""


def from_slots(
    targets: Targets,
    objects: dict[str, Any],
    own: memoryview,
    shared: Sequence[memoryview],
) -> tuple[int, dict[str, Any]]:
    """All boxes of `targets` are filled; returns the step and its values.

    Raises: StateError, ProtocolError; nothing is to be used then."""
    manifest = read_manifest(own)
    values = checked_values(values_of(manifest, from_blob=from_blob))
    check_others(objects, values)
    whole = _whole(manifest, shared)
    tensors = StoredTensors([_box(entry) for entry in manifest.entries])
    targets.expect(set(tensors.names), values)
    found = [tensors.of(name, owner=0) for name in tensors.names]
    planned = [(each, targets.take(each.name, _form(each))) for each in found]
    for tensor, wanted in planned:
        if wanted is not None and _lacks(tensor, wanted, owner=0):
            targets.differ(
                f"{tensor.name} shall lie on this process where its own copy in memory "
                "does not reach; shard it as before, or let the job restore from "
                "storage"
            )
    targets.refuse()
    targets.allocate()
    for tensor, wanted in planned:
        assert wanted is not None
        for copy, target in _copies(tensor, wanted, owner=0):
            raw = own if copy.box.owner == 0 else whole
            _fill(copy, target, raw[copy.box.at : copy.box.at + copy.box.data_bytes])
    return manifest.step, values


def from_storage(
    targets: Targets,
    objects: dict[str, Any],
    stored: StoredStep,
    *,
    rank: int,
    world_size: int,
) -> tuple[int, dict[str, Any], list[str]]:
    """All boxes of `targets` are filled, whatever number of ranks stored them; returns
    the step, its values and what the user should know.

    Raises: StateError, ProtocolError before the boxes are read; Corrupt, OSError."""
    contents = stored.contents
    source = rank % contents.world_size
    values = checked_values(decode_plain(stored.values(source), from_blob=from_blob))
    check_others(objects, values)
    tensors = StoredTensors(contents.boxes)
    targets.expect(set(tensors.names), values)
    planned: list[tuple[StoredTensor, Wanted]] = []
    for name in tensors.names:
        tensor = tensors.of(name, owner=source)
        wanted = targets.take(name, _form(tensor))
        if not tensor.is_complete():
            targets.differ(f"{name} {tensor.global_shape} is stored only in part")
        elif wanted is not None and _lacks(tensor, wanted, owner=source):
            targets.differ(f"{name} is stored without some of what is wanted of it")
        if wanted is not None:
            planned.append((tensor, wanted))
    targets.refuse()
    targets.allocate()
    reads: dict[int, Copies] = {}
    for tensor, wanted in planned:
        for copy, target in _copies(tensor, wanted, owner=source):
            reads.setdefault(id(copy.box), []).append((copy, target))
    ordered = sorted(
        reads.values(), key=lambda copies: (copies[0][0].box.file, copies[0][0].box.at)
    )
    buffer = bytearray(max((c[0][0].box.data_bytes for c in ordered), default=0))
    for copies in ordered:
        box = copies[0][0].box
        view = memoryview(buffer)[: box.data_bytes]
        stored.read(box, view)
        for copy, target in copies:
            _fill(copy, target, view)
    warnings = _warnings(targets, objects, stored, rank=rank, world_size=world_size)
    return contents.step, values, warnings


def _warnings(
    targets: Targets,
    objects: dict[str, Any],
    stored: StoredStep,
    *,
    rank: int,
    world_size: int,
) -> list[str]:
    then = stored.contents.world_size
    hosts = [n for n, w in targets.arrays.items() if w.leaf.kind is Kind.HOST]
    apart = [*objects, *hosts, *targets.plain]
    if then == world_size or not apart:
        return []
    named = ", ".join(apart[:5]) + (" and others" if len(apart) > 5 else "")
    return [
        f"the step was stored by {then} ranks and there are now {world_size}: {named} "
        f"have the values of rank {rank % then}. Where ranks had different ones, such "
        "as a position in their own part of the data, set them anew"
    ]


def _copies(
    tensor: StoredTensor, wanted: Wanted, *, owner: int
) -> Iterator[tuple[Copy, Any]]:
    for extent, target in wanted.boxes.items():
        plan, _ = tensor.plan(extent, owner=owner)
        for copy in plan.copies:
            yield copy, target


def _lacks(tensor: StoredTensor, wanted: Wanted, *, owner: int) -> bool:
    return any(tensor.plan(extent, owner=owner)[0].missing for extent in wanted.boxes)


def _fill(copy: Copy, target: Any, raw: memoryview) -> None:
    kind: Any = jnp.dtype(copy.box.dtype)
    source: Any = numpy.frombuffer(raw, kind).reshape(copy.box.shape)
    target[copy.target] = source[copy.source]


def _form(tensor: StoredTensor) -> Form:
    return Form(tensor.dtype, tensor.global_shape)


def _box(entry: Entry) -> Box:
    """Returns a slot's entry as the box that it is."""
    return Box(
        name=entry.name,
        dtype=entry.dtype,
        global_shape=entry.global_shape,
        offsets=entry.box_offsets,
        shape=entry.box_shape,
        owner=SHARED if entry.region == "shared" else 0,
        file="",
        at=entry.offset,
        size=entry.size,
        data_at=entry.offset,
        data_bytes=entry.size,
        digest=b"",
    )


def _whole(manifest: Manifest, shared: Sequence[memoryview]) -> memoryview:
    """Returns the shared region in one piece."""
    if not manifest.shared_bytes:
        return memoryview(b"")
    if not shared:
        raise StateError(
            f"the state has {manifest.shared_bytes} shared bytes, but no shared slots "
            "were given; pass all ranges of the shared region, in order"
        )
    parts = len(shared)
    spans = [cut(manifest.shared_bytes, parts=parts, index=i) for i in range(parts)]
    for span, view in zip(spans, shared, strict=True):
        if len(view) < len(span):
            raise StateError(f"a shared slot of {len(view)} bytes for {span}")
    if parts == 1:
        return shared[0][: manifest.shared_bytes]
    return memoryview(
        b"".join(view[: len(span)] for span, view in zip(spans, shared, strict=True))
    )
