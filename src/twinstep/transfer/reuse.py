"""What a holder has already is not sent.

A chunk of a copy often lies in the holder's memory under another name. Parameters that
training does not change are in its copy of the step before. Where a state is sharded
inside each pod and whole in each (hybrid sharding), a rank of another pod has the same
boxes, and its machine has captured them itself. So a sender that knows the digests of
its chunks tells them first, and the holder asks for what it lacks:

    sender                  holder
      Offer, told    ─────►
                     ◄─────  Accepted, tell
      Told 0..1023   ─────►  copies what is here, hashes it, compares
                     ◄─────  Lacks: 17 of them
      Chunk 3, ...   ─────►

Nothing is believed: what is taken from the own memory is hashed where it was put, like
what arrives. A source that is damaged, or overwritten meanwhile, is a chunk that lacks.
Where nothing is at hand this costs one round trip for each 1,024 chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import xxhash

from twinstep.errors import ProtocolError, Refused
from twinstep.transfer.channel import Channel
from twinstep.transfer.frame import Lacks, Rejected, Told
from twinstep.values import DIGEST_BYTES, chunk_of, digest_of

CHUNKS_MAX = 1024
"""Told at once; fewer where their digests do not fit into a chunk."""


@dataclass(slots=True, kw_only=True)
class Source:
    """A whole copy in this machine's memory, whose chunks may be those that come."""

    view: memoryview
    digests: bytes
    taken: int = 0
    """How many chunks were taken from it."""

    def has(self, index: int, digest: bytes) -> bool:
        return digest_of(self.digests, index) == digest


def windows(positions: range, chunk_bytes: int) -> Iterator[range]:
    """Yields the chunks that are told at once, in order; both ends cut alike."""
    count = max(1, min(CHUNKS_MAX, chunk_bytes // DIGEST_BYTES))
    for at in range(0, len(positions), count):
        yield positions[at : at + count]


def tell(channel: Channel, window: range, digests: bytes) -> list[int]:
    """Tells the digests of a window's chunks, out of those of the whole copy; returns
    the chunks that the holder lacks.

    Raises: Refused, ProtocolError, DeadlinePassed, PeerClosed."""
    told = b"".join(digest_of(digests, index) for index in window)
    channel.send(Told(first=window[0], count=len(window)), memoryview(told))
    header, payload_bytes = channel.receive()
    if isinstance(header, Rejected):
        raise Refused(header.reason)
    due = -(-len(window) // 8)
    if not isinstance(header, Lacks) or (header.first, payload_bytes) != (
        window[0],
        due,
    ):
        raise ProtocolError(
            f"expected what lacks from chunk {window[0]} on in {due} bytes, got "
            f"{type(header).__name__} with {payload_bytes} bytes"
        )
    bits = bytearray(due)
    channel.receive_into(memoryview(bits))
    return [i for at, i in enumerate(window) if bits[at // 8] >> at % 8 & 1]


def take(
    channel: Channel,
    window: range,
    *,
    view: memoryview,
    size: int,
    chunk_bytes: int,
    sources: Sequence[Source],
    cancelled: Callable[[], bool],
) -> dict[int, bytes]:
    """Hears what comes, puts into `view` what is here of it, and asks for the rest.

    Returns the digests of the chunks that are in place now, by their position.

    Raises: Refused when cancelled; ProtocolError, DeadlinePassed, PeerClosed."""
    header, payload_bytes = channel.receive()
    due = len(window) * DIGEST_BYTES
    said = isinstance(header, Told) and (header.first, header.count, payload_bytes)
    if said != (window[0], len(window), due):
        raise ProtocolError(
            f"expected the digests of {len(window)} chunks from {window[0]} on, got "
            f"{type(header).__name__} with {payload_bytes} bytes"
        )
    raw = bytearray(due)
    channel.receive_into(memoryview(raw))
    told = bytes(raw)
    taken: dict[int, bytes] = {}
    bits = bytearray(-(-len(window) // 8))
    for at, index in enumerate(window):
        if cancelled():
            raise Refused(f"cancelled here before taking chunk {index}")
        digest = digest_of(told, at)
        piece = chunk_of(view, index, size=size, chunk_bytes=chunk_bytes)
        if _taken(piece, index, digest, sources, size=size, chunk_bytes=chunk_bytes):
            taken[index] = digest
        else:
            bits[at // 8] |= 1 << at % 8
    channel.send(Lacks(first=window[0]), memoryview(bits))
    return taken


def _taken(
    piece: memoryview,
    index: int,
    digest: bytes,
    sources: Sequence[Source],
    *,
    size: int,
    chunk_bytes: int,
) -> bool:
    for source in sources:
        if not source.has(index, digest):
            continue
        piece[:] = chunk_of(source.view, index, size=size, chunk_bytes=chunk_bytes)
        if xxhash.xxh3_128_digest(piece) == digest:
            source.taken += 1
            return True
    return False
