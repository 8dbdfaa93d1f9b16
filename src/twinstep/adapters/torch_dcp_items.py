"""What a rank saves through torch.distributed.checkpoint, as boxes and bytes.

DCP cuts a state_dict into write items: boxes of tensors, and values that its planner
has pickled. Each rank's own items, before DCP leaves out what another rank writes as
well, are all that the rank needs to load the same state again. They are kept as they
are; what is pickled stays bytes here, and is unpickled by DCP's planner alone, as it is
when it comes from files.

A plan to read is made of boxes as well. What of a tensor this rank does not hold is
cut into boxes too (`others`), so that a plan which needs more than the rank has is
seen; and any box can be found again in the boxes of a directory (`moved`).
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    ReadItem,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import (
    create_read_items_for_chunk_list,
)

from twinstep.adapters.torch_values import DTYPES, NAMES
from twinstep.errors import StateError

Dims = tuple[int, ...]
Span = tuple[Dims, Dims]
"""A box: its first corner, and its lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Which save it is, as its user calls it."""

    step: int | None = None
    checkpoint_id: str = ""
    saved_s: float = 0.0
    """When, by the clock of the machine that saved it. Of rank 0's one save is after
    another when this says so."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Box:
    """A box of a tensor, and its memory."""

    fqn: str
    dtype: str
    global_shape: Dims
    offsets: Dims
    tensor: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """Everything that one rank saves at a time."""

    about: About
    boxes: list[Box] = field(default_factory=list[Box])
    pickled: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By name, what DCP's planner made of what is no tensor."""
    paths: dict[str, list[str | int]] = field(
        default_factory=dict[str, list[str | int]]
    )
    """Where in the nested state_dict each name was."""


def flat_of(
    items: Iterable[WriteItem],
    resolve: Callable[[WriteItem], Any],
    *,
    about: About,
    mappings: object = None,
) -> Flat:
    """Returns what the items of a local plan are now; `resolve` is the planner's.

    Raises: StateError naming a tensor that cannot be kept."""
    flat = Flat(about=about)
    for item in items:
        fqn = item.index.fqn
        if item.type is WriteItemType.BYTE_IO:
            flat.pickled[fqn] = bytes(cast("io.BytesIO", resolve(item)).getbuffer())
            continue
        data = item.tensor_data
        tensor = cast("torch.Tensor", resolve(item)).detach()
        assert data is not None
        if tensor.layout is not torch.strided or tensor.dtype not in NAMES:
            raise StateError(
                f"{fqn} is a {tensor.layout} tensor of {tensor.dtype}, which cannot be "
                "kept in memory; such a state is written to files only"
            )
        if tensor.shape != data.chunk.sizes:
            raise StateError(
                f"{fqn} has a box of {tuple(tensor.shape)} where the plan has one of "
                f"{tuple(data.chunk.sizes)}; the planner must not change shapes"
            )
        flat.boxes.append(
            Box(
                fqn=fqn,
                dtype=NAMES[tensor.dtype],
                global_shape=tuple(data.size),
                offsets=tuple(data.chunk.offsets),
                tensor=tensor,
            )
        )
    if isinstance(mappings, Mapping):
        found = cast("Mapping[str, Sequence[str | int]]", mappings)
        flat.paths.update({fqn: list(path) for fqn, path in found.items()})
    return flat


def others(whole: Dims, own: Iterable[Span]) -> list[Span]:
    """Returns boxes that, with those of `own`, cover a tensor of shape `whole` once."""
    left: list[Span] = [(tuple(0 for _ in whole), whole)]
    for taken in own:
        left = [part for box in left for part in _without(box, taken)]
    return left


def _without(box: Span, taken: Span) -> list[Span]:
    """Returns the parts of `box` outside of `taken`, cut one dim after the other."""
    firsts, lengths = list(box[0]), list(box[1])
    ends = [first + length for first, length in zip(*taken, strict=True)]
    overlap = [
        min(first + length, end) - max(first, start)
        for first, length, start, end in zip(*box, taken[0], ends, strict=True)
    ]
    if any(extent <= 0 for extent in overlap):
        return [box]
    parts: list[Span] = []
    for dim, (start, end) in enumerate(zip(taken[0], ends, strict=True)):
        before = start - firsts[dim]
        after = firsts[dim] + lengths[dim] - end
        if before > 0:
            parts.append(_cut(firsts, lengths, dim, firsts[dim], before))
            firsts[dim], lengths[dim] = start, lengths[dim] - before
        if after > 0:
            parts.append(_cut(firsts, lengths, dim, end, after))
            lengths[dim] -= after
    return parts


def _cut(
    firsts: list[int], lengths: list[int], dim: int, first: int, length: int
) -> Span:
    cut_firsts, cut_lengths = list(firsts), list(lengths)
    cut_firsts[dim], cut_lengths[dim] = first, length
    return tuple(cut_firsts), tuple(cut_lengths)


def tensor_metadata(
    dtype: str, whole: Dims, own: Sequence[Span]
) -> TensorStorageMetadata:
    """Returns what DCP's planner must know of a tensor of which `own` is at hand."""
    chunks = [*own, *(part for part in others(whole, own))]
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=DTYPES[dtype]),
        size=torch.Size(whole),
        chunks=[
            ChunkStorageMetadata(offsets=torch.Size(first), sizes=torch.Size(length))
            for first, length in chunks
        ],
    )


def is_empty(item: ReadItem) -> bool:
    return item.type is LoadItemType.TENSOR and 0 in item.lengths


def moved(item: ReadItem, metadata: Metadata) -> list[ReadItem]:
    """Returns the items that read from `metadata`'s boxes what `item` reads from a box
    of memory's. Raises: StateError when there is no such tensor of that shape."""
    fqn = item.storage_index.fqn
    known = metadata.state_dict_metadata.get(fqn)
    tensor = item.type is LoadItemType.TENSOR
    if known is None or tensor is not isinstance(known, TensorStorageMetadata):
        raise StateError(
            f"{fqn} is not in the directory, or is no {'tensor' if tensor else 'value'}"
            " there; load what was saved"
        )
    if not isinstance(known, TensorStorageMetadata):
        return [item]
    corner = item.storage_index.offset or torch.Size([0] * len(item.lengths))
    first = torch.Size(a + b for a, b in zip(corner, item.storage_offsets, strict=True))
    box = ChunkStorageMetadata(offsets=first, sizes=item.lengths)
    if len(known.size) != len(first):
        raise StateError(f"{fqn} has shape {tuple(known.size)} in the directory")
    found = create_read_items_for_chunk_list(fqn, known, [box])
    if sum(math.prod(part.lengths) for part in found) != math.prod(item.lengths):
        raise StateError(f"{fqn} has shape {tuple(known.size)} in the directory")
    return [
        dataclasses.replace(
            part,
            dest_index=item.dest_index,
            dest_offsets=torch.Size(
                a + b for a, b in zip(item.dest_offsets, part.dest_offsets, strict=True)
            ),
        )
        for part in found
    ]
