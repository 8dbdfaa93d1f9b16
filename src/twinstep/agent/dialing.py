"""Connects over links that lose packets.

The first packet of a connection has no estimate of the link to go by: where it is lost,
the kernel waits a second before it sends it again, twice that the next time, and a
lease is over by then. `dial` does not wait for that. While an attempt is under way it
begins others, and the first that succeeds is the connection.

Left out: names. They are looked up by the system's resolver, whose deadline is its own.
"""

from __future__ import annotations

import os
import select
import socket
from math import ceil

from twinstep.clock import monotonic_s

AGAIN_S = 0.1
"""An attempt without an answer for so long has company: longer than the way there and
back between any two machines that train together."""
ATTEMPTS_MAX = 8
"""At the same time; where a fifth of all packets is lost in each direction, none of
eight comes through once in 3,500 times."""


def dial(
    host: str,
    port: int,
    *,
    until_s: float,
    again_s: float = AGAIN_S,
    attempts_max: int = ATTEMPTS_MAX,
) -> socket.socket:
    """Returns a connection, blocking and without a timeout.

    Raises: OSError, at once when every address refused; TimeoutError."""
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    poll = select.poll()  # select() refuses descriptors above 1023
    under_way: dict[int, socket.socket] = {}
    begun, next_s = 0, monotonic_s()
    failed: OSError | None = None
    try:
        while (now_s := monotonic_s()) < until_s:
            if begun >= len(places) and not under_way:
                break
            more = begun < max(attempts_max, len(places))
            if more and (now_s >= next_s or not under_way):
                try:
                    attempt = _begin(places[begun % len(places)])
                    under_way[attempt.fileno()] = attempt
                    poll.register(attempt, select.POLLOUT)
                except OSError as error:
                    failed = error
                begun, next_s = begun + 1, now_s + again_s
                continue
            wake_s = min(until_s, next_s) if more else until_s
            for number, _ in poll.poll(max(0, ceil((wake_s - now_s) * 1000))):
                poll.unregister(number)
                attempt = under_way.pop(number)
                wrong = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not wrong:
                    attempt.setblocking(True)
                    return attempt
                attempt.close()
                failed = OSError(wrong, os.strerror(wrong))
    finally:
        for attempt in under_way.values():
            attempt.close()
    raise failed or TimeoutError(f"no answer from {host}:{port} to {begun} attempts")


def _begin(place: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """Returns a socket that connects by itself."""
    family, kind, protocol, _, address = place
    attempt = socket.socket(family, kind, protocol)
    attempt.setblocking(False)
    try:
        attempt.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        attempt.close()
        raise
    return attempt
