"""What is old goes, what others own stays, and what is kept is never touched."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as some

from twinstep.store.retention import leftovers, to_remove

STEPS = [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "newest", "gone"),
    [
        (2, 0, 50, [10, 20, 30]),
        (1, 0, 50, [10, 20, 30, 40]),
        (9, 0, 50, []),
        (2, 20, 50, [10, 30]),
        (1, 0, 30, [10, 20]),  # the run went back to 30: 40 and 50 are no older
        (1, 0, 5, []),
    ],
)
def test_old_steps_go(
    keep_last: int, keep_every: int, newest: int, gone: list[int]
) -> None:
    kept = {"keep_last": keep_last, "keep_every": keep_every, "newest": newest}
    assert to_remove(STEPS[::-1], **kept) == gone


@settings(max_examples=50)
@given(
    some.sets(some.integers(1, 60)),
    some.integers(1, 5),
    some.integers(0, 7),
    some.integers(1, 60),
)
def test_the_newest_are_never_removed(
    steps: set[int], keep_last: int, keep_every: int, newest: int
) -> None:
    gone = to_remove(
        sorted(steps), keep_last=keep_last, keep_every=keep_every, newest=newest
    )
    past = sorted(step for step in steps if step <= newest)
    assert set(past[-keep_last:]).isdisjoint(gone)
    assert set(gone) <= set(past)
    assert gone == sorted(gone)
    assert not keep_every or all(step % keep_every for step in gone)


def test_what_an_attempt_left_goes_and_what_others_keep_stays() -> None:
    tables = [".twinstep", ".metadata"]
    folders = {
        1: ["r1-t1-m0.distcp", "r1-t1-m0.part", ".metadata.0a1b2c3d.unfinished"],
        2: ["r2-t1-m0.distcp", "r1-t1-m0.distcp", "README.md", *tables],
        3: ["model.safetensors", "weights.distcp"],
        4: ["r2-t1-m0.distcp", *tables],
        5: ["r2-t1-m0.chunks", "r1-t1-m0.nodes", *tables, "_METADATA"],
    }
    kept = {
        2: ["r2-t1-m0.distcp", *tables],
        4: ["r2-t1-m0.distcp", *tables],
        5: ["r2-t1-m0.chunks", ".twinstep", "_METADATA"],
    }
    assert leftovers(folders, kept) == {
        1: [".metadata.0a1b2c3d.unfinished", "r1-t1-m0.distcp", "r1-t1-m0.part"],
        2: ["r1-t1-m0.distcp"],
        5: [".metadata", "r1-t1-m0.nodes"],
    }


def test_a_step_that_goes_loses_its_metadata_first() -> None:
    folders = {7: [".twinstep", ".metadata", "r1-t1-m0.distcp", "notes.txt"]}
    assert leftovers(folders, {}) == {
        7: [".metadata", ".twinstep", "r1-t1-m0.distcp"],
    }
