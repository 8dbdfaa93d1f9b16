"""The bytes of a simulated machine, as far as anybody could tell them apart.

A slot is a few chunks, and a chunk is whose state it is, at which step, captured in
which round and term: a stale, torn or mixed copy is visible at once. Two runs of one
step in two rounds are different states here, as they may be in life.
"""

from __future__ import annotations

from typing import TypeAlias

import xxhash

from twinstep.store.slots import SLOTS, SLOTS_MAX

Version: TypeAlias = tuple[int, int, int]
"""(step, round, term) of the state that was captured."""
Chunk: TypeAlias = tuple[int, int, Version] | str
"""(shard, number, version), or what is there instead."""
Place: TypeAlias = tuple[int, int]
"""(shard, slot)."""

EMPTY = "never written"
CHUNK_BYTES = 4096


class Memory:
    """The slots of one machine."""

    def __init__(self) -> None:
        self.slots: dict[Place, list[Chunk]] = {}

    def reserve(self, shard: int, *, chunks: int, slots: range = range(SLOTS)) -> None:
        for slot in slots:
            assert (shard, slot) not in self.slots, f"{shard} is reserved twice"
            self.slots[shard, slot] = [EMPTY] * chunks

    def release(self, shard: int) -> None:
        for slot in range(SLOTS_MAX):
            self.slots.pop((shard, slot), None)

    def version(self, place: Place) -> Version | None:
        """Returns what a slot holds whole; None when it is torn, bad or empty."""
        chunks = self.slots.get(place, [])
        versions = {chunk[2] for chunk in chunks if isinstance(chunk, tuple)}
        whole = [content(place[0], n, version) for version in versions
                 for n in range(len(chunks))]  # fmt: skip
        return versions.pop() if len(versions) == 1 and whole == chunks else None

    @property
    def reserved(self) -> int:
        return len(self.slots)


def content(shard: int, number: int, version: Version) -> Chunk:
    return (shard, number, version)


def digest(chunk: Chunk) -> bytes:
    return xxhash.xxh3_128_digest(repr(chunk).encode())


def digests(chunks: list[Chunk]) -> bytes:
    """The digests of a copy's chunks, one after another."""
    return b"".join(map(digest, chunks))


def flipped(chunk: Chunk) -> Chunk:
    """The same bytes with one bit that is not."""
    return f"flipped {chunk!r}"
