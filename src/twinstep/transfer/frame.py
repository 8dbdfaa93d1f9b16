"""Decides what bytes on a connection mean, and refuses those that mean nothing.

A frame is a prefix of fixed size, a header and a payload:

    magic "TWN1" | header bytes | payload bytes | header crc | prefix crc | header ...
         4             u32             u64            u32          u32      | payload

The header is a tagged msgpack struct: typed, bounded, plain data. The payload is raw
bytes, which a channel reads straight to where they belong. The prefix has a checksum
of its own, over the five fields before it, so that no announced length is believed,
and no memory set aside for it, before the prefix is known to be whole and in bounds.
CRC-32 finds every error burst of up to 32 bits: one flipped byte in a prefix or header
cannot pass. The payload's checksum travels in its header (`Chunk.digest`).

Left out: reading and writing (channel.py, tcp.py); who may send what and when
(sender.py); control messages, which use the same frames with a union of their own.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from twinstep.bounds import Bytes, Count, Name, Shard
from twinstep.errors import ProtocolError

MAGIC = b"TWN1"
_FIELDS = struct.Struct("<4sIQI")
_CHECK = struct.Struct("<I")
PREFIX_BYTES = _FIELDS.size + _CHECK.size

# The longest data header is a Rejected; its reason is cut to fit.
DATA_HEADER_BYTES_MAX = 4096
REASON_CHARS_MAX = 800

Header = TypeVar("Header")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The checked prefix of a frame: what follows it, in bytes."""

    header_bytes: int
    payload_bytes: int
    header_crc: int


def encode(header: msgspec.Struct, *, payload_bytes: int = 0) -> bytes:
    """Returns the prefix and header of a frame; the payload is to follow them."""
    assert payload_bytes >= 0, payload_bytes
    raw = msgspec.msgpack.encode(header)
    fields = _FIELDS.pack(MAGIC, len(raw), payload_bytes, zlib.crc32(raw))
    return b"".join((fields, _CHECK.pack(zlib.crc32(fields)), raw))


def parse_prefix(
    raw: bytes | bytearray | memoryview,
    *,
    header_bytes_max: int,
    payload_bytes_max: int,
) -> Prefix:
    """Returns the prefix that the first PREFIX_BYTES of `raw` hold.

    Raises: ProtocolError naming the field that is wrong, its value and its bound."""
    assert len(raw) >= PREFIX_BYTES, len(raw)
    magic, header_bytes, payload_bytes, header_crc = _FIELDS.unpack_from(raw)
    (check,) = _CHECK.unpack_from(raw, _FIELDS.size)
    if magic != MAGIC:
        raise ProtocolError(
            f"a frame begins with {magic!r} instead of {MAGIC!r}: the peer is not "
            "twinstep, or is another version of it"
        )
    if zlib.crc32(memoryview(raw)[: _FIELDS.size]) != check:
        raise ProtocolError("a frame's prefix does not have the checksum it carries")
    if header_bytes > header_bytes_max:
        raise ProtocolError(
            f"a frame announces a header of {header_bytes} bytes; at most "
            f"{header_bytes_max} are accepted here"
        )
    if payload_bytes > payload_bytes_max:
        raise ProtocolError(
            f"a frame announces a payload of {payload_bytes} bytes; at most "
            f"{payload_bytes_max} are accepted here"
        )
    return Prefix(
        header_bytes=header_bytes, payload_bytes=payload_bytes, header_crc=header_crc
    )


def decode_header(
    prefix: Prefix,
    raw: bytes | bytearray | memoryview,
    decoder: msgspec.msgpack.Decoder[Header],
) -> Header:
    """Returns the header, one struct of the decoder's union, that `raw` holds.

    Raises: ProtocolError when the checksum, the kind or a field is wrong."""
    assert len(raw) == prefix.header_bytes, (len(raw), prefix)
    if zlib.crc32(raw) != prefix.header_crc:
        raise ProtocolError("a frame's header does not have the checksum it announced")
    try:
        return decoder.decode(raw)
        # Beside its own errors msgspec raises Python's: for text that is no UTF-8, and
        # for arrays in arrays in arrays.
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame's header cannot be read: {error}") from error


def decode_frame(
    raw: bytes,
    decoder: msgspec.msgpack.Decoder[Header],
    *,
    header_bytes_max: int,
    payload_bytes_max: int,
) -> tuple[Header, memoryview]:
    """Returns header and payload of exactly one frame held in memory.

    Raises: ProtocolError, also when bytes are missing or left over."""
    if len(raw) < PREFIX_BYTES:
        raise ProtocolError(f"a frame ends after {len(raw)} of {PREFIX_BYTES} bytes")
    prefix = parse_prefix(
        raw, header_bytes_max=header_bytes_max, payload_bytes_max=payload_bytes_max
    )
    payload_at = PREFIX_BYTES + prefix.header_bytes
    if len(raw) != payload_at + prefix.payload_bytes:
        raise ProtocolError(
            f"a frame of {payload_at + prefix.payload_bytes} bytes has {len(raw)}"
        )
    view = memoryview(raw)
    header = decode_header(prefix, view[PREFIX_BYTES:payload_at], decoder)
    return header, view[payload_at:]


class Offer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """I would send you a copy, of which this connection carries one part."""

    job: str
    machine: Name
    round: Count
    term: Count
    shard: Shard
    step: Count
    captured_in: Count = 0
    """The round that captured the copy."""
    keep: Count = 0
    """The newest step that the sender knows all keep."""
    replace: bool = False
    """The receiver's copy of it was found to be bad."""
    size: Bytes
    chunk_bytes: Bytes
    part: Shard = 0
    parts: Shard = 1
    told: bool = False
    """The digests of the chunks are known, and can be told before (reuse.py)."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The slot is yours: send the chunks of your offer."""

    tell: bool = False
    """Tell their digests first: some may be here."""


class Told(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The digests of the next `count` chunks of this part; the payload."""

    first: Count
    count: Count


class Lacks(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Which of the chunks told are not here: a bit each in the payload, the first
    chunk's lowest in the first byte."""

    first: Count


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send me one part of your copy of a shard at a step."""

    job: str
    machine: Name
    round: Count
    term: Count
    shard: Shard
    step: Count
    captured_in: Count = 0
    doubt: bool = False
    """What you sent before was damaged: see first whether your copy is good."""
    part: Shard = 0
    parts: Shard = 1


class Found(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The copy asked for, and how it is cut; its chunks follow."""

    size: Bytes
    chunk_bytes: Bytes


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One chunk of a copy; the payload is its bytes."""

    index: Count
    digest: bytes


class Waits(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The sender lives, and waits for its turn: the next chunk comes later."""


class Verified(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """I hold this part of the copy, and every chunk has its checksum."""

    shard: Shard
    step: Count


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No, and why."""

    reason: str
    bad: bool = False
    """The copy asked for is here, and is not what was captured."""


DataHeader = (
    Offer
    | Accepted
    | Told
    | Lacks
    | Fetch
    | Found
    | Chunk
    | Waits
    | Verified
    | Rejected
)
DATA_DECODER: msgspec.msgpack.Decoder[DataHeader] = msgspec.msgpack.Decoder(DataHeader)
