"""How the bytes of a shard become the live state of torch objects again, bit by bit.

Names, dtypes and boxes must be those that this rank, or one of the same place before
it, captured. What another number of ranks captured: torch_reshard.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twinstep.adapters import torch_values
from twinstep.adapters.torch_plan import is_dense
from twinstep.adapters.torch_state import Inventory
from twinstep.adapters.torch_targets import Targets, checked_values, load_values
from twinstep.capture.manifest import Entry, Manifest, read_manifest, values_of
from twinstep.capture.snapshot import Piece, clip, cut, restore_pieces
from twinstep.errors import StateError


def restore(inventory: Inventory, own: memoryview, shared: Sequence[memoryview]) -> int:
    """The live objects have the state in the slots afterwards; returns its step.

    Raises: StateError naming the first differences, ProtocolError; both before
    anything was written."""
    manifest = read_manifest(own)
    spans = _spans(manifest, shared)
    values = checked_values(
        inventory, values_of(manifest, from_blob=torch_values.from_blob)
    )
    targets = Targets(inventory, values)
    targets.expect({entry.name for entry in manifest.entries})
    found: list[tuple[Entry, torch.Tensor]] = []
    for entry in manifest.entries:
        box = (entry.box_offsets, entry.box_shape)
        cell = targets.take(entry.name, entry.dtype, entry.global_shape, box)
        if cell is not None:
            found.append((entry, cell.local))
    targets.refuse()
    for entry, tensor in found:
        _fill(entry, tensor, own, shared, spans)
    targets.set_states()
    load_values(inventory, values)
    return manifest.step


def _spans(manifest: Manifest, shared: Sequence[memoryview]) -> list[range]:
    if not manifest.shared_bytes:
        return []
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
    return spans


def _fill(
    entry: Entry,
    tensor: torch.Tensor,
    own: memoryview,
    shared: Sequence[memoryview],
    spans: list[range],
) -> None:
    """The tensor has the entry's bytes afterwards."""
    direct = tensor.device.type == "cpu" and is_dense(tensor)
    target = tensor if direct else torch.empty(entry.size, dtype=torch.uint8)
    piece = Piece(target.data_ptr(), entry.size, entry.offset)
    if entry.region == "own":
        restore_pieces([piece], own)
    else:
        for span, view in zip(spans, shared, strict=True):
            restore_pieces(clip([piece], span), view)
    if not direct:
        with torch.no_grad():
            dense = torch_values.from_raw(target, entry.dtype, entry.box_shape)
            tensor.detach().copy_(dense)
