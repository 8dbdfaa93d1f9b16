"""A peer that is slow, silent, gone or mad costs its connection and nothing more."""

from __future__ import annotations

import socket
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.transfer.links import CHUNK_BYTES, Beside, tcp_pair
from twinstep import config
from twinstep.errors import DeadlinePassed, ProtocolError
from twinstep.transfer import frame, tcp
from twinstep.transfer.channel import PeerClosed
from twinstep.transfer.tcp import TcpChannel

Pair = tuple[TcpChannel, socket.socket]
CHUNK = frame.Chunk(index=0, digest=bytes(16))


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    """Makes a channel and the bare socket at its other end."""
    made: list[Pair] = []

    def make(deadline_s: float = 5.0, **more: bytes) -> Pair:
        mine, other = tcp_pair() if request.param == "tcp" else socket.socketpair()
        limits = config.Transfer(chunk_bytes=CHUNK_BYTES, socket_buffer_bytes=4096)
        channel = TcpChannel(
            mine, limits=limits, deadline_s=deadline_s, peer="m07", **more
        )
        other.settimeout(5)
        made.append((channel, other))
        return made[-1]

    yield make
    for channel, other in made:
        channel.close()
        other.close()


def take(channel: TcpChannel) -> None:
    _, size = channel.receive()
    channel.receive_into(memoryview(bytearray(size)))


def send_many(channel: TcpChannel, payload: memoryview, count: int) -> None:
    for _ in range(count):
        channel.send(CHUNK, payload)


def test_a_silent_peer_is_named_at_the_deadline(pair: Callable[..., Pair]) -> None:
    channel, _ = pair(0.05)
    with pytest.raises(DeadlinePassed, match=r"m07 sent nothing .* within 0.05 s"):
        channel.receive()


def test_silence_within_a_payload_is_noticed(pair: Callable[..., Pair]) -> None:
    channel, other = pair(0.05)
    other.sendall(frame.encode(CHUNK, payload_bytes=100) + b"half")
    assert channel.receive() == (CHUNK, 100)
    with pytest.raises(DeadlinePassed, match=r"m07 sent .*4 of 100 bytes"):
        channel.receive_into(memoryview(bytearray(100)))


@pytest.mark.parametrize(
    ("in_payload", "where"), [(True, "of 4096 bytes"), (False, "of a head")]
)
def test_a_trickle_does_not_stretch_the_deadline(
    pair: Callable[..., Pair], in_payload: bool, where: str
) -> None:
    channel, other = pair(0.2)
    stop = threading.Event()
    raw = frame.encode(CHUNK, payload_bytes=CHUNK_BYTES)
    if in_payload:
        other.sendall(raw)
        raw = bytes(CHUNK_BYTES)

    def trickle() -> None:
        for value in raw:
            if stop.wait(0.02):
                return
            other.sendall(bytes([value]))

    peer = Beside(trickle)
    try:
        with pytest.raises(DeadlinePassed, match="m07 sent .*" + where):
            take(channel)
    finally:
        stop.set()
        peer.result()


def test_a_peer_that_reads_nothing_is_named(pair: Callable[..., Pair]) -> None:
    channel, _ = pair(0.05)
    payload = memoryview(bytearray(1 << 16))
    with pytest.raises(DeadlinePassed, match=r"m07 took .* within 0.05 s"):
        send_many(channel, payload, 1000)


def test_a_large_payload_is_sent_whole(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    payload = bytes(range(256)) * 4096
    got = bytearray()

    def read() -> None:
        while piece := other.recv(1 << 14):
            got.extend(piece)

    reader = Beside(read)
    channel.send(CHUNK, memoryview(payload))
    channel.close()
    reader.result()
    assert got == frame.encode(CHUNK, payload_bytes=len(payload)) + payload


def test_an_end_is_told_from_silence(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    raw = frame.encode(CHUNK, payload_bytes=10)
    other.sendall(raw[:7])
    other.close()
    with pytest.raises(PeerClosed, match="closed by m07: after 7 of"):
        channel.receive()


def test_an_end_within_a_payload_is_told(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    other.sendall(frame.encode(CHUNK, payload_bytes=10) + b"abc")
    other.close()
    channel.receive()
    with pytest.raises(PeerClosed, match="after 3 of 10 bytes"):
        channel.receive_into(memoryview(bytearray(10)))


def test_sending_to_the_dead_is_an_error(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    other.close()
    with pytest.raises(PeerClosed, match="closed by m07"):
        send_many(channel, memoryview(bytes(1 << 16)), 10)


def test_nonsense_names_the_peer(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    other.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    with pytest.raises(ProtocolError, match="m07: a frame begins with b'GET '"):
        channel.receive()


@pytest.mark.parametrize("lengths", [(1 << 30, 0), (10, 1 << 30)])
def test_an_announced_gigabyte_is_refused_and_not_allocated(
    pair: Callable[..., Pair], lengths: tuple[int, int]
) -> None:
    channel, other = pair()
    fields = struct.pack("<4sIQI", frame.MAGIC, *lengths, 0)
    other.sendall(fields + struct.pack("<I", zlib.crc32(fields)))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="announces .* of 1073741824 bytes"):
            channel.receive()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_frames_that_arrive_together_are_told_apart(pair: Callable[..., Pair]) -> None:
    channel, other = pair()
    rejected = frame.Rejected(reason="no" * 300)
    together = frame.encode(rejected) + frame.encode(CHUNK, payload_bytes=5) + b"abcde"
    other.sendall(together * 40)
    for _ in range(40):
        assert channel.receive() == (rejected, 0)
        assert channel.receive() == (CHUNK, 5)
        view = memoryview(bytearray(5))
        channel.receive_into(view)
        assert view == b"abcde"


@pytest.mark.parametrize("split", [0, 1, 30, 70, 75, 76])
def test_bytes_read_by_somebody_else_come_first(
    pair: Callable[..., Pair], split: int
) -> None:
    raw = frame.encode(CHUNK, payload_bytes=10) + b"0123456789"
    raw += frame.encode(frame.Accepted())
    channel, other = pair(received=raw[:split])
    other.sendall(raw[split:])
    assert channel.receive() == (CHUNK, 10)
    view = memoryview(bytearray(10))
    channel.receive_into(view)
    assert view == b"0123456789"
    assert channel.receive() == (frame.Accepted(), 0)


def test_many_bytes_read_by_somebody_else_are_all_kept(
    pair: Callable[..., Pair],
) -> None:
    raw = frame.encode(frame.Accepted()) * 1500
    assert len(raw) > 1 << 15
    channel, other = pair(received=raw[:-5])
    other.sendall(raw[-5:])
    for _ in range(1500):
        assert channel.receive() == (frame.Accepted(), 0)


def test_closing_ends_a_wait_in_another_thread(pair: Callable[..., Pair]) -> None:
    channel, other = pair(30.0)
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        channel.receive()

    waiting = Beside(wait)
    begun.wait(5)
    # Until it is in the kernel, where only a shutdown reaches it.
    threading.Event().wait(0.1)
    channel.close()
    with pytest.raises(PeerClosed, match="closed here"):
        waiting.result()
    channel.close()
    assert other.recv(1) == b""


def test_a_socket_from_an_event_loop_waits_again() -> None:
    mine, other = socket.socketpair()
    mine.setblocking(False)
    channel = TcpChannel(mine, limits=config.Transfer(), deadline_s=5)
    waiting = Beside(channel.receive)
    threading.Event().wait(0.1)
    other.sendall(frame.encode(frame.Accepted()))
    assert waiting.result() == (frame.Accepted(), 0)
    channel.close()
    other.close()


def test_connecting_where_nobody_listens_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(PeerClosed, match=f"127.0.0.1:{address[1]}"):
        tcp.connect(address, limits=config.Transfer(), connect_s=1, deadline_s=1)


def test_a_connection_carries_frames_both_ways() -> None:
    limits = config.Transfer()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tcp.ask_buffers(listener, limits=limits)
        near = tcp.connect(
            listener.getsockname(), limits=limits, connect_s=5, deadline_s=5
        )
        sock, _ = listener.accept()
    far = TcpChannel(sock, limits=limits, deadline_s=5)
    assert near.peer == f"127.0.0.1:{listener_port(far)}"
    near.send(frame.Accepted())
    assert far.receive() == (frame.Accepted(), 0)
    far.send(CHUNK, memoryview(b"abc"))
    assert near.receive() == (CHUNK, 3)
    near.close()
    far.close()


def listener_port(channel: TcpChannel) -> int:
    return channel._sock.getsockname()[1]  # type: ignore[no-any-return]
