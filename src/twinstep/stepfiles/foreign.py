"""Checks a checkpoint that somebody else's torch.distributed.checkpoint has written.

It has no digests, but each of its items is a zip, whose records have checksums where
torch computed them. Nothing is unpickled: .metadata is read by store/foreign.py, which
calls nothing, and of an archive only the zip is looked at.
"""

from __future__ import annotations

import math

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.errors import ProtocolError
from twinstep.recovery.reshard import Extent
from twinstep.stepfiles import coverage
from twinstep.stepfiles.checking import Fault, Report
from twinstep.stepfiles.listing import listing_of
from twinstep.stepfiles.where import Where
from twinstep.stepfiles.windows import Tick, archive_fault
from twinstep.store import contents as stored
from twinstep.store.contents import SHARED
from twinstep.store.foreign import Listing, Place


def check_directory(at: Where, *, tick: Tick) -> Report:
    """Returns what is wrong with a foreign directory: files that are missing or too
    short, items that are no readable archive, tensors that are not all there.

    Raises: OSError when nothing can be read there at all."""
    sizes = at.place.sizes(at.folder)
    try:
        listing = listing_of(at)
    except (ProtocolError, ValueError) as error:
        listing = Listing(tensors={}, plain={})
        faults = [Fault(file=stored.METADATA, tensor="", what=str(error))]
    else:
        faults = _coverage(listing) + _items(at, listing, sizes, tick)
    return Report(
        name=at.name,
        step=-1,
        bytes=sum(sizes.values()),
        files=len(sizes),
        tensors=len(listing.tensors),
        boxes=sum(len(one.chunks) for one in listing.tensors.values()),
        faults=faults,
    )


def _coverage(listing: Listing) -> list[Fault]:
    return [
        Fault(file=stored.METADATA, tensor=key, what=f"of {tensor.shape}: {fault}")
        for key, tensor in listing.tensors.items()
        for fault in coverage.faults_of(
            tensor.shape,
            [(SHARED, Extent(one.offsets, one.shape)) for one in tensor.chunks],
        )
    ]


def _items(
    at: Where, listing: Listing, sizes: dict[str, int], tick: Tick
) -> list[Fault]:
    wanted: dict[Place, tuple[str, int]] = {
        place: (key, 0) for key, place in listing.plain.items()
    }
    for key, tensor in listing.tensors.items():
        for chunk in tensor.chunks:
            items = math.prod(chunk.shape)
            wanted[chunk.place] = (key, items * ITEM_BYTES.get(tensor.dtype, 0))
    faults: list[Fault] = []
    order = sorted(wanted.items(), key=lambda one: (one[0].file, one[0].at))
    for place, (key, data_bytes) in order:
        what = _fault(at, place, sizes.get(place.file), data_bytes, tick)
        if what:
            faults.append(Fault(file=place.file, tensor=key, what=what))
    return faults


def _fault(
    at: Where, place: Place, size: int | None, data_bytes: int, tick: Tick
) -> str:
    if size is None:
        return "the file is missing"
    if place.at + place.size > size:
        return (
            f"is cut off: it ends at byte {place.at + place.size}, the file at {size}"
        )
    try:
        return archive_fault(
            at.place,
            f"{at.folder}/{place.file}",
            at=place.at,
            size=place.size,
            data_bytes=data_bytes,
            tick=tick,
        )
    except (OSError, EOFError) as error:
        return f"cannot be read: {error}"
