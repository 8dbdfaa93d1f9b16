"""A frame is read as it was written, or refused with what is wrong."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import msgspec
import pytest
from hypothesis import given, strategies as st

from twinstep.errors import ProtocolError
from twinstep.transfer import frame
from twinstep.transfer.frame import PREFIX_BYTES, Chunk, DataHeader

OFFER = frame.Offer(
    job="j", machine="m01", round=3, term=2, shard=5, step=12, size=9000,
    chunk_bytes=4096, part=1, parts=2,
)  # fmt: skip
FETCH = frame.Fetch(job="j", machine="m01", round=3, term=2, shard=5, step=12)
HEADERS = [
    OFFER,
    FETCH,
    frame.Accepted(),
    frame.Told(first=3, count=64),
    frame.Lacks(first=3),
    frame.Found(size=9000, chunk_bytes=4096),
    Chunk(index=7, digest=bytes(range(16))),
    frame.Waits(),
    frame.Verified(shard=5, step=12),
    frame.Rejected(reason="round 2 is over"),
]


def read(raw: bytes, *, payload_bytes_max: int = 1 << 20) -> tuple[DataHeader, bytes]:
    header, payload = frame.decode_frame(
        raw,
        frame.DATA_DECODER,
        header_bytes_max=frame.DATA_HEADER_BYTES_MAX,
        payload_bytes_max=payload_bytes_max,
    )
    return header, bytes(payload)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: type(header).__name__)
def test_what_was_written_is_read(header: DataHeader) -> None:
    assert read(frame.encode(header)) == (header, b"")
    assert read(frame.encode(header, payload_bytes=3) + b"abc") == (header, b"abc")


def test_every_kind_of_header_is_tested() -> None:
    kinds = DataHeader.__args__  # type: ignore[attr-defined]
    assert {type(header) for header in HEADERS} == set(kinds)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: type(header).__name__)
def test_a_flipped_bit_in_prefix_or_header_is_refused(header: DataHeader) -> None:
    raw = frame.encode(header, payload_bytes=3) + b"abc"
    for position in range(len(raw) - 3):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << bit
            with pytest.raises(ProtocolError):
                read(bytes(damaged))


@given(st.data())
def test_flipped_bytes_in_prefix_and_header_are_refused(data: st.DataObject) -> None:
    raw = frame.encode(OFFER)
    positions = st.sets(st.integers(0, len(raw) - 1), min_size=1, max_size=3)
    damaged = bytearray(raw)
    for position in data.draw(positions):
        damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        read(bytes(damaged))


@given(st.binary(max_size=200))
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(raw)


def test_every_truncation_is_refused() -> None:
    raw = frame.encode(OFFER, payload_bytes=3) + b"abc"
    for length in range(len(raw)):
        with pytest.raises(ProtocolError):
            read(raw[:length])
    with pytest.raises(ProtocolError, match="has"):
        read(raw + b"x")


def hostile(*, header_bytes: int, payload_bytes: int) -> bytes:
    """A prefix that is whole, and announces what it likes."""
    fields = struct.pack("<4sIQI", frame.MAGIC, header_bytes, payload_bytes, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes", "named"),
    [(1 << 30, 0, "header of 1073741824"), (10, 1 << 60, "payload of 11529")],
)
def test_a_hostile_length_is_refused_and_nothing_allocated(
    header_bytes: int, payload_bytes: int, named: str
) -> None:
    raw = hostile(header_bytes=header_bytes, payload_bytes=payload_bytes)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=named):
            frame.parse_prefix(raw, header_bytes_max=4096, payload_bytes_max=1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_bounds_are_inclusive() -> None:
    raw = frame.encode(Chunk(index=0, digest=b""), payload_bytes=8)
    header_bytes = len(raw) - PREFIX_BYTES
    prefix = frame.parse_prefix(raw, header_bytes_max=header_bytes, payload_bytes_max=8)
    assert (prefix.header_bytes, prefix.payload_bytes) == (header_bytes, 8)
    with pytest.raises(ProtocolError, match="header"):
        frame.parse_prefix(raw, header_bytes_max=header_bytes - 1, payload_bytes_max=8)
    with pytest.raises(ProtocolError, match="payload"):
        frame.parse_prefix(raw, header_bytes_max=header_bytes, payload_bytes_max=7)


def test_another_protocol_is_named() -> None:
    with pytest.raises(ProtocolError, match="GET "):
        read(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")


class Stranger(msgspec.Struct, tag=True):
    index: int


class Wrong(msgspec.Struct, tag="Chunk"):
    index: str
    digest: bytes


@pytest.mark.parametrize("header", [Stranger(1), Wrong("one", b"")])
def test_an_unknown_kind_or_field_is_refused(header: msgspec.Struct) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        read(frame.encode(header))


def test_the_longest_reason_fits_into_a_header() -> None:
    reason = "\N{SNOWMAN}" * frame.REASON_CHARS_MAX
    rejected = frame.Rejected(reason=reason)
    assert read(frame.encode(rejected)) == (rejected, b"")
