"""A chunk leaves when its turn has come, and gives way to other traffic."""

from __future__ import annotations

import random
import socket

import pytest

from tests.transfer.links import CHUNK_BYTES, Beside, Link, tcp_pair
from twinstep import config
from twinstep.errors import ProtocolError, Refused
from twinstep.schedule_settings import Schedule
from twinstep.transfer import sender, tcp
from twinstep.transfer.frame import Chunk, Waits
from twinstep.transfer.tcp import TcpChannel

SIZE = 3 * CHUNK_BYTES + 5


def test_each_chunk_waits_for_its_turn(link: Link) -> None:
    first, second = link.pair()
    source = memoryview(random.Random(0).randbytes(SIZE))
    target = memoryview(bytearray(SIZE))
    asked: list[int] = []
    sent = Beside(
        lambda: sender.send_copy(
            first, view=source, size=SIZE, chunk_bytes=CHUNK_BYTES, turn=asked.append
        )
    )
    sender.receive_copy(second, view=target, size=SIZE, chunk_bytes=CHUNK_BYTES)
    sent.result()
    assert asked == [CHUNK_BYTES] * 3 + [5]
    assert target == source


def test_a_turn_that_never_comes_ends_the_copy(link: Link) -> None:
    first, _ = link.pair()

    def turn(_size: int) -> None:
        raise Refused("the round is over")

    with pytest.raises(Refused, match="the round is over"):
        sender.send_copy(
            first,
            view=memoryview(bytes(SIZE)),
            size=SIZE,
            chunk_bytes=CHUNK_BYTES,
            turn=turn,
        )


@pytest.mark.parametrize("allowed", [2, 3])
def test_a_sender_that_waits_may_say_so_a_bounded_number_of_times(
    link: Link, allowed: int
) -> None:
    first, second = link.pair()
    source = memoryview(random.Random(0).randbytes(SIZE))
    target = memoryview(bytearray(SIZE))

    def turn(_size: int) -> None:
        for _ in range(3):
            first.send(Waits())

    def send() -> None:
        sender.send_copy(
            first, view=source, size=SIZE, chunk_bytes=CHUNK_BYTES, turn=turn
        )

    def receive() -> None:
        sender.receive_copy(
            second,
            view=target,
            size=SIZE,
            chunk_bytes=CHUNK_BYTES,
            waits_max=allowed,
        )

    sent = Beside(send)
    if allowed < 3:
        with pytest.raises(ProtocolError, match="expected chunk 0, got Waits"):
            receive()
    else:
        receive()
        assert target == source
    sent.result()


def test_what_nobody_has_read_is_queued_until_it_arrives() -> None:
    mine, other = tcp_pair()
    limits = config.Transfer(chunk_bytes=1 << 20)
    channel = TcpChannel(mine, limits=limits, deadline_s=5.0)
    payload = memoryview(bytes(1 << 20))
    channel.send(Chunk(index=0, digest=bytes(16)), payload)
    assert channel.queued() > 0
    other.settimeout(5.0)
    left = 1 << 20
    while left > 0:
        left -= len(other.recv(1 << 16))
    while channel.queued() > 0:
        pass  # the last acknowledgement is on its way
    channel.close()
    assert channel.queued() == 0
    other.close()


def test_a_socket_gives_way_as_the_settings_say() -> None:
    sock, other = tcp_pair()
    with sock, other:
        wanted = Schedule(priority=3, dscp=1, congestion="reno")
        assert tcp.give_way(sock, wanted) == []
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 1 << 2
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert raw.rstrip(b"\0") == b"reno"


def test_what_the_kernel_refuses_is_named() -> None:
    sock, other = tcp_pair()
    with sock, other:
        (text,) = tcp.give_way(sock, Schedule(congestion="nonesuch"))
        assert "schedule.congestion = nonesuch: No such file" in text
