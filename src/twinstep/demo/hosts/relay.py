"""Carries frames between two network ports, each later than it came.

For kernels without netem. Run as a file in the switch's namespace:

    relay.py PORT PORT DELAY_S

It ends when its standard input does, that is, with whoever started it. Frames are
taken and given with their virtio header (PACKET_VNET_HDR), so that checksums which the
kernel has not computed yet, and segments that it has not cut, pass unharmed. It imports
nothing of twinstep. On a busy computer frames come later still.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import sys
import time

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
FRAME_BYTES_MAX = 70_000
FRAMES_MAX = 20_000
"""On their way in each direction; one more is lost, as in any switch."""


def open_port(name: str) -> socket.socket:
    """Returns a socket that hears what comes out of a port, and speaks into it."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    port.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    port.bind((name, ETH_P_ALL))
    port.setblocking(False)
    return port


def carry(left: socket.socket, right: socket.socket, delay_s: float) -> None:
    """Carries until standard input ends."""
    other = {left: right, right: left}
    queues: dict[socket.socket, collections.deque[tuple[float, bytes]]] = {
        target: collections.deque() for target in other
    }
    poll = select.poll()
    by_number = {port.fileno(): port for port in other}
    for number in (*by_number, sys.stdin.fileno()):
        poll.register(number, select.POLLIN)
    while True:
        due_s = min((queue[0][0] for queue in queues.values() if queue), default=0.0)
        wait_ms = max(0.0, (due_s - time.monotonic()) * 1000) if due_s else None
        for number, _ in poll.poll(wait_ms):
            port = by_number.get(number)
            if port is None:
                return
            take(port, queues[other[port]], delay_s)
        now_s = time.monotonic()
        for target, queue in queues.items():
            while queue and queue[0][0] <= now_s:
                give(target, queue.popleft()[1])


def take(
    port: socket.socket, queue: collections.deque[tuple[float, bytes]], delay_s: float
) -> None:
    while len(queue) < FRAMES_MAX:
        try:
            frame = port.recv(FRAME_BYTES_MAX)
        except (BlockingIOError, OSError):
            return
        queue.append((time.monotonic() + delay_s, frame))


def give(port: socket.socket, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # a full or closed port loses frames
        port.send(frame)


if __name__ == "__main__":
    carry(open_port(sys.argv[1]), open_port(sys.argv[2]), float(sys.argv[3]))
