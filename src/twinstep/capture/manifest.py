"""What the bytes of a shard are: each tensor's name, type, place, and the values.

A slot of an own shard begins with its manifest, so that a copy explains itself to
whoever holds it, without the process that wrote it:

    0        8                          head_bytes                     own_bytes
    | length | manifest | room to grow  | staged, then other tensors   |
                                          each at a multiple of 64

Tensors that all ranks hold identically lie in the shared region, which has no head:
every own manifest describes it too. The entries are encoded once; a step encodes
only its number and its values anew. A manifest comes from another machine, so that
everything in it is checked before a byte is placed by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from twinstep.capture.plain import decode_plain
from twinstep.errors import ProtocolError

FORMAT = 1
ALIGNMENT = 64
LENGTH_BYTES = 8
ENTRIES_MAX = 1_000_000
DIMS_MAX = 64
REGION_BYTES_MAX = 1 << 46

ITEM_BYTES = {
    "bool": 1,
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of one item of each dtype that can be captured."""

Region = Literal["own", "shared"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One tensor, or the box of it that this rank holds; a rank of several devices may
    hold several boxes, each with an entry.

    `offset` counts from the start of the own slot, or of the whole shared region.
    Invariant: size == prod(box_shape) * ITEM_BYTES[dtype]."""

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    box_offsets: tuple[int, ...]
    box_shape: tuple[int, ...]
    offset: int
    size: int
    region: Region
    replica: int = 0
    """This rank's number among those that hold the very same box of a tensor that is
    sharded; only the first, 0, writes it to storage. Manifests from before have none.
    """


class _Encoded(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The manifest as it lies in the slot."""

    format: int
    step: int
    head_bytes: int
    own_bytes: int
    shared_bytes: int
    entries: msgspec.Raw
    values: msgspec.Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read and checked. `values` is still encoded plain data."""

    step: int
    head_bytes: int
    own_bytes: int
    shared_bytes: int
    entries: tuple[Entry, ...]
    values: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPart:
    """The part of a manifest that is the same at every step, encoded once."""

    head_bytes: int
    own_bytes: int
    shared_bytes: int
    entries: bytes


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment` that is not below `size`."""
    return -(-size // alignment) * alignment


def encode_entries(entries: Sequence[Entry]) -> bytes:
    return msgspec.msgpack.encode(entries)


def encode_manifest(static: StaticPart, *, step: int, values: bytes) -> bytes:
    """Returns the manifest of one step; `values` are encoded plain data."""
    return msgspec.msgpack.encode(
        _Encoded(
            format=FORMAT,
            step=step,
            head_bytes=static.head_bytes,
            own_bytes=static.own_bytes,
            shared_bytes=static.shared_bytes,
            entries=msgspec.Raw(static.entries),
            values=msgspec.Raw(values),
        )
    )


def write_head(view: memoryview, manifest: bytes) -> None:
    """The slot starts with `manifest` and its length afterwards."""
    assert LENGTH_BYTES + len(manifest) <= len(view), (len(manifest), len(view))
    view[:LENGTH_BYTES] = len(manifest).to_bytes(LENGTH_BYTES, "little")
    view[LENGTH_BYTES : LENGTH_BYTES + len(manifest)] = manifest


def read_manifest(view: memoryview) -> Manifest:
    """Returns the checked manifest at the start of an own slot.

    Raises: ProtocolError saying what is wrong."""
    if len(view) < LENGTH_BYTES:
        raise ProtocolError(f"a slot of {len(view)} bytes has no room for a manifest")
    length = int.from_bytes(view[:LENGTH_BYTES], "little")
    if length > len(view) - LENGTH_BYTES:
        raise ProtocolError(
            f"the manifest claims {length} bytes in a slot of {len(view)}"
        )
    manifest = decode_manifest(bytes(view[LENGTH_BYTES : LENGTH_BYTES + length]))
    if LENGTH_BYTES + length > manifest.head_bytes or manifest.own_bytes > len(view):
        raise ProtocolError(
            f"the manifest ({length} bytes) claims a head of {manifest.head_bytes} "
            f"and a shard of {manifest.own_bytes} bytes in a slot of {len(view)}"
        )
    return manifest


def decode_manifest(data: bytes) -> Manifest:
    """Returns the manifest that `data` encodes, with every entry checked.

    Raises: ProtocolError saying what is wrong, and with which entry."""
    try:
        encoded = msgspec.msgpack.decode(data, type=_Encoded)
        entries = msgspec.msgpack.decode(encoded.entries, type=tuple[Entry, ...])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a manifest makes no sense: {error}") from error
    if encoded.format != FORMAT:
        raise ProtocolError(f"manifest of format {encoded.format}; this reads {FORMAT}")
    if encoded.step < 0 or len(entries) > ENTRIES_MAX:
        raise ProtocolError(
            f"manifest of step {encoded.step} with {len(entries)} tensors; steps are "
            f"at least 0, tensors at most {ENTRIES_MAX}"
        )
    sizes = (encoded.head_bytes, encoded.own_bytes, encoded.shared_bytes)
    if not (
        LENGTH_BYTES <= encoded.head_bytes <= encoded.own_bytes <= REGION_BYTES_MAX
        and 0 <= encoded.shared_bytes <= REGION_BYTES_MAX
    ):
        raise ProtocolError(f"manifest with head, own, shared bytes of {sizes}")
    _check_entries(entries, sizes)
    return Manifest(
        step=encoded.step,
        head_bytes=encoded.head_bytes,
        own_bytes=encoded.own_bytes,
        shared_bytes=encoded.shared_bytes,
        entries=entries,
        values=bytes(encoded.values),
    )


def _check_entries(entries: tuple[Entry, ...], sizes: tuple[int, int, int]) -> None:
    head_bytes, own_bytes, shared_bytes = sizes
    boxes: set[tuple[str, tuple[int, ...]]] = set()
    for entry in entries:
        fault = _fault(entry)
        if (entry.name, entry.box_offsets) in boxes:
            fault = "its name comes twice, for the same box"
        boxes.add((entry.name, entry.box_offsets))
        if fault:
            raise ProtocolError(f"tensor {entry.name!r} of a manifest: {fault}")
    bounds: tuple[tuple[Region, int, int], ...] = (
        ("own", head_bytes, own_bytes),
        ("shared", 0, shared_bytes),
    )
    for region, end, last in bounds:
        inside = [entry for entry in entries if entry.region == region and entry.size]
        for entry in sorted(inside, key=lambda entry: entry.offset):
            if entry.offset < end:
                raise ProtocolError(
                    f"tensor {entry.name!r} at {entry.offset} of the {region} region "
                    f"overlaps what ends at {end}"
                )
            end = entry.offset + entry.size
            if end > last:
                raise ProtocolError(
                    f"tensor {entry.name!r} ends at {end}, outside the {region} "
                    f"region of {last} bytes"
                )


def _fault(entry: Entry) -> str:
    dims = len(entry.global_shape)
    if dims > DIMS_MAX or len(entry.name) > 4096:
        return f"{dims} dimensions (at most {DIMS_MAX}) or a name beyond 4096 letters"
    if len(entry.box_offsets) != dims or len(entry.box_shape) != dims:
        return f"box {entry.box_offsets} {entry.box_shape} of {entry.global_shape}"
    for length, first, extent in zip(
        entry.global_shape, entry.box_offsets, entry.box_shape, strict=True
    ):
        if min(length, first, extent) < 0 or first + extent > length:
            return f"box {entry.box_offsets} {entry.box_shape} of {entry.global_shape}"
    if entry.dtype not in ITEM_BYTES:
        return f"dtype {entry.dtype!r} is unknown"
    if entry.offset < 0 or entry.offset > REGION_BYTES_MAX:
        return f"offset {entry.offset}"
    if entry.replica < 0:
        return f"replica {entry.replica}"
    if entry.size != math.prod(entry.box_shape) * ITEM_BYTES[entry.dtype]:
        return f"{entry.size} bytes for shape {entry.box_shape} of {entry.dtype}"
    return ""


def values_of(manifest: Manifest, **decoding: Any) -> Any:
    """Returns the manifest's values, decoded. Raises: ProtocolError."""
    return decode_plain(manifest.values, **decoding)
