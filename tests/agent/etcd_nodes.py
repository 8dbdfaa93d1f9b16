"""Starts real etcd members on loopback, stops, kills and freezes them by their id."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.agent.processes import is_gone
from twinstep.agent import etcd
from twinstep.agent.etcd_http import parse
from twinstep.agent.kv import KeyValueStore
from twinstep.clock import monotonic_s
from twinstep.errors import TwinstepError

needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None,
    reason="no etcd on this computer; apt-get install etcd-server",
)
START_S_MAX = 30.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


@dataclass(slots=True, kw_only=True)
class Node:
    """One member of a cluster."""

    name: str
    port: int
    peer_port: int
    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["etcd", *self.arguments], stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """It is dead when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            assert is_gone(self.process.pid)


@dataclass(slots=True, kw_only=True)
class Cluster:
    """One member or several."""

    nodes: list[Node]
    query: str = ""
    scheme: str = "etcd"
    name: str = ""
    """The job in the address: a prefix of all keys."""
    opened: list[KeyValueStore] = field(default_factory=list[KeyValueStore])

    @property
    def address(self) -> str:
        return self.address_of(self.nodes)

    def address_of(self, nodes: Sequence[Node]) -> str:
        names = ",".join(node.endpoint for node in nodes)
        return f"{self.scheme}://{names}/{self.name}{self.query}"

    def open(self, *, call_s_max: float = 5.0) -> etcd.Etcd:
        store = etcd.connect(self.address, call_s_max=call_s_max)
        self.opened.append(store)
        return store

    def await_ready(self) -> None:
        """Every member answers, with a leader."""
        until_s = monotonic_s() + START_S_MAX
        for node in self.nodes:
            store = etcd.connect(self.address_of([node]), call_s_max=1.0)
            while not answers(store):
                text = node.log.read_text(errors="replace")[-2000:]
                assert monotonic_s() < until_s, f"{node.endpoint} is not ready: {text}"
            store.close()

    def leader(self) -> Node:
        """The member that all others follow, as one that answers tells."""
        status = b""
        for node in self.nodes:
            with contextlib.suppress(OSError, AssertionError):
                status = ask(node, "/v3/maintenance/status", b"{}")
                break
        words = status.decode()
        leader = words.split('"leader":"')[1].split('"')[0]
        for node in self.nodes:
            with contextlib.suppress(OSError, AssertionError):
                said = ask(node, "/v3/maintenance/status", b"{}").decode()
                if f'"member_id":"{leader}"' in said:
                    return node
        raise AssertionError(f"nobody is {leader}")

    def compact(self, revision: int) -> None:
        """History before `revision` is gone."""
        ask(
            self.nodes[0],
            "/v3/kv/compaction",
            b'{"revision":"%d","physical":true}' % revision,
        )

    def close(self) -> None:
        for store in self.opened:
            store.close()
        for node in self.nodes:
            node.kill()


def answers(store: KeyValueStore) -> bool:
    try:
        store.get("")
    except TwinstepError:
        return False
    return True


def ask(node: Node, path: str, body: bytes) -> bytes:
    """An answer of a member that speaks plain HTTP, by the bytes."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as link:
        head = f"POST {path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        link.sendall(head.encode() + body)
        said = b""
        while piece := link.recv(65536):
            said += piece
    assert b" 200 OK" in said, said
    return said


@contextlib.contextmanager
def cluster(
    folder: Path,
    count: int = 1,
    *,
    heartbeat_ms: int = 60,
    election_ms: int = 600,
    arguments: Sequence[str] = (),
    query: str = "",
    tls: bool = False,
    wait: bool = True,
) -> Iterator[Cluster]:
    """A cluster of `count` members that is gone when the block ends."""
    scheme = "https" if tls else "http"
    ports = free_ports(2 * count)
    nodes: list[Node] = []
    pairs = list(zip(ports[:count], ports[count:], strict=True))
    members = ",".join(
        f"m{n}=http://127.0.0.1:{peer}" for n, (_, peer) in enumerate(pairs)
    )
    for number, (port, peer_port) in enumerate(pairs):
        name = f"m{number}"
        url, peer_url = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        settings = {
            "name": name,
            "data-dir": str(folder / name),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": members,
            "heartbeat-interval": str(heartbeat_ms),
            "election-timeout": str(election_ms),
            "logger": "zap",
            "log-level": "error",
        }
        flags = [f"--{setting}={value}" for setting, value in settings.items()]
        nodes.append(
            Node(
                name=name,
                port=port,
                peer_port=peer_port,
                arguments=[*flags, *arguments],
                log=folder / f"{name}.log",
            )
        )
    made = Cluster(nodes=nodes, query=query, scheme="etcds" if tls else "etcd")
    parse(made.address)
    try:
        for node in nodes:
            node.start()
        if wait:
            made.await_ready()
        yield made
    finally:
        made.close()
