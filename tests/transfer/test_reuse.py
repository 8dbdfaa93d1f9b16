"""What a holder has already is not sent, and nothing is believed for being told."""

from __future__ import annotations

import random

import pytest

from tests.transfer.links import CHUNK_BYTES, Beside, Link, flip
from tests.transfer.test_exchange import offer_of
from twinstep.errors import Corrupt, ProtocolError, Refused
from twinstep.transfer import exchange, frame, reuse
from twinstep.transfer.channel import Channel
from twinstep.transfer.frame import DataHeader
from twinstep.transfer.reuse import Source
from twinstep.transfer.sender import hash_copy, merge_digests

WINDOW = CHUNK_BYTES // 16  # chunks whose digests fit into one
SIZE = (2 * WINDOW + 3) * CHUNK_BYTES + 100


def random_bytes(size: int = SIZE, *, seed: int = 0) -> bytearray:
    return bytearray(random.Random(seed).randbytes(size))


def source_of(data: bytes | bytearray) -> Source:
    view = memoryview(data)
    return Source(view=view, digests=hash_copy(view, len(view), CHUNK_BYTES))


class Counting:
    """A channel that notes which chunks are sent into it."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self.chunks = channel, list[int]()
        self.receive, self.receive_into = channel.receive, channel.receive_into
        self.queued, self.close = channel.queued, channel.close

    def send(self, header: DataHeader, payload: memoryview | None = None) -> None:
        if isinstance(header, frame.Chunk):
            self.chunks.append(header.index)
        self._channel.send(header, payload)


def carried(
    link: Link, data: bytearray, sources: list[Source], *, parts: int = 1
) -> tuple[memoryview, list[int]]:
    """Returns what a holder with these sources has afterwards, and which chunks were
    sent for it."""
    target, view = memoryview(bytearray(len(data))), memoryview(data)
    digests, sent = hash_copy(view, len(data), CHUNK_BYTES), list[int]()
    told: list[bytes] = []
    for part in range(parts):
        first, second = link.pair()
        counting = Counting(first)
        offer = offer_of(size=len(data), told=True, part=part, parts=parts)
        sending = Beside(
            lambda c=counting, o=offer: exchange.offer_copy(
                c, o, view=view, digests=digests
            )
        )
        header, _ = second.receive()
        assert header == offer
        told.append(
            exchange.accept_copy(
                second,
                offer,
                view=target,
                chunk_bytes_max=CHUNK_BYTES,
                sources=lambda: sources,
            )
        )
        exchange.confirm(second, offer)
        assert sending.result() == told[-1]
        sent += counting.chunks
    assert merge_digests(told) == digests and target == data
    return target, sorted(sent)


@pytest.mark.parametrize("parts", [1, 3])
def test_only_what_the_holder_lacks_is_sent(link: Link, parts: int) -> None:
    before = random_bytes()
    now = bytearray(before)
    changed = [0, 7, WINDOW, 2 * WINDOW + 3]
    for index in changed:
        now[index * CHUNK_BYTES] ^= 1
    source = source_of(before)
    _, sent = carried(link, now, [source], parts=parts)
    assert sent == changed
    assert source.taken == 2 * WINDOW + 4 - len(changed)


def test_several_sources_complete_each_other(link: Link) -> None:
    data = random_bytes()
    half = SIZE // CHUNK_BYTES // 2 * CHUNK_BYTES
    front = source_of(data[:half] + random_bytes(SIZE - half, seed=1))
    back = source_of(random_bytes(half, seed=2) + data[half:])
    assert carried(link, data, [front, back])[1] == []
    assert carried(link, data, [])[1] == list(range(2 * WINDOW + 4))


def test_a_source_that_is_not_what_it_was_is_not_used(link: Link) -> None:
    data = random_bytes()
    damaged = source_of(bytearray(data))
    damaged.view[5 * CHUNK_BYTES + 9] ^= 4  # after its digests were computed
    assert carried(link, data, [damaged])[1] == [5]
    shorter = source_of(data[: 9 * CHUNK_BYTES + 1])
    assert set(carried(link, data, [shorter])[1]) >= set(range(9, 2 * WINDOW + 4))


def test_a_holder_that_is_told_other_digests_finds_the_copy_bad(link: Link) -> None:
    """Of damage at rest the digests tell; what the holder has is no way around it."""
    data = random_bytes()
    view, digests = memoryview(data), hash_copy(memoryview(data), SIZE, CHUNK_BYTES)
    source = source_of(bytearray(data))
    view[3 * CHUNK_BYTES] ^= 1
    view[CHUNK_BYTES] ^= 1
    source.view[CHUNK_BYTES] ^= 1  # bad on both sides
    first, second = link.pair()
    offer = offer_of(size=SIZE, told=True)
    sending = Beside(
        lambda: exchange.offer_copy(first, offer, view=view, digests=digests)
    )
    second.receive()
    target = memoryview(bytearray(SIZE))
    with pytest.raises(Corrupt, match="chunk 1 "):
        exchange.accept_copy(
            second,
            offer,
            view=target,
            chunk_bytes_max=CHUNK_BYTES,
            sources=lambda: [source],
        )
    with pytest.raises(Refused, match="chunk 1 "):
        sending.result()
    assert (
        target[3 * CHUNK_BYTES : 4 * CHUNK_BYTES]
        == source.view[3 * CHUNK_BYTES : 4 * CHUNK_BYTES]
    ), "the holder had the chunk as it was captured"


def test_an_offer_without_digests_is_taken_as_ever(link: Link) -> None:
    data = random_bytes()
    first, second = link.pair()
    offer = offer_of(size=SIZE)
    sending = Beside(lambda: exchange.offer_copy(first, offer, view=memoryview(data)))
    second.receive()
    target = memoryview(bytearray(SIZE))
    exchange.accept_copy(
        second,
        offer,
        view=target,
        chunk_bytes_max=CHUNK_BYTES,
        sources=lambda: [source_of(data)],
    )
    exchange.confirm(second, offer)
    sending.result()
    assert target == data


@pytest.mark.parametrize(
    "answer",
    [
        frame.Lacks(first=1),
        frame.Lacks(first=0),
        frame.Accepted(),
        frame.Rejected(reason="the round is over"),
    ],
)
def test_nonsense_ends_the_conversation(link: Link, answer: DataHeader) -> None:
    data = random_bytes(10 * CHUNK_BYTES)
    digests = hash_copy(memoryview(data), len(data), CHUNK_BYTES)
    first, second = link.pair()
    window = range(10)
    telling = Beside(lambda: reuse.tell(first, window, digests))
    header, size = second.receive()
    assert header == frame.Told(first=0, count=10) and size == 160
    second.receive_into(memoryview(bytearray(160)))
    bits = bytes(3 if answer == frame.Lacks(first=0) else 2)
    second.send(answer, memoryview(bits))
    expected = Refused if isinstance(answer, frame.Rejected) else ProtocolError
    with pytest.raises(expected):
        telling.result()


@pytest.mark.parametrize(
    "said", [frame.Told(first=0, count=9), frame.Waits(), frame.Told(first=3, count=10)]
)
def test_a_sender_that_tells_nonsense_is_refused(link: Link, said: DataHeader) -> None:
    first, second = link.pair()
    first.send(said, memoryview(bytes(160)))
    target = memoryview(bytearray(10 * CHUNK_BYTES))
    with pytest.raises(ProtocolError, match="digests of 10 chunks from 0"):
        reuse.take(
            second,
            range(10),
            view=target,
            size=len(target),
            chunk_bytes=CHUNK_BYTES,
            sources=[],
            cancelled=lambda: False,
        )


def test_a_bit_that_flips_on_the_way_is_found(link: Link) -> None:
    """Whatever of the exchange it hits: nothing wrong is taken for a copy."""
    data = random_bytes(6 * CHUNK_BYTES)
    view, digests = (
        memoryview(data),
        hash_copy(memoryview(data), len(data), CHUNK_BYTES),
    )
    before = bytearray(data)
    before[2 * CHUNK_BYTES] ^= 1
    for position in range(0, CHUNK_BYTES + 600, 37):
        first, second = link.pair(flip(position, 16))
        offer = offer_of(size=len(data), told=True)
        sending = Beside(
            lambda f=first, o=offer: exchange.offer_copy(
                f, o, view=view, digests=digests
            )
        )
        target = memoryview(bytearray(len(data)))
        try:
            second.receive()
            exchange.accept_copy(
                second,
                offer,
                view=target,
                chunk_bytes_max=CHUNK_BYTES,
                sources=lambda: [source_of(before)],
            )
        except (Corrupt, ProtocolError, Refused):
            second.close()
            with pytest.raises((Corrupt, OSError, ProtocolError, Refused)):
                sending.result()
            continue
        assert target == data
        exchange.confirm(second, offer)
        sending.result()
