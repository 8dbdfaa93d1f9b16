"""Bytes of any kind become a value within its bounds, or the one documented error."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import CORPUS, TARGETS, kept

ROUNDS = 400
"""Hostile inputs of each target in the normal run; `make fuzz` makes millions."""
FIXED_BYTES = 1_500_000
"""What a target may allocate for an empty input: a root, the room of a seal."""

each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_what_was_found_before_stays_repaired(name: str) -> None:
    for data in [b"", *TARGETS[name].seeds(), *kept(name)]:
        TARGETS[name].feed(data)


@each_target
def test_hostile_inputs_are_refused(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(zlib.crc32(name.encode()))
    inputs = [*target.seeds(), *kept(name)]
    for number in range(ROUNDS):
        data = mutated(rng.choice(inputs), rng, packed=target.packed)
        try:
            target.feed(data)
        except Exception as error:
            pytest.fail(f"{name}, input {number}, {data[:2000]!r}: {error!r}")


@each_target
@settings(max_examples=60)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(name: str, data: bytes) -> None:
    TARGETS[name].feed(data)


@each_target
def test_memory_follows_what_was_sent_not_what_was_announced(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(1)
    inputs = [*target.seeds(), *kept(name)]
    for data in inputs:
        target.feed(data)  # caches are filled
    for _ in range(40):
        data = mutated(rng.choice(inputs), rng, packed=target.packed)
        tracemalloc.start()
        try:
            target.feed(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        most = FIXED_BYTES + target.bytes_per_byte * len(data)
        assert peak < most, f"{peak} bytes for {len(data)}: {data[:400]!r}"


def test_the_corpus_belongs_to_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1 << 20
