"""Damaged frames pass TCP's checksum; doubled and overtaken ones do no harm."""

from __future__ import annotations

import socket
import struct
import threading
from random import Random

import pytest

from tests.hosts.needs import needs_hosts
from twinstep.demo.hosts.network import Network
from twinstep.demo.hosts.relay import HEADER_BYTES, Wrong, but_swapped, payload_of

PORT = 4712
BODY = bytes(range(256)) * 4000


def frame_of(payload: bytes, *, port: int = PORT, kind: bytes = b"\x08\x00") -> bytes:
    """A frame as a port gives it, from 10.77.0.1, without checksums."""
    tcp = struct.pack(">HHIIBBHHH", 50_000, port, 1, 1, 5 << 4, 16, 1000, 0, 0)
    ip = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(tcp) + len(payload),
        0,
        0,
        64,
        6,
        0,
        socket.inet_aton("10.77.0.1"),
        socket.inet_aton("10.77.0.2"),
    )
    return bytes(HEADER_BYTES + 12) + kind + ip + tcp + payload


def internet_checksum(raw: bytes) -> int:
    """RFC 1071."""
    raw += bytes(len(raw) % 2)
    total = sum(struct.unpack(f">{len(raw) // 2}H", raw))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_swapped_words_change_the_bytes_and_not_the_checksum() -> None:
    ends = {("10.77.0.2", PORT)}
    for seed in range(50):
        payload = Random(seed).randbytes(seed + 4)
        frame = frame_of(payload)
        changed = but_swapped(frame, ends, Random(seed))
        assert changed != frame and len(changed) == len(frame)
        begin, end = payload_of(frame, ends)
        assert frame[begin:end] == payload
        assert changed[:begin] == frame[:begin]
        assert internet_checksum(changed[begin:]) == internet_checksum(payload)


def test_only_tcp_of_the_ends_that_are_named_is_damaged() -> None:
    ends, random = {("10.77.0.2", PORT)}, Random(1)
    for frame in (
        frame_of(b"abcdefgh", port=PORT + 1),
        frame_of(b"abcdefgh", kind=b"\x86\xdd"),
        frame_of(b"") + b"filled up",
        frame_of(b"zzzzzzzz"),
        b"short",
    ):
        assert but_swapped(frame, ends, random) == frame


@needs_hosts
@pytest.mark.parametrize(
    ("wrong", "same"),
    [
        (Wrong(swap=1.0, ends=[["10.77.0.2", PORT]]), False),
        (Wrong(swap=1.0, ends=[["10.77.0.2", PORT + 1]]), True),
        (Wrong(twice=0.5), True),
        (Wrong(late=0.3, late_s=0.005), True),
    ],
    ids=["swapped", "elsewhere", "twice", "overtaken"],
)
def test_what_a_receiver_reads(wrong: Wrong, same: bool) -> None:
    with Network(2) as network:
        network.relay(2, wrong)
        with network.entered(2):
            listener = socket.create_server((network.address(2), PORT))
        with network.entered(1):
            sender = socket.socket()
        with listener, sender:
            sender.settimeout(20)
            sender.connect((network.address(2), PORT))
            receiver, _ = listener.accept()
            thread = threading.Thread(target=sender.sendall, args=(BODY,))
            thread.start()
            receiver.settimeout(20)
            with receiver, receiver.makefile("rb") as file:
                read = file.read(len(BODY))
            thread.join()
        hurt = network.unrelay(2)
    assert len(read) == len(BODY)
    assert (read == BODY) == same
    assert (hurt > 0) == (wrong.ends != [["10.77.0.2", PORT + 1]])
