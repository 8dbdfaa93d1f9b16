"""Carries frames between two network ports, and does to them what bad networks do.

For kernels without netem. Run as a file in the switch's namespace:

    relay.py PORT PORT '{"delay_s": 0.05}'

The last argument has the fields of `Wrong`. It ends when its standard input does, that
is, with whoever started it, and says then how many frames it has hurt. Frames are taken
and given with their virtio header (PACKET_VNET_HDR), so that checksums which the kernel
has not computed yet, and segments that it has not cut, pass unharmed. It imports
nothing of twinstep. On a busy computer frames come later still.

**Damage that TCP does not see.** The Internet checksum is a sum of 16-bit words, which
no order of the words changes. So two words that change places, as bad memory in a
switch is known to do (Stone and Partridge, SIGCOMM 2000), arrive as good bytes: only
who has a checksum of his own can know. Other damage would be dropped by the receiver's
kernel, and be a loss.
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from random import Random

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
FRAME_BYTES_MAX = 70_000
FRAMES_MAX = 20_000
"""On their way in each direction; one more is lost, as in any switch."""
HEADER_BYTES = 10
"""Of the virtio header before each frame."""
_ETHERNET_BYTES = 14
_TRIES_MAX = 16
"""How often two unequal words are looked for: a payload may be all zeros."""


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What is done to frames. Shares are of all frames, each drawn on its own."""

    delay_s: float = 0.0
    """Every frame comes so much later."""
    swap: float = 0.0
    """In this share of the TCP frames to or from `ends`, two words change places."""
    ends: list[list[str | int]] = field(default_factory=list[list[str | int]])
    """Addresses and ports."""
    twice: float = 0.0
    """This share of the frames comes twice."""
    late: float = 0.0
    """This share of the frames comes later than the others, by `late_s`."""
    late_s: float = 0.0
    seed: int = 0


class Relay:
    """Two ports, what waits to be given to each, and how many frames were hurt."""

    def __init__(self, left: socket.socket, right: socket.socket, wrong: Wrong) -> None:
        self._other = {left: right, right: left}
        self._queues: dict[socket.socket, list[collections.deque[tuple[float, bytes]]]]
        # What is late has a queue of its own: in each, the first is due first.
        self._queues = {
            port: [collections.deque(), collections.deque()] for port in self._other
        }
        self._wrong = wrong
        self._ends = {(str(end[0]), int(end[1])) for end in wrong.ends}
        self._random = Random(wrong.seed)
        self.hurt = 0

    def carry(self) -> None:
        """Carries until standard input ends."""
        poll = select.poll()
        by_number = {port.fileno(): port for port in self._other}
        for number in (*by_number, sys.stdin.fileno()):
            poll.register(number, select.POLLIN)
        waiting = [queue for queues in self._queues.values() for queue in queues]
        while True:
            due_s = min((queue[0][0] for queue in waiting if queue), default=0.0)
            wait_ms = max(0.0, (due_s - time.monotonic()) * 1000) if due_s else None
            for number, _ in poll.poll(wait_ms):
                port = by_number.get(number)
                if port is None:
                    return
                self._take(port, self._queues[self._other[port]])
            self._give(time.monotonic())

    def _take(
        self,
        port: socket.socket,
        queues: list[collections.deque[tuple[float, bytes]]],
    ) -> None:
        wrong, random = self._wrong, self._random
        while sum(map(len, queues)) < FRAMES_MAX:
            try:
                frame = port.recv(FRAME_BYTES_MAX)
            except OSError:  # nothing is there, or the port is gone
                return
            due_s, late = time.monotonic() + wrong.delay_s, 0
            if wrong.late and random.random() < wrong.late:
                due_s, late = due_s + wrong.late_s, 1
                self.hurt += 1
            if wrong.swap and random.random() < wrong.swap:
                swapped = but_swapped(frame, self._ends, random)
                self.hurt += swapped != frame
                frame = swapped
            queues[late].append((due_s, frame))
            if wrong.twice and random.random() < wrong.twice:
                queues[late].append((due_s, frame))
                self.hurt += 1

    def _give(self, now_s: float) -> None:
        for target, queues in self._queues.items():
            for queue in queues:
                while queue and queue[0][0] <= now_s:
                    with contextlib.suppress(OSError):  # a full port loses frames
                        target.send(queue.popleft()[1])


def open_port(name: str) -> socket.socket:
    """Returns a socket that hears what comes out of a port, and speaks into it."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    port.bind((name, ETH_P_ALL))
    port.setblocking(False)
    return port


def payload_of(frame: bytes, ends: set[tuple[str, int]]) -> tuple[int, int]:
    """Returns where the payload of a frame begins and ends, if it is TCP over IPv4 and
    one of its ends is in `ends`; else (0, 0)."""
    at = HEADER_BYTES + _ETHERNET_BYTES
    if len(frame) < at + 40 or frame[at - 2 : at] != b"\x08\x00":
        return 0, 0
    (total,) = struct.unpack_from(">H", frame, at + 2)
    if frame[at] >> 4 != 4 or frame[at + 9] != socket.IPPROTO_TCP:
        return 0, 0
    tcp_at = at + 4 * (frame[at] & 15)
    ports = struct.unpack_from(">HH", frame, tcp_at)
    hosts = [socket.inet_ntoa(frame[at + n : at + n + 4]) for n in (12, 16)]
    if not ends & set(zip(hosts, ports, strict=True)):
        return 0, 0
    # Ethernet fills short frames up; what is behind the packet is none of it.
    return tcp_at + 4 * (frame[tcp_at + 12] >> 4), min(len(frame), at + total)


def but_swapped(frame: bytes, ends: set[tuple[str, int]], random: Random) -> bytes:
    """Returns the frame with two unequal 16-bit words of its payload swapped; as it is
    where there are none, or the frame is not one of `ends`."""
    begin, end = payload_of(frame, ends)
    words = (end - begin) // 2
    if words < 2:
        return frame
    for _ in range(_TRIES_MAX):
        one, two = (begin + 2 * random.randrange(words) for _ in range(2))
        if frame[one : one + 2] != frame[two : two + 2]:
            changed = bytearray(frame)
            changed[one : one + 2] = frame[two : two + 2]
            changed[two : two + 2] = frame[one : one + 2]
            return bytes(changed)
    return frame


if __name__ == "__main__":
    relay = Relay(
        open_port(sys.argv[1]),
        open_port(sys.argv[2]),
        Wrong(**json.loads(sys.argv[3])),
    )
    relay.carry()
    print(relay.hurt, flush=True)
