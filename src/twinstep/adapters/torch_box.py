"""Which part of a tensor is here: the box of a DTensor that this rank holds.

The whole mesh counts: along a dimension with Shard ranks hold different parts, along
one with Replicate the very same part, of which the first rank's is the one that goes
to storage. A plain tensor is whole here, and this rank's own.
"""

# Local shards have no public door.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, Partial

from twinstep.errors import StateError


def box_of(
    name: str, tensor: torch.Tensor
) -> tuple[torch.Tensor, tuple[int, ...], int]:
    """Returns this rank's part of a tensor, where in the whole it begins, and this
    rank's number among those that hold the same part.

    Raises: StateError by name."""
    if not isinstance(tensor, DTensor):
        return tensor, (0,) * tensor.dim(), 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    local = tensor._local_tensor
    if any(isinstance(placement, Partial) for placement in tensor.placements):
        raise StateError(
            f"{name} is a DTensor with a Partial placement, a sum not yet made; "
            "redistribute it to Shard or Replicate first"
        )
    shape, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    if tuple(shape) != tuple(local.shape):
        raise StateError(
            f"{name} is a DTensor whose local shape {tuple(local.shape)} is not the "
            f"{tuple(shape)} of its placements {tensor.placements}; twinstep knows "
            "even and uneven Shard and Replicate"
        )
    # An empty box may begin past the end, which a manifest does not allow.
    ends = zip(offsets, tensor.shape, strict=True)
    return local, tuple(min(first, end) for first, end in ends), _replica(tensor)


def _replica(tensor: DTensor) -> int:
    mesh = tensor.device_mesh
    index = 0
    for size, at, placement in zip(
        mesh.shape, mesh.get_coordinate() or (), tensor.placements, strict=True
    ):
        if placement.is_replicate():
            index = index * size + at
    return index
