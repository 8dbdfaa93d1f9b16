"""A real etcd of one member or three, for jobs that are to be injured together with it.

Each member is a process of its own, on a host of its own where there are hosts, else
on loopback. It keeps its data when it is killed, and may come back with them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from twinstep.agent.lifeline import tied
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, UsageError

HEARTBEAT_MS = 100
ELECTION_MS = 600
"""docs/design/etcd.md: with etcd's own 1000 ms, a lease lives 2 s at least."""
START_S_MAX = 30.0
ASK_S_MAX = 1.0
LOOK_S = 0.05

Where = Callable[[Sequence[str]], Sequence[str]]
"""Makes of a command one that runs in some host's network."""


def lacking() -> str:
    """Returns why there can be no etcd here; "" if there can."""
    if shutil.which("etcd"):
        return ""
    return "no etcd on this computer; apt-get install etcd-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a member is to be: its address, and how a command is run there."""

    host: str = "127.0.0.1"
    port: int = 2379
    peer_port: int = 2380
    where: Where = tuple


def on_loopback(count: int) -> list[Place]:
    """Returns places for members on ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    pairs = zip(ports[:count], ports[count:], strict=True)
    return [Place(port=port, peer_port=peer_port) for port, peer_port in pairs]


@final
class Members:
    """The members of one etcd, all started; `ready` waits until they answer."""

    def __init__(self, places: Sequence[Place], folder: Path) -> None:
        if lacking():
            raise UsageError(lacking())
        self.places = list(places)
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(len(self.places)):
            self.start(number)

    @property
    def endpoints(self) -> str:
        return ",".join(f"{place.host}:{place.port}" for place in self.places)

    def start(self, number: int) -> None:
        """The member is there, or there again, with what it knew."""
        place, name = self.places[number], f"e{number}"
        client = f"http://{place.host}:{place.port}"
        peer = f"http://{place.host}:{place.peer_port}"
        all_peers = ",".join(
            f"e{n}=http://{s.host}:{s.peer_port}" for n, s in enumerate(self.places)
        )
        settings = {
            "name": name,
            "data-dir": str(self._folder / name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": all_peers,
            "heartbeat-interval": str(HEARTBEAT_MS),
            "election-timeout": str(ELECTION_MS),
            "auto-compaction-retention": "1000",
            "auto-compaction-mode": "revision",
            "logger": "zap",
            "log-level": "error",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in settings.items())]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                tied(list(place.where(command)), parent=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> None:
        """Every member answers and follows a leader.

        Raises: DeadlinePassed naming those that do not, with their last words."""
        until_s = monotonic_s() + START_S_MAX
        left = list(range(len(self.places)))
        while left := [number for number in left if not self._leader_by(number)]:
            if monotonic_s() > until_s:
                words = (self._folder / f"e{left[0]}.log").read_text(errors="replace")
                raise DeadlinePassed(
                    f"etcd members {left} are not ready after {START_S_MAX:g} s: "
                    f"{words[-1000:]}"
                )
            time.sleep(LOOK_S)

    def leader(self) -> int:
        """The number of the member that leads now, as most say.

        Raises: DeadlinePassed when nobody does."""
        until_s = monotonic_s() + START_S_MAX
        while monotonic_s() < until_s:
            said = [self._leader_by(number) for number in range(len(self.places))]
            known = [leader for leader in said if leader]
            for number in range(len(self.places)):
                mine = self._status(number).get("header", {}).get("member_id")
                if mine is not None and known.count(mine) * 2 > len(self.places):
                    return number
            time.sleep(LOOK_S)
        raise DeadlinePassed(f"no member of etcd at {self.endpoints} leads")

    def signal(self, number: int, sent: signal.Signals) -> None:
        """The member's process gets a signal; it is gone at return if that kills."""
        process = self._processes[number]
        process.send_signal(sent)
        if sent is signal.SIGKILL:
            process.wait(ASK_S_MAX * 10)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(ASK_S_MAX * 10)

    def _leader_by(self, number: int) -> str:
        """The leader's id as a member tells; "" when it tells nothing, or of none."""
        leader = self._status(number).get("leader", "0")
        return "" if leader == "0" else leader

    def _status(self, number: int) -> dict[str, Any]:
        place = self.places[number]
        request = b"POST /v3/maintenance/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"
        said = b""
        try:
            address = (place.host, place.port)
            with socket.create_connection(address, timeout=ASK_S_MAX) as link:
                link.sendall(request)
                while piece := link.recv(65536):
                    said += piece
            return dict(json.loads(said.partition(b"\r\n\r\n")[2]))
        except (OSError, ValueError):
            return {}
