"""Answers a prober: GET /healthz is whether the agent's loop runs, GET /readyz whether
the machine could do its part now. Two paths, no state, nothing else.

A kubelet, or a load balancer, speaks HTTP and has no credentials of the job. So what
it is told is a word, and what it can cost is bounded: requests at the same time, the
bytes of one, and its time. Answers come from the agent's own loop: an agent whose loop
stands still is not healthy, and does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from twinstep.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX = 4096
REQUEST_S_MAX = 2.0


class Doing(Protocol):
    """What is asked of an agent."""

    @property
    def is_attached(self) -> bool:
        """It is root, or has a connection to the root."""
        ...

    @property
    def has_place(self) -> bool: ...

    @property
    def is_warm(self) -> bool: ...

    @property
    def reserved_bytes(self) -> int: ...


def lacks(agent: Doing) -> str:
    """Returns what keeps a machine from being ready; empty when nothing does."""
    if not agent.is_attached:
        return "no connection to a root"
    if not agent.has_place:
        return "" if agent.is_warm else "standby, the frameworks are being imported"
    return "" if agent.reserved_bytes else "no slots are reserved yet"


class HealthServer:
    """Listens at one address; `lacking` is asked at each request."""

    def __init__(self, host: str, port: int, lacking: Callable[[], str]) -> None:
        self._host, self._port, self._lacking = host, port, lacking
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> None:
        """Raises: ConfigError when the port is not to be had."""
        try:
            self._server = await asyncio.start_server(
                self._attend, self._host, self._port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            raise ConfigError(
                f"health.port {self._port} cannot be listened at on {self._host}: "
                f"{error}; choose another, or 0 for none"
            ) from error

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._busy:
            writer.transport.abort()

    async def _attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._busy) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._busy.add(writer)
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                with contextlib.suppress(
                    OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
                ):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except TimeoutError:
            pass
        finally:
            self._busy.discard(writer)
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        method, path = (words[0], words[1]) if len(words) == 3 else (b"", b"")
        path = path.partition(b"?")[0]
        if path == b"/healthz":
            line, text = "200 OK", "ok"
        elif path == b"/readyz":
            text = self._lacking()
            line = "503 Service Unavailable" if text else "200 OK"
            text = f"not ready: {text}" if text else "ok"
        else:
            line, text = "404 Not Found", "there are /healthz and /readyz"
        if method not in (b"GET", b"HEAD"):
            line, text = "405 Method Not Allowed", "only GET"
        body = b"" if method == b"HEAD" else f"{text}\n".encode()
        lines = [
            f"HTTP/1.1 {line}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(text) + 1}",
            "Connection: close",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
