"""Pieces of memory land where they belong, whole or cut, and come back."""

from __future__ import annotations

import itertools
import mmap
import os

import numpy
import pytest
from hypothesis import given, settings, strategies as st

from twinstep.capture.snapshot import (
    LARGE_BYTES,
    PAGE_BYTES,
    SMALL_BYTES,
    Piece,
    address_of,
    blank,
    clip,
    coalesced,
    copy_hashed,
    copy_pieces,
    cut,
    restore_pieces,
)
from twinstep.transfer.sender import hash_copy, verify_copy

SIZE = 3 * PAGE_BYTES + 100


def live(size: int) -> numpy.ndarray:
    return numpy.random.default_rng(size).integers(0, 256, size, numpy.uint8)


def slot(size: int) -> memoryview:
    """Slot memory as the agent makes it: a shared mapping of a memfd."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, size)
    view = memoryview(mmap.mmap(descriptor, size))
    os.close(descriptor)
    return view


@pytest.mark.parametrize("size", [1, 100, SMALL_BYTES - 1, SMALL_BYTES, 1 << 20])
def test_copied_and_restored(size: int) -> None:
    source, target = live(size), slot(size + 64)
    copy_pieces([Piece(source.ctypes.data, size, 64)], target)
    assert bytes(target[64:]) == source.tobytes()
    assert bytes(target[:64]) == bytes(64)
    back = numpy.zeros(size, numpy.uint8)
    restore_pieces([Piece(back.ctypes.data, size, 64)], target.toreadonly())
    assert (back == source).all()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.one_of(
                st.integers(0, 5000), st.integers(LARGE_BYTES - 1, 3 * LARGE_BYTES)
            ),
        ),
        max_size=6,
    ),
    st.sampled_from([100, 4096, LARGE_BYTES, 2 * LARGE_BYTES]),
    st.integers(0, 300),
)
@settings(max_examples=40)
def test_digests_of_a_copy_are_those_of_the_slot(
    layout: list[tuple[int, int]], chunk_bytes: int, tail: int
) -> None:
    if chunk_bytes < 4096:
        layout = [(gap, min(size, 5000)) for gap, size in layout]
    source = live(max([size for _, size in layout], default=0) + 1)
    pieces, at = [], 0
    for gap, size in layout:
        pieces.append(Piece(source.ctypes.data, size, at + gap))
        at += gap + size
    target, plain = bytearray(b"\7" * (at + tail)), bytearray(b"\7" * (at + tail))
    digests = copy_hashed(pieces, memoryview(target), chunk_bytes=chunk_bytes)
    copy_pieces(pieces, memoryview(plain))
    assert target == plain
    assert digests == hash_copy(memoryview(target), len(target), chunk_bytes)


def test_damage_in_the_slot_does_not_become_its_digest() -> None:
    """The digests are of the live bytes, as they were when they were copied."""
    source, target = live(2 * LARGE_BYTES), slot(2 * LARGE_BYTES)
    pieces = [Piece(source.ctypes.data, len(source), 0)]
    digests = copy_hashed(pieces, target, chunk_bytes=LARGE_BYTES)
    assert verify_copy(target, len(source), LARGE_BYTES, digests) is None
    target[LARGE_BYTES + 5] ^= 1
    assert verify_copy(target, len(source), LARGE_BYTES, digests) == 1


@pytest.mark.parametrize("offset", [-1, 1])
def test_a_piece_outside_is_our_mistake(offset: int) -> None:
    source, target = live(64), slot(64)
    with pytest.raises(AssertionError):
        copy_pieces([Piece(source.ctypes.data, 64, offset)], target)
    with pytest.raises(AssertionError):
        restore_pieces([Piece(source.ctypes.data, 64, offset)], target)


def test_a_read_only_slot_is_never_written() -> None:
    source = live(64)
    with pytest.raises(AssertionError):
        copy_pieces([Piece(source.ctypes.data, 64, 0)], memoryview(bytes(64)))


def test_addresses_are_those_of_the_bytes() -> None:
    source = live(64)
    assert address_of(memoryview(source)) == source.ctypes.data
    assert address_of(memoryview(source)[8:]) == source.ctypes.data + 8
    assert address_of(memoryview(b"")) == 0


@given(st.integers(0, 20 * PAGE_BYTES), st.integers(1, 9))
def test_a_region_is_cut_without_gap(size: int, parts: int) -> None:
    ranges = [cut(size, parts=parts, index=index) for index in range(parts)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == size
    for first, second in itertools.pairwise(ranges):
        assert first.stop == second.start
        assert first.stop % PAGE_BYTES == 0 or first.stop == size


@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_cut_pieces_make_the_whole(sizes: list[int], parts: int) -> None:
    sources = [live(size) for size in sizes]
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    pieces = [
        Piece(source.ctypes.data, source.size, offset)
        for source, offset in zip(sources, offsets, strict=True)
    ]
    total = sum(sizes)
    whole = b""
    for index in range(parts):
        span = cut(total, parts=parts, index=index)
        view = memoryview(bytearray(len(span)))
        copy_pieces(clip(pieces, span), view)
        whole += bytes(view)
    assert whole == b"".join(source.tobytes() for source in sources)


def test_neighbours_become_one_piece() -> None:
    pieces = [Piece(300, 10, 30), Piece(100, 10, 0), Piece(110, 20, 10)]
    assert coalesced(pieces) == [Piece(100, 30, 0), Piece(300, 10, 30)]
    apart = [Piece(100, 10, 0), Piece(110, 10, 64)]
    assert coalesced(apart) == apart


def test_blank_makes_zeros_there_and_nowhere_else() -> None:
    target = memoryview(bytearray(b"\xff" * SIZE))
    gaps = [range(10, 20), range(5000, 5000), range(SIZE - 1, SIZE)]
    blank(gaps, target, range(SIZE))
    assert bytes(target[10:20]) == bytes(10)
    assert bytes(target).count(0) == 11


def test_blank_keeps_to_the_span_that_a_rank_has() -> None:
    target = memoryview(bytearray(b"\xff" * 100))
    blank([range(40, 60), range(140, 170), range(200, 210)], target, range(50, 150))
    assert [at for at, byte in enumerate(target) if not byte] == [
        *range(10),
        *range(90, 100),
    ]
