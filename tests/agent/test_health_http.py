"""A prober is told a word; what it can cost is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from twinstep.agent import health_http
from twinstep.agent.health_http import HealthServer, lacks
from twinstep.errors import ConfigError


@dataclass
class Machine:
    is_attached: bool = True
    has_place: bool = True
    is_warm: bool = True
    reserved_bytes: int = 1


def serving(work: Callable[[HealthServer, Machine], Awaitable[None]]) -> None:
    async def run() -> None:
        machine = Machine()
        server = HealthServer("127.0.0.1", 0, lambda: lacks(machine))
        await server.open()
        try:
            await work(server, machine)
        finally:
            server.close()

    asyncio.run(run())


async def ask(server: HealthServer, head: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (Machine(), ""),
        (Machine(is_attached=False), "no connection to a root"),
        (Machine(reserved_bytes=0), "no slots are reserved"),
        (Machine(has_place=False, reserved_bytes=0), ""),
        (Machine(has_place=False, is_warm=False), "frameworks"),
    ],
)
def test_a_machine_is_ready_when_it_can_do_its_part(
    machine: Machine, says: str
) -> None:
    assert says in lacks(machine) and bool(says) == bool(lacks(machine))


def test_two_paths_are_answered_and_nothing_else() -> None:
    async def work(server: HealthServer, machine: Machine) -> None:
        for request, line, body in (
            (b"GET /healthz HTTP/1.1", b"200 OK", b"\r\n\r\nok\n"),
            (b"GET /readyz?verbose HTTP/1.1", b"200 OK", b"\r\n\r\nok\n"),
            (b"HEAD /healthz HTTP/1.1", b"200 OK", b"\r\n\r\n"),
            (b"POST /healthz HTTP/1.1", b"405", b"only GET\n"),
            (b"GET / HTTP/1.1", b"404", b"/healthz and /readyz\n"),
            (b"GET /healthz/.. HTTP/1.1", b"404", b"\n"),
            (b"nonsense", b"405", b"\n"),
        ):
            said = await ask(server, request + b"\r\nHost: x\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 " + line), (request, said)
            assert said.endswith(body), (request, said)
        machine.is_attached = False
        said = await ask(server, b"GET /readyz HTTP/1.1\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 503") and b"no connection" in said
        said = await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200")

    serving(work)


def test_a_long_request_and_a_silent_one_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_http, "REQUEST_S_MAX", 0.05)

    async def work(server: HealthServer, machine: Machine) -> None:
        assert await ask(server, b"GET /healthz HTTP/1.1\r\nA: " + b"x" * 9000) == b""
        assert await ask(server, b"") == b""

    serving(work)


def test_many_who_say_nothing_are_not_all_kept() -> None:
    async def work(server: HealthServer, machine: Machine) -> None:
        most = health_http.CONNECTIONS_MAX
        held = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(most)
        ]
        while len(server._busy) < most:
            await asyncio.sleep(0.001)
        assert await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
        for _, writer in held:
            writer.close()
        while server._busy:
            await asyncio.sleep(0.001)
        assert b"200 OK" in await ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")

    serving(work)


def test_a_port_that_is_taken_is_said() -> None:
    async def work(server: HealthServer, machine: Machine) -> None:
        other = HealthServer("127.0.0.1", server.port, lambda: "")
        with pytest.raises(ConfigError, match=r"health.port \d+ cannot be listened"):
            await other.open()

    serving(work)
