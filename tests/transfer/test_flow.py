"""Bytes of copies are counted when they move, not when a buffer takes them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from twinstep.config import Transfer
from twinstep.transfer.flow import Flow
from twinstep.transfer.tcp import TcpChannel
from twinstep.trust.sealed import GcmSeal
from twinstep.trust.streams import SealedStream

SIZE = 300_000
WAIT_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def until(flow: Flow, least: int) -> None:
    until_s = time.monotonic() + WAIT_S
    while flow.bytes < least:
        assert time.monotonic() < until_s, flow.bytes
        time.sleep(0.001)


def test_what_a_buffer_holds_has_not_moved(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    flow, other = Flow(), Flow()
    channel = TcpChannel(near, limits=Transfer(), deadline_s=10.0, flow=flow)
    other.opens(far)
    near.sendall(bytes(SIZE))  # the buffers take all of it
    assert flow.bytes < SIZE
    left = SIZE
    while left:
        left -= len(far.recv(left))
    until(flow, SIZE)
    assert flow.bytes < SIZE + 1000
    assert other.bytes == SIZE
    moved = flow.bytes
    channel.close()
    channel.close()
    assert flow.bytes == moved, "a connection that is over stays counted, once"


def test_sealed_connections_are_counted_as_the_wire_sees_them(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    sealed = SealedStream(near, GcmSeal(b"s" * 64, server=False))
    flow = Flow()
    flow.opens(sealed)
    sealed.sendall(b"x" * 1000)
    until(flow, 1000 + 16)  # and a tag


def test_what_is_no_tcp_counts_as_nothing() -> None:
    flow = Flow()
    near, far = socket.socketpair()
    with near, far:
        flow.opens(near)
        near.sendall(b"x")
        assert flow.bytes == 0
        flow.closes(near)
    assert flow.bytes == 0
