"""Strangers at an agent's port and at the key-value store: refused, named, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.agent.kv_calls import put_in
from tests.trust import made, strangers as come
from twinstep.agent import kv_client, kv_server
from twinstep.agent.doors import Doors
from twinstep.agent.messages import Opening
from twinstep.config import Job, Trust
from twinstep.errors import ConfigError, DeadlinePassed, ProtocolError
from twinstep.transfer.frame import Fetch, encode
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.handshake import Role
from twinstep.trust.wire import secure

LIMITS: dict[str, Any] = {"handshake_s_max": 1.0, "strangers_max": 16}
MANY_LINES = 10_000
ATTEMPTS_MAX = 50


def credentials_of(kind: str, **changed: Any) -> Credentials:
    limits = LIMITS | {"strangers_lines_max": MANY_LINES} | changed
    match kind:
        case "token":
            return made.token(**limits)
        case "tls":
            return made.tls(**limits)
        case _:
            return Credentials(limits=Trust(**limits))


class Port:
    """An agent's real doors in a loop of their own, with nothing behind them."""

    def __init__(self, credentials: Credentials, folder: Path) -> None:
        self.lines: list[str] = []
        self.let_in: list[Any] = []
        self._began = threading.Event()
        self._post = SimpleNamespace(
            host="127.0.0.1", name="m0", job_name="job", folder=folder
        )
        self._credentials = credentials
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), daemon=True
        )
        self._thread.start()
        assert self._began.wait(10)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        agent = SimpleNamespace(
            job=Job(),
            post=self._post,
            credentials=self._credentials,
            loop=self._loop,
            log=self.lines.append,
            rooting=SimpleNamespace(attend=lambda _, link: self.let_in.append(link)),
            mover=SimpleNamespace(attend=lambda c, h: self.let_in.append((c, h))),
        )
        doors = Doors(agent)  # type: ignore[arg-type]
        self.address = ("127.0.0.1", doors.port)
        doors.open()
        self._began.set()
        await self._ended.wait()
        doors.close()

    def line(self, text: str, *, after: int = 0) -> str:
        """Waits for a line with this; returns it."""
        until_s = time.monotonic() + come.WAIT_S
        while time.monotonic() < until_s:
            for line in self.lines[after:]:
                if re.search(text, line):
                    return line
            time.sleep(0.005)
        raise AssertionError(f"no line has {text!r}: {self.lines[after:]}")

    def enter(self, role: Role = Role.DATA, limit_s: float = 5.0) -> None:
        """One of the job comes in. Raises: OSError, AssertionError if it may not."""
        before = len(self.let_in)
        plain = socket.create_connection(self.address, timeout=5)
        connection = secure(plain, self._credentials, role=role, job="job", limit_s=5)
        fetch = Fetch(job="job", machine="m1", round=1, term=1, shard=0, step=1)
        word = fetch if role is Role.DATA else Opening(job="job", machine="m1")
        with contextlib.closing(connection):
            connection.sendall(encode(word))
            until_s = time.monotonic() + limit_s
            while len(self.let_in) == before:
                assert time.monotonic() < until_s, f"not let in: {self.lines[-3:]}"
                time.sleep(0.002)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        for one in self.let_in:
            (one[0] if isinstance(one, tuple) else one).close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Callable[..., Port]]:
    opened: list[Port] = []

    def open_port(kind: str, **changed: Any) -> Port:
        opened.append(Port(credentials_of(kind, **changed), tmp_path))
        return opened[-1]

    yield open_port
    for one in opened:
        one.close()


@pytest.mark.parametrize("kind", ["token", "tls"])
def test_every_stranger_is_refused_and_named(
    port: Callable[..., Port], kind: str, tmp_path: Path
) -> None:
    agent = port(kind)
    agent.enter()
    for name, (stranger, reason) in come.strangers(kind, tmp_path, job="job").items():
        before = len(agent.lines)
        stranger(agent.address)
        line = agent.line(reason, after=before)
        assert re.match(r"dropped 127\.0\.0\.1:\d+: ", line), (name, line)
        assert len(agent.let_in) == 1, name
    agent.enter(Role.CONTROL)
    agent.enter()


@pytest.mark.parametrize("kind", ["none", "token", "tls"])
def test_whoever_is_slow_has_one_deadline(port: Callable[..., Port], kind: str) -> None:
    agent = port(kind)
    fetch = Fetch(job="job", machine="m1", round=1, term=1, shard=0, step=1)
    handshake = agent._credentials.client(Role.DATA, job="job")
    sent = encode(fetch) if handshake is None else handshake.begin()
    began_s = time.monotonic()
    come.byte_by_byte(sent[:-1] + bytes(500 if handshake is None else 0))(agent.address)
    assert time.monotonic() - began_s < 8
    agent.line(
        "did not prove itself within 1 s|said nothing in time|cannot be read|"
        "begins with|checksum"
    )
    agent.enter()


@pytest.mark.parametrize("kind", ["none", "token", "tls"])
def test_a_thousand_silent_ones_leave_room(
    port: Callable[..., Port], kind: str
) -> None:
    """With a room of 16 and a deadline that none of them reaches."""
    agent = port(kind, handshake_s_max=30.0, strangers_lines_max=10)
    held: list[socket.socket] = []
    began_s = time.monotonic()

    def flood() -> None:
        held.extend(come.silent(agent.address, 1000))

    flooding = threading.Thread(target=flood)
    flooding.start()
    for _ in range(20):
        for attempt in range(ATTEMPTS_MAX):  # as an agent does, when it was dropped
            try:
                agent.enter(limit_s=0.5)
                break
            except (OSError, AssertionError, ProtocolError):
                assert attempt < ATTEMPTS_MAX - 1, agent.lines[-3:]
    flooding.join(60)
    assert not flooding.is_alive() and len(held) == 1000
    agent.enter()
    lines_max = 10 + 2 + (time.monotonic() - began_s)
    assert len(agent.lines) <= lines_max, "one a second after the first ten"
    agent.line("more: .*984|more: .*it has not proved itself, and 16 others wait")
    open_now = 0
    for sock in held:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.recv(200)
            sock.recv(200)
            continue
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            open_now += sock.recv(1) != b""
            continue
        open_now += 1
    for sock in held:
        sock.close()
    assert open_now <= 17


def test_without_credentials_a_gibibyte_is_refused_as_well(
    port: Callable[..., Port],
) -> None:
    agent = port("none")
    come.says(come.announces_a_gibibyte())(agent.address)
    agent.line("announces a header of 1073741824 bytes; at most")
    come.says(encode(Opening(job="x" * 3_000_000, machine="m")))(agent.address)
    agent.line("announces a header of 3000033 bytes; at most 4096")
    come.says(encode(Opening(job="x" * 4000, machine="m")))(agent.address)
    assert len(agent.line("it is of job 'xxx")) < 300
    assert agent.let_in == []


def test_one_of_the_job_that_announces_a_gibibyte_is_dropped(
    port: Callable[..., Port],
) -> None:
    agent = port("tls")
    plain = socket.create_connection(agent.address, timeout=5)
    connection = secure(plain, agent._credentials, role=Role.DATA, job="job", limit_s=5)
    connection.sendall(come.announces_a_gibibyte())
    agent.line("announces a header of 1073741824 bytes")
    connection.close()


def test_a_connection_for_copies_cannot_pose_as_a_machine(
    port: Callable[..., Port],
) -> None:
    agent = port("token")
    plain = socket.create_connection(agent.address, timeout=5)
    connection = secure(plain, agent._credentials, role=Role.DATA, job="job", limit_s=5)
    connection.sendall(encode(Opening(job="job", machine="m1")))
    agent.line("header cannot be read: Invalid value 'Opening'")
    connection.close()


def test_an_agent_without_credentials_does_not_listen_to_others(tmp_path: Path) -> None:
    agent = SimpleNamespace(
        post=SimpleNamespace(host="0.0.0.0", name="m0", folder=tmp_path),
        credentials=NONE,
    )
    with pytest.raises(ConfigError, match="not loopback.*trust.certs"):
        Doors(agent)  # type: ignore[arg-type]


# The key-value store.


@pytest.mark.parametrize("kind", ["token", "tls"])
def test_the_store_serves_credentials_only(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    credentials = credentials_of(kind)
    with kv_server.serve(host="0.0.0.0", credentials=credentials) as server:
        port = int(server.address.rpartition(":")[2])
        store = kv_client.connect(f"127.0.0.1:{port}", credentials=credentials)
        watch = store.watch("", after=0)
        put_in(store, "a", b"x" * 500_000)
        assert watch.next(5)[0].key == "a"
        others = come.strangers(kind, tmp_path, job="", role=Role.STORE)
        for name, (stranger, _) in others.items():
            if name not in ("another job", "replayed"):  # the store is of no job
                stranger(("127.0.0.1", port))
        for wrong in (NONE, credentials_of("tls" if kind == "token" else "token")):
            other = kv_client.connect(
                f"127.0.0.1:{port}", credentials=wrong, call_s_max=0.3
            )
            with pytest.raises(DeadlinePassed):
                other.get("")
            other.close()
        assert store.get("")[1]["a"].value == b"x" * 500_000
        watch.close()
        store.close()
    for name, (_, reason) in others.items():
        if name not in ("another job", "replayed"):
            assert re.search(reason, caplog.text), (name, caplog.text)


def test_the_store_has_room_for_its_own_among_silent_ones() -> None:
    credentials = credentials_of("token", handshake_s_max=30.0)
    with kv_server.serve(credentials=credentials) as server:
        host, port = server.address.split(":")
        held = come.silent((host, int(port)), 60)
        store = kv_client.connect(server.address, credentials=credentials)
        put_in(store, "a")
        more = come.silent((host, int(port)), 60)
        assert "a" in store.get("")[1], "one that has proved itself is not dropped"
        store.close()
        for sock in (*held, *more):
            sock.close()
