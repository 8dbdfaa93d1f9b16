"""The embedded store believes no bytes that are no message, or not what was sent."""

from __future__ import annotations

import socket
import struct
import zlib

import msgspec
import pytest

from tests.agent.kv_calls import put_in
from twinstep.agent.kv import Get
from twinstep.agent.kv_client import connect
from twinstep.agent.kv_server import serve
from twinstep.agent.kv_wire import Bounds


def _talk(address: str, sent: bytes) -> bytes:
    """What the server says before it drops a connection that said this."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as peer:
        peer.sendall(sent)
        said = b""
        while piece := peer.recv(65536):
            said += piece
        return said


def _frame(body: bytes, *, length: int = -1) -> bytes:
    """A frame whose prefix is whole."""
    count = length if length >= 0 else len(body)
    fields = struct.pack(">II", count, zlib.crc32(body))
    return fields + struct.pack(">I", zlib.crc32(fields)) + body


def _damaged(body: bytes) -> bytes:
    """A frame in which two bytes have changed places: another good message."""
    assert body.count(b"words") == 1
    return _frame(body).replace(b"words", b"wodrs")


@pytest.mark.parametrize(
    "nonsense",
    [
        _frame(b"x" * 100, length=1 << 30),
        _frame(b"\xc1\xc1\xc1\xc1"),
        _frame(b""),
        _frame(b"\x91" * 100_000),
        _frame(msgspec.msgpack.encode({"type": "Get"}).ljust(30)),
        b"GET / HTTP/1.1\r\n\r\n",
        _frame(b"abc", length=10),
        _damaged(msgspec.msgpack.encode(Get(prefix="words"))),
    ],
    ids=["GiB", "no msgpack", "empty", "deep", "cut", "http", "unfinished", "damaged"],
)
def test_a_peer_that_speaks_nonsense_is_dropped(nonsense: bytes) -> None:
    with serve(bounds=Bounds(frame_s_max=0.3)) as server:
        store = connect(server.address)
        put_in(store, "a")
        assert _talk(server.address, nonsense) == b""
        assert store.get("a")[0] == 2
        store.close()
