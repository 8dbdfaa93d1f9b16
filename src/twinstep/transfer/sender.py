"""Moves the chunks of a copy, so that nothing unverified is taken for a copy.

The sender hashes a chunk just before it sends it: the hash brings the chunk into the
cache from which the kernel then copies. The receiver hashes a chunk when the kernel
has just put it there (from cache 44 GB/s, from memory 17). A copy that is
sent for the second time, or fetched, goes out with the digests it was stored with,
so damage at rest is found by whoever receives it.

A copy may be cut into parts, one a connection: part i carries chunks i, i + parts, ...
A receiver that meets a wrong checksum reads on to the end of its part before it says
no, because a sender that is busy sending would never read the verdict.

Left out: threads, and when a chunk may be sent (the caller's `cancelled` and `turn` are
asked before each chunk); what is said before and after the chunks (exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import xxhash

from twinstep.errors import Corrupt, ProtocolError, Refused
from twinstep.transfer import reuse
from twinstep.transfer.channel import Channel
from twinstep.transfer.frame import Chunk, DataHeader, Rejected, Waits
from twinstep.transfer.reuse import Source
from twinstep.values import DIGEST_BYTES, chunk_count, chunk_of, digest_of

Cancelled = Callable[[], bool]
Turn = Callable[[int], None]
"""Returns when so many bytes may leave; the caller says when (agent/pacing.py)."""


def never() -> bool:
    return False


def at_once(_size: int) -> None:
    """Nothing is waited for."""


def send_copy(
    channel: Channel,
    *,
    view: memoryview,
    size: int,
    chunk_bytes: int,
    digests: bytes | None = None,
    part: int = 0,
    parts: int = 1,
    cancelled: Cancelled = never,
    turn: Turn = at_once,
    tells: bool = False,
) -> bytes:
    """Sends the chunks of one part of a copy; returns the digests of that part.

    `digests` are those of the whole copy, where they are known already; with `tells`
    they are told first, and only what the peer lacks is sent (reuse.py).

    Raises: Refused when cancelled, DeadlinePassed, PeerClosed; and what `turn` does."""
    positions = part_positions(size, chunk_bytes=chunk_bytes, part=part, parts=parts)
    assert digests is None or _fits(digests, size, chunk_bytes), len(digests)
    sent: list[bytes] = []

    def send(indexes: Iterable[int]) -> None:
        for index in indexes:
            _stop_if(cancelled, "sending", index)
            piece = chunk_of(view, index, size=size, chunk_bytes=chunk_bytes)
            turn(piece.nbytes)
            if digests is None:
                digest = xxhash.xxh3_128_digest(piece)
                sent.append(digest)
            else:
                digest = digest_of(digests, index)
            channel.send(Chunk(index=index, digest=digest), piece)

    if tells:
        assert digests is not None, "what is not known cannot be told"
        for window in reuse.windows(positions, chunk_bytes):
            _stop_if(cancelled, "telling", window[0])
            send(reuse.tell(channel, window, digests))
    else:
        send(positions)
    if digests is None:
        return b"".join(sent)
    return b"".join(digest_of(digests, index) for index in positions)


def receive_copy(
    channel: Channel,
    *,
    view: memoryview,
    size: int,
    chunk_bytes: int,
    part: int = 0,
    parts: int = 1,
    cancelled: Cancelled = never,
    waits_max: int = 0,
    sources: Sequence[Source] | None = None,
) -> bytes:
    """Reads one part of a copy into place; returns the digests of that part.

    The sender may say up to `waits_max` times before a chunk that it waits. With
    `sources`, be they none, it tells first what comes, and chunks that these have are
    not sent.

    Raises: Corrupt, after the whole part was read, naming the first chunk whose
    bytes do not have its digest; ProtocolError when a chunk is not the next one;
    Refused when cancelled; DeadlinePassed, PeerClosed."""
    positions = part_positions(size, chunk_bytes=chunk_bytes, part=part, parts=parts)
    received: dict[int, bytes] = {}
    bad: list[int] = []

    def receive(index: int) -> None:
        _stop_if(cancelled, "receiving", index)
        piece = chunk_of(view, index, size=size, chunk_bytes=chunk_bytes)
        header, payload_bytes = channel.receive()
        for _ in range(waits_max):
            if not isinstance(header, Waits):
                break
            _stop_if(cancelled, "receiving", index)
            header, payload_bytes = channel.receive()
        digest = _next_digest(header, payload_bytes, index=index, due=piece.nbytes)
        channel.receive_into(piece)
        if xxhash.xxh3_128_digest(piece) != digest:
            bad.append(index)
        received[index] = digest

    for window in reuse.windows(positions, chunk_bytes):
        if sources is not None:
            received |= reuse.take(
                channel,
                window,
                view=view,
                size=size,
                chunk_bytes=chunk_bytes,
                sources=sources,
                cancelled=cancelled,
            )
        for index in window:
            if index not in received:
                receive(index)
    if bad:
        raise Corrupt(
            f"chunk {bad[0]} at byte {bad[0] * chunk_bytes} arrived with other bytes "
            f"than were sent ({len(bad)} of {len(positions)} chunks are bad)"
        )
    return b"".join(received[index] for index in positions)


def _next_digest(
    header: DataHeader, payload_bytes: int, *, index: int, due: int
) -> bytes:
    if isinstance(header, Rejected):
        raise Refused(header.reason)
    if not isinstance(header, Chunk):
        raise ProtocolError(f"expected chunk {index}, got {type(header).__name__}")
    if header.index != index or payload_bytes != due:
        raise ProtocolError(
            f"expected chunk {index} of {due} bytes, got chunk {header.index} of "
            f"{payload_bytes}"
        )
    if len(header.digest) != DIGEST_BYTES:
        raise ProtocolError(
            f"chunk {index} has a digest of {len(header.digest)} bytes; "
            f"{DIGEST_BYTES} are expected"
        )
    return header.digest


def hash_copy(view: memoryview, size: int, chunk_bytes: int) -> bytes:
    """Returns the digests of all chunks of a copy."""
    return b"".join(
        xxhash.xxh3_128_digest(
            chunk_of(view, index, size=size, chunk_bytes=chunk_bytes)
        )
        for index in range(chunk_count(size, chunk_bytes))
    )


def verify_copy(
    view: memoryview, size: int, chunk_bytes: int, digests: bytes
) -> int | None:
    """Returns the first chunk whose bytes do not have its digest, or None."""
    assert _fits(digests, size, chunk_bytes), len(digests)
    for index in range(chunk_count(size, chunk_bytes)):
        piece = chunk_of(view, index, size=size, chunk_bytes=chunk_bytes)
        if xxhash.xxh3_128_digest(piece) != digest_of(digests, index):
            return index
    return None


def part_positions(size: int, *, chunk_bytes: int, part: int, parts: int) -> range:
    """The chunks that part `part` of `parts` carries."""
    assert size >= 0 and chunk_bytes >= 1, (size, chunk_bytes)
    assert 0 <= part < parts, (part, parts)
    return range(part, chunk_count(size, chunk_bytes), parts)


def part_size(size: int, *, chunk_bytes: int, part: int, parts: int) -> int:
    """Returns the bytes of the chunks that part `part` of `parts` carries."""
    positions = part_positions(size, chunk_bytes=chunk_bytes, part=part, parts=parts)
    last = chunk_count(size, chunk_bytes) - 1
    short = chunk_count(size, chunk_bytes) * chunk_bytes - size
    return len(positions) * chunk_bytes - (short if last in positions else 0)


def merge_digests(digests: Sequence[bytes]) -> bytes:
    """Returns the digests of a copy from those of its parts, in order of part."""
    parts = len(digests)
    count = sum(len(part) for part in digests) // DIGEST_BYTES
    merged = bytearray(count * DIGEST_BYTES)
    for index in range(count):
        at = index // parts * DIGEST_BYTES
        piece = digests[index % parts][at : at + DIGEST_BYTES]
        assert len(piece) == DIGEST_BYTES, "the parts are not of one copy"
        merged[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = piece
    return bytes(merged)


def _fits(digests: bytes, size: int, chunk_bytes: int) -> bool:
    return len(digests) == chunk_count(size, chunk_bytes) * DIGEST_BYTES


def _stop_if(cancelled: Cancelled, doing: str, index: int) -> None:
    if cancelled():
        raise Refused(f"cancelled here before {doing} chunk {index}")
