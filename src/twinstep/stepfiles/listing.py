"""Says what a storage, or one checkpoint, has, as plain records for people and JSON."""

from __future__ import annotations

import math

import msgspec

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.errors import ProtocolError
from twinstep.stepfiles.where import Where
from twinstep.store import contents as stored, reading
from twinstep.store.foreign import Listing, Tensor, read_metadata

METADATA_BYTES_MAX = 1 << 32


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a storage."""

    step: int
    folder: str
    whole: bool
    foreign: bool
    """A checkpoint that twinstep did not write."""
    bytes: int
    """Of all its files, whole or not."""
    written_s: float = 0.0
    """Seconds since 1970; 0 where nobody knows."""
    machines: int = 0
    ranks_per_machine: int = 0
    reason: str = ""
    """Why it is passed over at a start."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of a foreign directory."""

    dtype: str
    shape: tuple[int, ...]
    chunks: int
    bytes: int
    """Of the whole tensor; 0 for a dtype of unknown size."""


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of torch.distributed.checkpoint, as its .metadata describes it."""

    bytes: int
    files: int
    tensors: dict[str, Shape]
    values: list[str]
    """Keys of what is no tensor."""


def rows(at: Where, *, steps_max: int) -> list[Row]:
    """Returns the steps of a storage, oldest first, at most the newest `steps_max`.

    Raises: OSError."""
    return [
        _row(found, sum(at.place.sizes(found.folder).values()))
        for found in reading.look(at.place, steps_max=steps_max)
    ]


def row_of(at: Where) -> Row:
    """Returns the line of one step's folder, which may have any name."""
    found = reading.look_at(at.place, at.folder)
    return _row(found, sum(at.place.sizes(found.folder).values()))


def _row(found: reading.Found, size: int) -> Row:
    contents = found.contents
    return Row(
        step=found.step,
        folder=found.folder,
        whole=found.whole,
        foreign=found.foreign,
        bytes=size,
        written_s=contents.written_s if contents else 0.0,
        machines=contents.machines if contents else 0,
        ranks_per_machine=contents.ranks_per_machine if contents else 0,
        reason=found.reason,
    )


def listing_of(at: Where) -> Listing:
    """Returns what a .metadata says; nothing in it is called or believed.

    Raises: OSError, ValueError, ProtocolError."""
    name = f"{at.folder}/{stored.METADATA}"
    data = at.place.read_whole(name, bytes_max=METADATA_BYTES_MAX)
    return read_metadata(data, bytes_max=METADATA_BYTES_MAX)


def describe(at: Where) -> Directory:
    """Returns what a foreign directory has. Raises: OSError, ProtocolError."""
    try:
        listing = listing_of(at)
    except (ProtocolError, ValueError) as error:
        raise ProtocolError(f"{at.name}/{stored.METADATA}: {error}") from error
    sizes = at.place.sizes(at.folder)
    return Directory(
        bytes=sum(sizes.values()),
        files=len(sizes),
        tensors={key: _shape(one) for key, one in sorted(listing.tensors.items())},
        values=sorted(listing.plain),
    )


def _shape(tensor: Tensor) -> Shape:
    return Shape(
        dtype=tensor.dtype,
        shape=tensor.shape,
        chunks=len(tensor.chunks),
        bytes=math.prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, 0),
    )
