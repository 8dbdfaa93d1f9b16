"""What two agents say around the chunks of a copy, in one direction or the other.

    sender            holder               restorer          holder
      Offer    ─────►                        Fetch    ─────►
               ◄─────  Accepted                       ◄─────  Found
      Chunk 0  ─────►  hash, compare                  ◄─────  Chunk 0
      Chunk 1  ─────►                                 ◄─────  Chunk 1
               ◄─────  Verified
               (Rejected with a reason, in place of any answer)

The answer to an Offer comes before any chunk, so a copy that nobody may store costs one
round trip and no bytes. Verified is sent by a call of its own, `confirm`, so that a
holder first writes down what it holds: a sender never counts a copy that its holder
does not know of.

Chunks that arrive with other bytes than were sent do not say whether the copy is bad or
the way was. So who asks again says that it doubts, and the holder hashes its copy
before it answers: only the holder can call its own copy bad (CopyIsBad).

Left out: who may write which slot, and the fences of round and term. The caller reads
the Offer or Fetch from the channel, decides, and then calls `refuse` or one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from twinstep.errors import Corrupt, ProtocolError, Refused
from twinstep.transfer.channel import Channel
from twinstep.transfer.frame import (
    REASON_CHARS_MAX,
    Accepted,
    Fetch,
    Found,
    Offer,
    Rejected,
    Verified,
)
from twinstep.transfer.reuse import Source
from twinstep.transfer.sender import (
    Cancelled,
    Turn,
    at_once,
    never,
    receive_copy,
    send_copy,
    verify_copy,
)

Answer = TypeVar("Answer", Accepted, Found, Verified)


def nothing() -> None:
    """Nothing is to be done."""


class CopyIsBad(Corrupt):
    """The holder of a copy has found that it is not what was captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A part of a copy that has arrived and was verified."""

    size: int
    """Bytes of the whole copy."""
    chunk_bytes: int
    digests: bytes
    """Of this part's chunks, in order."""


def offer_copy(
    channel: Channel,
    offer: Offer,
    *,
    view: memoryview,
    digests: bytes | None = None,
    cancelled: Cancelled = never,
    turn: Turn = at_once,
    answered: Callable[[], None] = nothing,
) -> bytes:
    """Sends a part of a copy and waits until the peer has verified it.

    Returns the digests of that part. `answered` is called when the offer is accepted.

    Raises: Refused with the peer's reason, before any chunk was sent or after all
    were; and what send_copy raises."""
    channel.send(offer)
    accepted = _answer(channel, Accepted)
    answered()
    if accepted.tell and not (offer.told and digests):
        raise ProtocolError("asked to tell digests, which was not offered")
    sent = send_copy(
        channel,
        view=view,
        size=offer.size,
        chunk_bytes=offer.chunk_bytes,
        digests=digests,
        part=offer.part,
        parts=offer.parts,
        cancelled=cancelled,
        turn=turn,
        tells=accepted.tell,
    )
    verdict = _answer(channel, Verified)
    if (verdict.shard, verdict.step) != (offer.shard, offer.step):
        raise ProtocolError(
            f"offered shard {offer.shard} at step {offer.step}, but the peer verified "
            f"shard {verdict.shard} at step {verdict.step}"
        )
    return sent


def accept_copy(
    channel: Channel,
    offer: Offer,
    *,
    view: memoryview,
    chunk_bytes_max: int,
    waits_max: int = 0,
    cancelled: Cancelled = never,
    sources: Callable[[], Sequence[Source]] | None = None,
) -> bytes:
    """Takes a part of the copy offered into `view`; returns its digests. Chunks that
    `sources`, asked after the offer was accepted, have are not sent, where the offer
    knows its digests.

    The caller has decided that the slot is the offer's; afterwards it writes down
    what it holds, and then calls `confirm`.

    Raises: Refused (the peer was told) when the offer does not fit into the slot;
    Corrupt (the peer was told); and what receive_copy raises."""
    reason = _misfit(
        offer.size,
        offer.chunk_bytes,
        room=view.nbytes,
        chunk_bytes_max=chunk_bytes_max,
    )
    if not 0 <= offer.part < offer.parts:
        reason = f"part {offer.part} of {offer.parts} parts is no part"
    if reason:
        refuse(channel, reason)
        raise Refused(f"offer of shard {offer.shard} at step {offer.step}: {reason}")
    tells = offer.told and sources is not None
    channel.send(Accepted(tell=tells))
    try:
        return receive_copy(
            channel,
            view=view,
            size=offer.size,
            chunk_bytes=offer.chunk_bytes,
            part=offer.part,
            parts=offer.parts,
            cancelled=cancelled,
            waits_max=waits_max,
            sources=sources() if tells and sources else None,
        )
    except Corrupt as error:
        refuse(channel, str(error))
        raise Corrupt(f"shard {offer.shard} at step {offer.step}: {error}") from error


def confirm(channel: Channel, offer: Offer) -> None:
    """Tells the sender that its part of the copy is verified and written down."""
    channel.send(Verified(shard=offer.shard, step=offer.step))


def refuse(channel: Channel, reason: str) -> None:
    """Answers an Offer or a Fetch with no; the connection can be used again."""
    channel.send(Rejected(reason=reason[:REASON_CHARS_MAX]))


def fetch_copy(
    channel: Channel,
    fetch: Fetch,
    *,
    view: memoryview,
    chunk_bytes_max: int,
    cancelled: Cancelled = never,
) -> Fetched:
    """Reads a part of a peer's copy into `view` and verifies it.

    Raises: Refused with the peer's reason; CopyIsBad when `fetch` doubts and the peer
    finds it is right; ProtocolError when the copy does not fit into `view`; and what
    receive_copy raises."""
    channel.send(fetch)
    found = _answer(channel, Found)
    reason = _misfit(
        found.size,
        found.chunk_bytes,
        room=view.nbytes,
        chunk_bytes_max=chunk_bytes_max,
    )
    if reason:
        raise ProtocolError(
            f"copy of shard {fetch.shard} at step {fetch.step}: {reason}"
        )
    try:
        digests = receive_copy(
            channel,
            view=view,
            size=found.size,
            chunk_bytes=found.chunk_bytes,
            part=fetch.part,
            parts=fetch.parts,
            cancelled=cancelled,
        )
    except Corrupt as error:
        raise Corrupt(f"shard {fetch.shard} at step {fetch.step}: {error}") from error
    return Fetched(size=found.size, chunk_bytes=found.chunk_bytes, digests=digests)


def serve_fetch(
    channel: Channel,
    fetch: Fetch,
    *,
    view: memoryview,
    size: int,
    chunk_bytes: int,
    digests: bytes,
    cancelled: Cancelled = never,
) -> None:
    """Sends the part asked for, with the digests that the copy was stored with.

    When it returns, the slot is no longer read: the kernel has the bytes.

    Raises: ProtocolError when the part asked for is none; CopyIsBad (the peer was
    told) when it doubts and is right; what send_copy raises."""
    if not 0 <= fetch.part < fetch.parts:
        raise ProtocolError(f"part {fetch.part} of {fetch.parts} parts is no part")
    if fetch.doubt:
        bad = verify_copy(view, size, chunk_bytes, digests)
        if bad is not None:
            reason = f"chunk {bad} of shard {fetch.shard} has a wrong checksum"
            channel.send(Rejected(reason=reason, bad=True))
            raise CopyIsBad(reason)
    channel.send(Found(size=size, chunk_bytes=chunk_bytes))
    send_copy(
        channel,
        view=view,
        size=size,
        chunk_bytes=chunk_bytes,
        digests=digests,
        part=fetch.part,
        parts=fetch.parts,
        cancelled=cancelled,
    )


def _answer(channel: Channel, kind: type[Answer]) -> Answer:
    header, payload_bytes = channel.receive()
    if isinstance(header, Rejected):
        raise CopyIsBad(header.reason) if header.bad else Refused(header.reason)
    if not isinstance(header, kind) or payload_bytes:
        raise ProtocolError(
            f"expected {kind.__name__}, got {type(header).__name__} with "
            f"{payload_bytes} bytes"
        )
    return header


def _misfit(size: int, chunk_bytes: int, *, room: int, chunk_bytes_max: int) -> str:
    if not 0 <= size <= room:
        return f"a copy of {size} bytes does not fit into a slot of {room}"
    if not 1 <= chunk_bytes <= chunk_bytes_max:
        return f"chunks of {chunk_bytes} bytes; at most {chunk_bytes_max} are accepted"
    return ""
