"""What a piece of a copy that the kernel has already costs a collective.

    python -m benchmarks.shared_link [--json FILE]

Two plain connections leave one host whose cable carries 200 Mbit/s (needs root): over
one goes a piece, and as soon as send() has returned, a message of 256 KiB over the
other, to a third host, as a collective would. Its time until it is answered, less what
it takes alone, is the delay. Rows: the size of the send buffer, the socket's priority
(with the queue that the kernel has by default, docs/design/hosts.md), and whether the
piece's acknowledgement is waited for (TIOCOUTQ is 0) before the message.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import socket
import statistics
import struct
import sys
import termios
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinstep.demo.hosts.network import Network, missing

BITS_PER_S = 200_000_000
PORT = 4713
MESSAGE = 256 * 1024
PIECES = (64 * 1024, 256 * 1024, 1024 * 1024)
POLL_S = 0.0005
_HEAD = struct.Struct("q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a piece is sent."""

    buffer_bytes: int
    """SO_SNDBUF; the kernel takes twice as much."""
    priority: int = 0
    waits: bool = False


WAYS = (
    Way(buffer_bytes=4 << 20),
    Way(buffer_bytes=128 << 10),
    Way(buffer_bytes=32 << 10),
    Way(buffer_bytes=4 << 20, priority=2),
    Way(buffer_bytes=4 << 20, waits=True),
)


def answer(network: Network, host: int) -> None:
    """The host says a byte for each message that it has all of."""
    with network.entered(host):
        listener = socket.create_server((network.address(host), PORT))

    def serve(link: socket.socket) -> None:
        while head := link.recv(_HEAD.size, socket.MSG_WAITALL):
            size = _HEAD.unpack(head)[0]
            link.recv_into(bytearray(size), size, socket.MSG_WAITALL)
            link.sendall(b"!")

    def accept() -> None:
        while True:
            link, _ = listener.accept()
            threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def connect(network: Network, host: int, way: Way | None = None) -> socket.socket:
    with network.entered(1):
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if way is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, way.buffer_bytes)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, way.priority)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.connect((network.address(host), PORT))
    return link


def message_s(link: socket.socket) -> float:
    began_s = time.perf_counter()
    link.sendall(_HEAD.pack(MESSAGE) + bytes(MESSAGE))
    link.recv(1)
    return time.perf_counter() - began_s


def drain(link: socket.socket) -> None:
    """All that was sent has been acknowledged."""
    while struct.unpack("i", fcntl.ioctl(link, termios.TIOCOUTQ, bytes(4)))[0]:
        time.sleep(POLL_S)


def measure(way: Way, repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with Network(3) as network:
        for host in network.hosts:
            network.limit(host, BITS_PER_S, bands=bool(way.priority))
        for host in (2, 3):
            answer(network, host)
        with connect(network, 2, way) as copies, connect(network, 3) as training:
            alone_s = statistics.median(message_s(training) for _ in range(repeats))
            for size in PIECES:
                sends_s: list[float] = []
                delays_s: list[float] = []
                for _ in range(repeats):
                    began_s = time.perf_counter()
                    copies.sendall(_HEAD.pack(size) + bytes(size))
                    if way.waits:
                        drain(copies)
                    sends_s.append(time.perf_counter() - began_s)
                    delays_s.append(message_s(training) - alone_s)
                    copies.recv(1)
                    drain(copies)
                row = {**asdict(way), "piece_bytes": size, "alone_s": alone_s}
                row["send_s"] = statistics.median(sends_s)
                row["delay_s"] = statistics.median(delays_s)
                row["delay_s_max"] = max(delays_s)
                rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if why_not := missing():
        print(f"this benchmark cannot run here: {why_not}", file=sys.stderr)
        return 2
    found: list[dict[str, Any]] = []
    for way in WAYS:
        found += measure(way, options.repeats)
        for row in found[-len(PIECES) :]:
            state = "acknowledged" if way.waits else "send returned"
            print(
                f"buffer {way.buffer_bytes >> 10:5} KiB, priority {way.priority}, "
                f"piece {row['piece_bytes'] >> 10:5} KiB: {state} after "
                f"{row['send_s'] * 1e3:5.1f} ms, delays by {row['delay_s'] * 1e3:5.1f} "
                f"ms, at most {row['delay_s_max'] * 1e3:.1f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
