"""Proves a connection: from a thread that blocks, or in a loop.

Both have one deadline for the whole handshake, however slowly its bytes come. What the
connection is afterwards, a plain socket or a sealed one, is for the credentials to say
(credentials.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import Executor

from twinstep.errors import DeadlinePassed
from twinstep.trust.credentials import Credentials
from twinstep.trust.handshake import Handshake, Role, Stranger
from twinstep.trust.streams import Connection

FAREWELL_S = 0.1
"""How long a thread waits to tell a stranger why."""


def secure(
    sock: socket.socket,
    credentials: Credentials,
    *,
    role: Role,
    job: str,
    limit_s: float,
) -> Connection:
    """Returns an outgoing connection, proved by both ends; `sock` is taken over.

    Raises: Stranger when the peer is none of this job, or says that we are not;
    DeadlinePassed; OSError. Then `sock` is closed."""
    handshake = credentials.client(role, job=job)
    if handshake is None:
        return sock
    try:
        prove(sock, handshake, limit_s=limit_s)
        return credentials.carry(sock, handshake)
    except BaseException:
        sock.close()
        raise


def prove(
    sock: socket.socket,
    handshake: Handshake,
    *,
    limit_s: float,
    spoke: Callable[[], None] | None = None,
) -> None:
    """Both ends have proved themselves, within `limit_s`. Blocks; `spoke` is called
    when the peer has sent something that may be a proof's beginning.

    Raises: Stranger, DeadlinePassed, OSError."""
    until_s = time.monotonic() + limit_s
    former_s = sock.gettimeout()
    try:
        outgoing = handshake.begin()
        while True:
            if outgoing:
                sock.settimeout(_left(until_s, limit_s))
                sock.sendall(outgoing)
            if handshake.done:
                return
            sock.settimeout(_left(until_s, limit_s))
            received = sock.recv(handshake.wants)
            if not received:
                raise _ended()
            outgoing = handshake.feed(received)
            if spoke is not None:
                spoke()
    except TimeoutError:
        raise _late(limit_s) from None
    except Stranger:
        with contextlib.suppress(OSError):
            sock.settimeout(FAREWELL_S)
            sock.sendall(handshake.farewell)
        raise
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(former_s)


async def prove_in_loop(
    sock: socket.socket,
    handshake: Handshake,
    *,
    limit_s: float,
    pool: Executor,
    spoke: Callable[[], None] | None = None,
) -> None:
    """As `prove`, in a loop; what is long to compute is computed in `pool`.

    Raises: Stranger, DeadlinePassed, OSError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit_s):
            outgoing = handshake.begin()
            while True:
                if outgoing:
                    await loop.sock_sendall(sock, outgoing)
                if handshake.done:
                    return
                received = await loop.sock_recv(sock, handshake.wants)
                if not received:
                    raise _ended()
                outgoing = await loop.run_in_executor(pool, handshake.feed, received)
                if spoke is not None:
                    spoke()
    except TimeoutError:
        raise _late(limit_s) from None
    except Stranger:
        with contextlib.suppress(OSError):
            sock.send(handshake.farewell)  # into an empty buffer, or not at all
        raise


def _left(until_s: float, limit_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise _late(limit_s)
    return left_s


def _late(limit_s: float) -> DeadlinePassed:
    return DeadlinePassed(f"it did not prove itself within {limit_s:g} s")


def _ended() -> Stranger:
    return Stranger("it ended the connection before it had proved itself")
