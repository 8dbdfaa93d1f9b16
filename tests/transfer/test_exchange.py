"""Offers and fetches end in a verified copy, or in a reason."""

from __future__ import annotations

import random

import pytest

from tests.transfer.links import CHUNK_BYTES, Beside, Link, flip
from twinstep.errors import Corrupt, ProtocolError, Refused
from twinstep.transfer import exchange, frame
from twinstep.transfer.channel import Channel
from twinstep.transfer.frame import Fetch, Offer
from twinstep.transfer.sender import hash_copy, merge_digests

SIZE = 4 * CHUNK_BYTES + 100
SOURCE = memoryview(random.Random(1).randbytes(SIZE))
DIGESTS = hash_copy(SOURCE, SIZE, CHUNK_BYTES)


def offer_of(**other: object) -> Offer:
    fields: dict[str, object] = {
        "job": "j", "machine": "m00", "round": 1, "term": 1, "shard": 3, "step": 9,
        "size": SIZE, "chunk_bytes": CHUNK_BYTES,
    }  # fmt: skip
    return Offer(**(fields | other))  # type: ignore[arg-type]


def fetch_of(**other: object) -> Fetch:
    fields: dict[str, object] = {
        "job": "j", "machine": "m01", "round": 1, "term": 1, "shard": 3, "step": 9,
    }  # fmt: skip
    return Fetch(**(fields | other))  # type: ignore[arg-type]


def accept(channel: Channel, view: memoryview) -> bytes:
    """A holder that takes whatever it is offered."""
    offer, _ = channel.receive()
    assert isinstance(offer, Offer)
    digests = exchange.accept_copy(
        channel, offer, view=view, chunk_bytes_max=CHUNK_BYTES
    )
    exchange.confirm(channel, offer)
    return digests


def serve(channel: Channel, source: memoryview = SOURCE) -> None:
    """A holder that has the copy that is fetched."""
    fetch, _ = channel.receive()
    assert isinstance(fetch, Fetch)
    exchange.serve_fetch(
        channel, fetch, view=source, size=SIZE, chunk_bytes=CHUNK_BYTES,
        digests=DIGESTS,
    )  # fmt: skip


def test_an_offered_copy_is_verified_by_its_holder(link: Link) -> None:
    first, second = link.pair()
    target = memoryview(bytearray(SIZE + 10))
    holder = Beside(lambda: accept(second, target))
    assert exchange.offer_copy(first, offer_of(), view=SOURCE) == DIGESTS
    assert holder.result() == DIGESTS
    assert target[:SIZE] == SOURCE and not any(target[SIZE:])


def test_an_offer_is_refused_before_any_chunk(link: Link) -> None:
    first, second = link.pair()

    def holder() -> int:
        offer, _ = second.receive()
        assert isinstance(offer, Offer)
        exchange.refuse(second, f"round {offer.round} is over, this is round 2")
        accept(second, memoryview(bytearray(SIZE)))
        return offer.round

    other = Beside(holder)
    with pytest.raises(Refused, match="round 1 is over, this is round 2"):
        exchange.offer_copy(first, offer_of(), view=SOURCE)
    # The connection serves the next offer.
    exchange.offer_copy(first, offer_of(round=2), view=SOURCE)
    assert other.result() == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"size": SIZE + 1}, f"copy of {SIZE + 1} bytes does not fit"),
        ({"chunk_bytes": 2 * CHUNK_BYTES}, "chunks of 8192 bytes"),
        ({"chunk_bytes": 0}, "chunks of 0 bytes"),
        ({"part": 2, "parts": 2}, "part 2 of 2"),
        ({"part": 0, "parts": 0}, "part 0 of 0"),
    ],
)
def test_an_offer_that_does_not_fit_is_refused_on_both_sides(
    link: Link, other: dict[str, int], named: str
) -> None:
    first, second = link.pair()
    first.send(offer_of(**other))
    with pytest.raises(Refused, match=named):
        accept(second, memoryview(bytearray(SIZE)))
    answer, _ = first.receive()
    assert isinstance(answer, frame.Rejected) and named in answer.reason


@pytest.mark.parametrize("kind", ["loopback", "tcp", "unix"])
def test_the_sender_hears_of_a_corrupt_chunk(kind: str) -> None:
    link = Link(kind)
    # Somewhere in the middle of the payloads.
    first, second = link.pair(flip(SIZE // 2, 0x40))
    holder = Beside(lambda: accept(second, memoryview(bytearray(SIZE))))
    try:
        with pytest.raises(Refused, match="chunk . at byte"):
            exchange.offer_copy(first, offer_of(), view=SOURCE)
        with pytest.raises(Corrupt, match="shard 3 at step 9: chunk"):
            holder.result()
    finally:
        link.close()


def test_a_verdict_on_another_copy_is_not_believed(link: Link) -> None:
    first, second = link.pair()

    def holder() -> None:
        offer, _ = second.receive()
        assert isinstance(offer, Offer)
        view = memoryview(bytearray(SIZE))
        exchange.accept_copy(second, offer, view=view, chunk_bytes_max=CHUNK_BYTES)
        exchange.confirm(second, offer_of(step=8))

    other = Beside(holder)
    with pytest.raises(ProtocolError, match="step 9.*step 8"):
        exchange.offer_copy(first, offer_of(), view=SOURCE)
    other.result()


def test_a_copy_is_fetched_in_parts(link: Link) -> None:
    target = memoryview(bytearray(SIZE))
    digests: list[bytes] = []
    for part in range(2):
        first, second = link.pair()
        holder = Beside(lambda c=second: serve(c))
        fetched = exchange.fetch_copy(
            first,
            fetch_of(part=part, parts=2),
            view=target,
            chunk_bytes_max=CHUNK_BYTES,
        )
        holder.result()
        assert (fetched.size, fetched.chunk_bytes) == (SIZE, CHUNK_BYTES)
        digests.append(fetched.digests)
    assert target == SOURCE
    assert merge_digests(digests) == DIGESTS


def test_a_fetched_copy_that_was_damaged_at_rest_is_named(link: Link) -> None:
    first, second = link.pair()
    damaged = bytearray(SOURCE)
    damaged[SIZE - 1] ^= 1
    holder = Beside(lambda: serve(second, memoryview(damaged)))
    with pytest.raises(Corrupt, match="shard 3 at step 9: chunk 4 "):
        fetch(first)
    holder.result()


def fetch(channel: Channel) -> exchange.Fetched:
    return exchange.fetch_copy(
        channel,
        fetch_of(),
        view=memoryview(bytearray(SIZE)),
        chunk_bytes_max=CHUNK_BYTES,
    )


def test_a_fetch_of_what_is_not_there_is_refused(link: Link) -> None:
    first, second = link.pair()
    exchange.refuse(second, "no copy of shard 3 at step 9 here")
    with pytest.raises(Refused, match="no copy of shard 3"):
        fetch(first)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (frame.Found(size=SIZE + 1, chunk_bytes=CHUNK_BYTES), "does not fit"),
        (frame.Found(size=1 << 60, chunk_bytes=CHUNK_BYTES), "Expected `int` <="),
        (frame.Found(size=SIZE, chunk_bytes=1 << 40), "at most 4096"),
        (frame.Verified(shard=3, step=9), "expected Found, got Verified"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(
    link: Link, answer: frame.DataHeader, named: str
) -> None:
    first, second = link.pair()
    second.send(answer)
    with pytest.raises(ProtocolError, match=named):
        fetch(first)


def test_a_part_that_is_none_is_not_served(link: Link) -> None:
    first, second = link.pair()
    first.send(fetch_of(part=3, parts=2))
    with pytest.raises(ProtocolError, match="part 3 of 2"):
        serve(second)


def test_a_long_reason_is_cut(link: Link) -> None:
    first, second = link.pair()
    exchange.refuse(second, "x" * 100_000)
    answer, _ = first.receive()
    assert isinstance(answer, frame.Rejected)
    assert answer.reason == "x" * frame.REASON_CHARS_MAX
