"""What a machine's copies have moved over the network, by the kernel's own count.

Where training's traffic is told from the counters of the network interface, the copies'
bytes are taken off (schedule/profile.py). A call that sends says little of when its
bytes leave: a socket's buffer takes some MB at once. The kernel counts, for each
connection, what the other end has acknowledged and what has arrived; that is on the
wire to a round trip.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Protocol, final
from weakref import WeakSet

_INFO_BYTES = 136
_MOVED = struct.Struct("=QQ")
"""tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info (Linux 4.1), at 120."""
_MOVED_AT = 120


class Counted(Protocol):
    """A connection, sealed or not."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


@final
class Flow:
    """The connections of a machine's copies. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A connection that somebody dropped without a word is not kept open by this.
        self._open: WeakSet[Counted] = WeakSet()
        self._over_bytes = 0

    def opens(self, connection: Counted) -> None:
        with self._lock:
            self._open.add(connection)

    def closes(self, connection: Counted) -> None:
        """To be called before it is closed: then nothing can be asked of it. Once more
        does no harm."""
        with self._lock:
            if connection in self._open:
                self._open.remove(connection)
                self._over_bytes += moved(connection)

    @property
    def bytes(self) -> int:
        """Sent and received by all connections so far. Only ever grows."""
        with self._lock:
            return self._over_bytes + sum(map(moved, self._open))


def moved(connection: Counted) -> int:
    """Returns the bytes that a connection has carried in both directions; 0 where the
    kernel does not say."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return 0
    if len(info) < _INFO_BYTES:
        return 0
    return sum(_MOVED.unpack_from(info, _MOVED_AT))
