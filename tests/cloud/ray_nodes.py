"""Real Ray nodes on hosts of this computer: each is killed whole, by one signal."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.agent.processes import is_gone
from tests.hosts.needs import needs_hosts
from twinstep.clock import monotonic_s
from twinstep.demo.hosts.network import Network

needs_ray = [
    pytest.mark.skipif(
        "TWINSTEP_ENGINES" not in os.environ, reason="takes long: make test-engines"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="pip install 'twinstep[ray]'"
    ),
    needs_hosts,
]
RAY = str(Path(sys.executable).parent / "ray")
START_S_MAX = 60.0
MEMORY_BYTES = 80_000_000
# Nothing is reported to anybody; lines come as they are.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
# Each host has its own folder for Ray's sockets, which all have one name; and no name
# server, or each look-up of a name would wait ten seconds for one that is not there.
BOOT = """
mount -t tmpfs tmpfs "$0" && mount --bind /dev/null /etc/resolv.conf && exec "$@"
"""


class RayNodes:
    """A head without CPUs on host 1, and a node with one on each other host.

    Ray's health checks are its defaults: a node that is lost stays alive in Ray's view
    for longer than these tests take."""

    def __init__(
        self, network: Network, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.network, self.folder = network, folder
        self.environment = {**environment, **QUIET, "OMP_NUM_THREADS": "1"}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        (folder / "ray").mkdir()

    def start(self, host: int) -> None:
        address = self.network.address(host)
        command = [RAY, "start", "--block", f"--node-ip-address={address}"]
        command += [f"--object-store-memory={MEMORY_BYTES}", "--disable-usage-stats"]
        if host == 1:
            command += ["--head", "--port=6379", "--include-dashboard=false"]
            command += [f"--temp-dir={self.folder / 'ray'}", "--num-cpus=0"]
        else:
            command += [f"--address={self.network.address(1)}:6379", "--num-cpus=1"]
            command = ["sh", "-c", BOOT, str(self.folder / "ray"), *command]
        with self.log(host).open("wb") as log:
            self.processes[host] = subprocess.Popen(
                self.network.machine(host, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def log(self, host: int) -> Path:
        return self.folder / f"ray-{host}.out"

    def ready(self, hosts: Sequence[int]) -> None:
        until_s = monotonic_s() + START_S_MAX
        for host in hosts:
            while "Ray runtime started" not in (said := self.log(host).read_text()):
                assert self.processes[host].poll() is None, said
                assert monotonic_s() < until_s, f"host {host} is not up: {said}"
                is_gone(self.processes[host].pid, 0.05)

    def kill(self, host: int) -> None:
        """A power failure: whatever ran on the host is gone at once."""
        process = self.processes[host]
        process.kill()
        process.wait(10)

    def driver(self, command: Sequence[str], out: Path) -> subprocess.Popen[bytes]:
        """Runs on the head's host."""
        address = f"{self.network.address(1)}:6379"
        with out.open("wb") as file:
            return subprocess.Popen(
                self.network.at(1, [sys.executable, "-u", *command]),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self.environment, "RAY_ADDRESS": address},
                start_new_session=True,
            )

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@contextlib.contextmanager
def ray_nodes(
    folder: Path, count: int, environment: Mapping[str, str]
) -> Iterator[RayNodes]:
    """A head, and `count` nodes on hosts 2 and up."""
    with Network(1 + count) as network:
        nodes = RayNodes(network, folder, environment)
        try:
            nodes.start(1)
            nodes.ready([1])
            others = range(2, 2 + count)
            for host in others:
                nodes.start(host)
            nodes.ready(others)
            yield nodes
        finally:
            nodes.close()
