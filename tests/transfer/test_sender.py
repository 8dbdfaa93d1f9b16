"""A copy arrives whole, or somebody says which chunk did not."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.transfer.links import CHUNK_BYTES, Beside, Link, cut, flip
from twinstep.errors import Corrupt, DeadlinePassed, ProtocolError, Refused
from twinstep.transfer import frame, sender
from twinstep.transfer.channel import Channel, LoopbackChannel, PeerClosed
from twinstep.values import DIGEST_BYTES

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 77]
links = st.sampled_from(["loopback", "tcp", "unix"])


def bytes_of(size: int, *, seed: int = 0) -> memoryview:
    return memoryview(random.Random(seed).randbytes(size))


def send(channel: Channel, view: memoryview, **more: Any) -> bytes:
    return sender.send_copy(
        channel, view=view, size=len(view), chunk_bytes=CHUNK_BYTES, **more
    )


def receive(channel: Channel, view: memoryview, **more: Any) -> bytes:
    return sender.receive_copy(
        channel, view=view, size=len(view), chunk_bytes=CHUNK_BYTES, **more
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_arrives_as_it_was(link: Link, size: int) -> None:
    first, second = link.pair()
    source, target = bytes_of(size), memoryview(bytearray(size))
    sent = Beside(lambda: send(first, source))
    digests = receive(second, target)
    assert target == source
    assert sent.result() == digests == sender.hash_copy(source, size, CHUNK_BYTES)
    assert sender.verify_copy(target, size, CHUNK_BYTES, digests) is None


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_make_the_whole(link: Link, parts: int) -> None:
    size = SIZES[-1]
    source, target = bytes_of(size), memoryview(bytearray(size))
    received: list[bytes] = []
    for part in range(parts):
        first, second = link.pair()
        sent = Beside(lambda f=first, p=part: send(f, source, part=p, parts=parts))
        received.append(receive(second, target, part=part, parts=parts))
        assert sent.result() == received[-1]
    assert target == source
    whole = sender.hash_copy(source, size, CHUNK_BYTES)
    assert sender.merge_digests(received) == whole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 9])
def test_sizes_of_parts_add_up(size: int, parts: int) -> None:
    sizes = [
        sender.part_size(size, chunk_bytes=CHUNK_BYTES, part=part, parts=parts)
        for part in range(parts)
    ]
    assert sum(sizes) == size and min(sizes) >= 0


def test_a_part_leaves_the_chunks_of_others_alone(link: Link) -> None:
    source, target = bytes_of(3 * CHUNK_BYTES), memoryview(bytearray(3 * CHUNK_BYTES))
    first, second = link.pair()
    sent = Beside(lambda: send(first, source, part=1, parts=2))
    receive(second, target, part=1, parts=2)
    sent.result()
    assert not any(target[:CHUNK_BYTES]) and not any(target[2 * CHUNK_BYTES :])
    assert target[CHUNK_BYTES : 2 * CHUNK_BYTES] == source[CHUNK_BYTES:-CHUNK_BYTES]


def frames_of(view: memoryview) -> int:
    """How many bytes a copy takes on the wire, heads included."""
    total = 0
    for at in range(0, len(view), CHUNK_BYTES):
        digest = xxhash.xxh3_128_digest(view[at : at + CHUNK_BYTES])
        chunk = frame.Chunk(index=at // CHUNK_BYTES, digest=digest)
        total += len(frame.encode(chunk)) + len(view[at : at + CHUNK_BYTES])
    return total


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(kind=links, where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_in_flight_is_found(kind: str, where: float, mask: int) -> None:
    source, target = bytes_of(3 * CHUNK_BYTES + 5), bytearray(3 * CHUNK_BYTES + 5)
    link = Link(kind)
    first, second = link.pair(flip(int(where * frames_of(source)), mask))
    sent = Beside(lambda: send(first, source))
    try:
        with pytest.raises((Corrupt, ProtocolError)):
            receive(second, memoryview(target))
    finally:
        link.close()
    # The receiver may hang up before the sender has sent everything.
    with contextlib.suppress(PeerClosed):
        sent.result()


def test_every_position_of_a_frame_is_guarded() -> None:
    source = bytes_of(100)
    for position in range(frames_of(source)):
        first, second = Link("loopback").pair(flip(position, 0x10))
        send(first, source)
        with pytest.raises((Corrupt, ProtocolError)):
            receive(second, memoryview(bytearray(100)))


def test_a_bad_chunk_is_named_after_all_were_read() -> None:
    size = 4 * CHUNK_BYTES
    source, target = bytes_of(size), bytearray(size)
    position = 2 * (frames_of(source) // 4) + CHUNK_BYTES // 2
    first, second = Link("loopback").pair(flip(position, 1))
    send(first, source)
    with pytest.raises(Corrupt, match=f"chunk 2 at byte {2 * CHUNK_BYTES} .*1 of 4"):
        receive(second, memoryview(target))
    assert target[3 * CHUNK_BYTES :] == source[3 * CHUNK_BYTES :]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(["tcp", "unix"]), where=st.floats(0, 1, exclude_max=True))
def test_a_stream_that_ends_early_is_no_copy(kind: str, where: float) -> None:
    source = bytes_of(2 * CHUNK_BYTES)
    link = Link(kind)
    first, second = link.pair(cut(int(where * frames_of(source))))
    sent = Beside(lambda: send(first, source))
    try:
        with pytest.raises(PeerClosed):
            receive(second, memoryview(bytearray(len(source))))
    finally:
        link.close()
    with contextlib.suppress(PeerClosed):
        sent.result()


def test_a_lost_frame_is_no_copy() -> None:
    lost = iter([False, True, False])
    first, second = LoopbackChannel.pair(tamper=lambda raw: None if next(lost) else raw)
    send(first, bytes_of(3 * CHUNK_BYTES))
    with pytest.raises(ProtocolError, match="expected chunk 1 .* got chunk 2"):
        receive(second, memoryview(bytearray(3 * CHUNK_BYTES)))


@given(st.integers(1, 3 * CHUNK_BYTES + 5), st.data())
def test_a_flipped_byte_at_rest_is_found(size: int, data: st.DataObject) -> None:
    copy = bytearray(bytes_of(size))
    digests = sender.hash_copy(memoryview(copy), size, CHUNK_BYTES)
    position = data.draw(st.integers(0, size - 1))
    copy[position] ^= data.draw(st.integers(1, 255))
    bad = sender.verify_copy(memoryview(copy), size, CHUNK_BYTES, digests)
    assert bad == position // CHUNK_BYTES


def test_damage_at_rest_is_found_by_whoever_receives_the_copy(link: Link) -> None:
    source = bytearray(bytes_of(3 * CHUNK_BYTES))
    known = sender.hash_copy(memoryview(source), len(source), CHUNK_BYTES)
    source[CHUNK_BYTES + 9] ^= 4
    first, second = link.pair()
    sent = Beside(lambda: send(first, memoryview(source), digests=known))
    with pytest.raises(Corrupt, match="chunk 1 "):
        receive(second, memoryview(bytearray(len(source))))
    assert sent.result() == known


@pytest.mark.parametrize(
    ("header", "payload", "named"),
    [
        (frame.Chunk(index=1, digest=bytes(16)), b"a" * 10, "got chunk 1 of 10"),
        (frame.Chunk(index=0, digest=bytes(16)), b"a" * 9, "got chunk 0 of 9"),
        (frame.Chunk(index=0, digest=bytes(8)), b"a" * 10, "digest of 8 bytes"),
        (frame.Verified(shard=1, step=1), b"", "got Verified"),
    ],
)
def test_a_chunk_that_is_not_the_next_is_refused(
    link: Link, header: frame.DataHeader, payload: bytes, named: str
) -> None:
    first, second = link.pair()
    first.send(header, memoryview(payload) if payload else None)
    with pytest.raises(ProtocolError, match=named):
        receive(second, memoryview(bytearray(10)))


def test_a_rejection_between_chunks_is_a_refusal(link: Link) -> None:
    first, second = link.pair()
    first.send(frame.Rejected(reason="round 4 has begun"))
    with pytest.raises(Refused, match="round 4 has begun"):
        receive(second, memoryview(bytearray(10)))


def test_cancelling_stops_before_the_next_chunk() -> None:
    asked = iter([False, False, True])
    first, second = LoopbackChannel.pair(deadline_s=0.05)
    with pytest.raises(Refused, match="before sending chunk 2"):
        send(first, bytes_of(4 * CHUNK_BYTES), cancelled=lambda: next(asked))
    with pytest.raises(DeadlinePassed):
        receive(second, memoryview(bytearray(4 * CHUNK_BYTES)))
    with pytest.raises(Refused, match="before receiving chunk 0"):
        receive(second, memoryview(bytearray(8)), cancelled=lambda: True)


def test_digests_have_the_size_of_an_xxh3_128() -> None:
    view = bytes_of(5)
    assert sender.hash_copy(view, 5, CHUNK_BYTES) == xxhash.xxh3_128_digest(view)
    assert len(xxhash.xxh3_128_digest(b"")) == DIGEST_BYTES
