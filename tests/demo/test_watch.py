"""How far a copy has come is told by the memory that it is written into."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinstep.demo.watch import FRESH_S, PLACES, Eyes, Places, Progress
from twinstep.errors import UsageError

OLD, NEW, NEWER = b"old", b"new", b"newer"


def places(*parts: tuple[bytes, int]) -> Places:
    return tuple(value for value, count in parts for _ in range(count))


def seen_whole() -> Progress:
    """A slot that was filled with NEW after it had held OLD."""
    progress = Progress(whole=places((OLD, 4)))
    progress.take(places((NEW, 4)), 1.0)
    return progress


def test_a_copy_under_way_is_torn_until_it_is_whole() -> None:
    progress = seen_whole()
    assert not progress.torn(1.0)
    progress.take(places((NEWER, 1), (NEW, 3)), 1.1)
    assert progress.torn(1.1) and progress.share == 0.25
    progress.take(places((NEWER, 3), (NEW, 1)), 1.2)
    assert progress.torn(1.2) and progress.share == 0.75
    progress.take(places((NEWER, 4)), 1.3)
    assert not progress.torn(1.3)


def test_nothing_is_believed_of_a_slot_that_was_first_seen_torn() -> None:
    progress = Progress(whole=places((NEW, 2), (OLD, 2)))
    progress.take(places((NEW, 2), (OLD, 2)), 0.9)
    progress.take(places((NEW, 4)), 1.0)  # whole, though half looks as before
    assert not progress.torn(1.0)
    progress.take(places((NEWER, 4)), 1.1)
    progress.take(places((OLD, 1), (NEWER, 3)), 1.2)
    assert progress.torn(1.2)


def test_a_copy_that_was_given_up_is_not_under_way() -> None:
    progress = seen_whole()
    for at_s in (1.1, 1.2 + FRESH_S):
        progress.take(places((NEWER, 1), (NEW, 3)), at_s)
    assert not progress.torn(1.2 + FRESH_S)


@pytest.fixture
def slot() -> Iterator[tuple[mmap.mmap, Path]]:
    descriptor = os.memfd_create("slot")
    os.ftruncate(descriptor, 1 << 20)
    memory = mmap.mmap(descriptor, 1 << 20)
    yield memory, Path(f"/proc/self/fd/{descriptor}")
    memory.close()
    os.close(descriptor)


def test_eyes_see_how_far_somebody_else_has_written(
    slot: tuple[mmap.mmap, Path],
) -> None:
    memory, path = slot
    size = len(memory)
    with Eyes([path]) as eyes:
        memory[:] = b"a" * size
        assert eyes.look(1.0) == 0.0
        memory[: size // 2] = b"b" * (size // 2)
        assert abs(eyes.look(1.1) - 0.5) <= 1 / PLACES
        memory[size // 2 :] = b"b" * (size // 2)
        assert eyes.look(1.2) == 0.0


def test_no_slot_cannot_be_watched() -> None:
    with pytest.raises(UsageError, match="no slot to watch"):
        Eyes([])
    with pytest.raises(UsageError, match="a slot is gone"):
        Eyes([Path("/proc/self/fd/9999")])
