"""What leaves and reaches a host, seen on its wire: which frames are copies, and when.

Independent of what twinstep believes: frames are read where they pass the card. Those
to an agent's port are copies, all others above SMALL_BYTES are training's. The link is
idle in every stretch of at least SPAN_S without a frame of training in any direction;
`idle_share` is the share of the copies' bytes that left in such stretches.

Left out: frames that come faster than they are read here (the buffer holds a second).
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from twinstep.demo.hosts.network import Network

SMALL_BYTES = 1000
"""Acknowledgements, heartbeats and votes are smaller."""
SPAN_S = 0.010
LOOK_S = 0.02
_ETH_P_ALL, _ETH_P_IP, _TCP = 0x0003, 0x0800, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_BUFFER_BYTES = 32 << 20
_TIMESPEC = struct.Struct("ll")
_HEAD_BYTES = 14 + 60 + 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame; what the kernel sends as one is one."""

    at_s: float
    size: int
    port: int
    """The TCP port that it goes to."""
    leaves: bool


class Wire:
    """The frames of a host's card, from `with` on."""

    def __init__(self, network: Network, host: int) -> None:
        with network.entered(host):
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
            )
        sock = self._socket
        _filter(sock)
        sock.bind(("eth0", _ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        self.frames: list[Seen] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="bench-wire")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._stop.wait(LOOK_S):
            with contextlib.suppress(BlockingIOError):
                while True:
                    head, extra, _, source = self._socket.recvmsg(_HEAD_BYTES, 64)
                    frame = _frame(head, extra, leaves=source[2] == 4)
                    if frame is not None:
                        self.frames.append(frame)


def _filter(sock: socket.socket) -> None:
    """Only frames of more than SMALL_BYTES are read."""
    code = [
        (0x80, 0, 0, 0),  # load the length
        (0x25, 0, 1, SMALL_BYTES),  # go on if greater
        (0x06, 0, 0, 0x40000),  # all of it
        (0x06, 0, 0, 0),  # nothing
    ]
    raw = b"".join(struct.pack("HBBI", *line) for line in code)
    words = (ctypes.c_char * len(raw)).from_buffer_copy(raw)
    program = struct.pack("HL", len(code), ctypes.addressof(words))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _frame(
    head: bytes, extra: list[tuple[int, int, bytes]], *, leaves: bool
) -> Seen | None:
    if struct.unpack_from("!H", head, 12)[0] != _ETH_P_IP or head[23] != _TCP:
        return None
    seconds, nanoseconds = _TIMESPEC.unpack(extra[0][2])
    tcp = 14 + (head[14] & 15) * 4
    return Seen(
        at_s=seconds + nanoseconds / 1e9,
        size=struct.unpack_from("!H", head, 16)[0],
        port=struct.unpack_from("!H", head, tcp + 2)[0],
        leaves=leaves,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What passed between two instants. Times in seconds, sizes in bytes."""

    took_s: float
    idle_s: float
    """In stretches without training's frames, of SPAN_S or more."""
    training_bytes: int
    """That left."""
    copies_bytes: int
    """That left."""
    idle_share: float | None
    """Of the copies' bytes, those that left while the link was idle."""


def account(
    frames: list[Seen], ports: Collection[int], *, from_s: float, until_s: float
) -> Account:
    """Returns what the frames between two instants come to; `ports` are agents'."""
    within = [frame for frame in frames if from_s <= frame.at_s <= until_s]
    training = [frame for frame in within if frame.port not in ports]
    copies = [frame for frame in within if frame.port in ports and frame.leaves]
    moments = [from_s, *(frame.at_s for frame in training), until_s]
    starts: list[float] = []
    ends: list[float] = []
    for first, second in pairwise(moments):
        if second - first >= SPAN_S:
            starts.append(first)
            ends.append(second)
    idle_bytes = 0
    for frame in copies:
        place = bisect_right(starts, frame.at_s) - 1
        if place >= 0 and frame.at_s <= ends[place]:
            idle_bytes += frame.size
    total = sum(frame.size for frame in copies)
    return Account(
        took_s=until_s - from_s,
        idle_s=sum(ends) - sum(starts),
        training_bytes=sum(frame.size for frame in training if frame.leaves),
        copies_bytes=total,
        idle_share=idle_bytes / total if total else None,
    )
