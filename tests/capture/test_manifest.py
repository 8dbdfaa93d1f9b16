"""A manifest says what was captured, and nothing else is believed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from twinstep.capture.manifest import (
    ITEM_BYTES,
    Entry,
    StaticPart,
    decode_manifest,
    encode_entries,
    encode_manifest,
    read_manifest,
    values_of,
    write_head,
)
from twinstep.capture.plain import encode_plain
from twinstep.errors import ProtocolError

HEAD, OWN, SHARED = 4096, 8192, 2048
VALUES = encode_plain({"lr": 0.1}, path="x")


def entry(name: str = "a", **changes: Any) -> Entry:
    given: dict[str, Any] = {
        "name": name,
        "dtype": "float32",
        "global_shape": (4, 8),
        "box_offsets": (2, 0),
        "box_shape": (2, 8),
        "offset": HEAD,
        "size": 64,
        "region": "own",
    }
    return Entry(**(given | changes))


def encoded(entries: list[Entry], step: int = 7, values: bytes = VALUES) -> bytes:
    static = StaticPart(
        head_bytes=HEAD,
        own_bytes=OWN,
        shared_bytes=SHARED,
        entries=encode_entries(entries),
    )
    return encode_manifest(static, step=step, values=values)


ENTRIES = [
    entry("a"),
    entry("b", offset=HEAD + 64),
    entry("c", region="shared", offset=0),
    entry("none", offset=OWN, box_shape=(2, 0), size=0),
    entry("scalar", global_shape=(), box_offsets=(), box_shape=(), offset=5000, size=4),
]


def test_a_manifest_comes_back_from_a_slot() -> None:
    slot = memoryview(bytearray(OWN))
    write_head(slot[:HEAD], encoded(ENTRIES))
    manifest = read_manifest(slot)
    assert manifest.step == 7
    assert list(manifest.entries) == ENTRIES
    assert (manifest.head_bytes, manifest.own_bytes) == (HEAD, OWN)
    assert manifest.shared_bytes == SHARED
    assert values_of(manifest) == {"lr": 0.1}


def test_entries_from_before_replicas_were_counted_are_read() -> None:
    fields = msgspec.msgpack.decode(encode_entries([entry(replica=3)]))
    assert msgspec.msgpack.decode(
        msgspec.msgpack.encode([fields[0][:-1]]), type=list[Entry]
    ) == [entry(replica=0)]


@pytest.mark.parametrize(
    "wrong",
    [
        entry(replica=-1),
        entry(offset=HEAD - 64),
        entry(offset=OWN - 32),
        entry(offset=-64),
        entry(offset=1 << 60),
        entry(region="shared", offset=SHARED),
        entry(size=60),
        entry(size=-64),
        entry(dtype="object"),
        entry(dtype="float16"),
        entry(box_offsets=(3, 0)),
        entry(box_offsets=(-1, 0)),
        entry(box_offsets=(0,)),
        entry(box_shape=(2, -8)),
        entry(box_shape=(-2, -8)),
        entry(global_shape=(1,) * 100, box_offsets=(0,) * 100, box_shape=(1,) * 100),
        entry(name="x" * 5000),
        entry(region="elsewhere"),
        entry("first"),
        entry(offset=HEAD + 1024 + 32),
        entry(offset=HEAD + 1024 - 32),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(wrong: Entry) -> None:
    with pytest.raises(ProtocolError):
        decode_manifest(encoded([entry("first", offset=HEAD + 1024), wrong]))


def test_the_refusal_names_the_tensor() -> None:
    with pytest.raises(ProtocolError, match="'model.w'.*60 bytes"):
        decode_manifest(encoded([entry("model.w", size=60)]))


def test_sizes_that_make_no_sense_are_refused() -> None:
    good = msgspec.msgpack.decode(encoded([]))
    for position, value in (
        (0, 2),
        (1, -1),
        (2, 0),
        (3, HEAD - 1),
        (4, -1),
        (4, 1 << 60),
    ):
        bad = list(good)
        bad[position] = value
        with pytest.raises(ProtocolError):
            decode_manifest(msgspec.msgpack.encode(bad))


@pytest.mark.parametrize("length", [0, OWN - 7, 1 << 63])
def test_a_length_that_makes_no_sense_is_refused(length: int) -> None:
    slot = memoryview(bytearray(OWN))
    write_head(slot, encoded(ENTRIES))
    slot[:8] = length.to_bytes(8, "little")
    with pytest.raises(ProtocolError):
        read_manifest(slot)


def test_a_slot_smaller_than_its_shard_is_refused() -> None:
    slot = memoryview(bytearray(OWN))
    write_head(slot, encoded(ENTRIES))
    for size in (0, 7, HEAD, OWN - 1):
        with pytest.raises(ProtocolError):
            read_manifest(slot[:size])


@given(st.data())
def test_a_changed_byte_never_places_bytes_outside(data: st.DataObject) -> None:
    hostile = bytearray(encoded(ENTRIES))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(hostile) - 1))
        hostile[position] = data.draw(st.integers(0, 255))
    try:
        manifest = decode_manifest(bytes(hostile))
    except ProtocolError:
        return
    ends = {"own": manifest.own_bytes, "shared": manifest.shared_bytes}
    for found in manifest.entries:
        if found.size:
            first = manifest.head_bytes if found.region == "own" else 0
            assert first <= found.offset
            assert found.offset + found.size <= ends[found.region]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_manifest(data)


def test_every_dtype_has_its_size() -> None:
    assert ITEM_BYTES["bfloat16"] == ITEM_BYTES["int16"] == 2
    assert ITEM_BYTES["uint64"] == ITEM_BYTES["complex64"] == 8
