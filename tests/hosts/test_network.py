"""Hosts are apart, and what is done to a link is what one of them sees."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.needs import needs_hosts
from twinstep.demo.hosts.links import Links
from twinstep.demo.hosts.network import Network
from twinstep.demo.hosts.relay import Wrong

pytestmark = needs_hosts

PORT = 4711
WAITING = 40
ECHO = f"""
import socket
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.bind(("0.0.0.0", {PORT}))
print("listens", flush=True)
while True:
    port.sendto(*port.recvfrom(100))
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(3) as made:
        yield made


@pytest.fixture
def echo(network: Network) -> Iterator[subprocess.Popen[str]]:
    """Host 2 answers what it hears."""
    command = network.machine(2, [sys.executable, "-u", "-c", ECHO])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield process
        process.kill()


def answers(network: Network, host: int, *, count: int = 2) -> list[float]:
    """The times of the answers that a host hears from host 2, in seconds."""
    found: list[float] = []
    with network.entered(host):
        port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with port:
        port.settimeout(0.15)
        for _ in range(count):
            began_s = time.monotonic()
            port.sendto(b"?", (network.address(2), PORT))
            try:
                port.recv(100)
            except TimeoutError:
                continue
            found.append(time.monotonic() - began_s)
    return found


@pytest.mark.usefixtures("echo")
def test_links_are_cut_and_heal(network: Network) -> None:
    assert len(answers(network, 1)) == 2
    for links, near, far in (
        (Links().but_cut(2), 0, 0),
        (Links().but_cut(1), 0, 2),
        (Links().but_split(1, 2), 0, 2),
        (Links().but_deaf(1, 2), 0, 2),
        (Links().but_deaf(2, 1), 0, 2),
        (Links().but_lossy(3, 0.9999), 2, 0),
        (Links(), 2, 2),
    ):
        network.set(links)
        heard = len(answers(network, 1)), len(answers(network, 3))
        assert heard == (near, far), links


@pytest.mark.usefixtures("echo")
def test_a_delay_counts_in_each_direction_and_ends(network: Network) -> None:
    network.relay(2, Wrong(delay_s=0.03))
    # What is sent before the relay listens is lost.
    until_s = time.monotonic() + 10
    while not (times_s := answers(network, 1)):
        assert time.monotonic() < until_s
    assert min(times_s) >= 0.06, times_s
    network.set(Links().but_cut(2))
    assert not answers(network, 1), "rules hold for what is delayed, too"
    network.set(Links())
    assert network.unrelay(2) == 0
    assert min(answers(network, 1)) < 0.06


def test_a_host_that_loses_power_loses_all_that_ran_on_it(network: Network) -> None:
    script = "setsid sleep 1000 & echo $(hostname) $$ > /dev/shm/mine; echo ok; wait"
    mark = {**os.environ, "HOSTS_TEST": str(time.monotonic_ns())}
    process = subprocess.Popen(
        network.machine(1, ["sh", "-c", script]),
        stdout=subprocess.PIPE,
        text=True,
        env=mark,
    )
    assert process.stdout is not None and process.stdout.readline() == "ok\n"
    assert len(marked(mark["HOSTS_TEST"])) >= 3
    assert not Path("/dev/shm/mine").exists()
    process.kill()
    process.communicate(timeout=5)
    until_s = time.monotonic() + 5
    while left := marked(mark["HOSTS_TEST"]):
        assert time.monotonic() < until_s, left
        time.sleep(0.01)


def seconds_to_send(network: Network, source: int, target: int, *, size: int) -> float:
    """How long a plain connection takes for so many bytes."""
    with network.entered(target):
        listener = socket.create_server((network.address(target), PORT))
    with network.entered(source):
        sender = socket.create_connection((network.address(target), PORT), timeout=20)
    receiver, _ = listener.accept()
    with listener, sender, receiver:
        began_s = time.monotonic()
        sender.sendall(bytes(size))
        sender.shutdown(socket.SHUT_WR)
        while receiver.recv(65536):
            pass
        return time.monotonic() - began_s


def test_a_limited_cable_is_slow_in_both_directions(network: Network) -> None:
    size, least_s = 300_000, 0.9 * 300_000 * 8 / 8_000_000  # less what a burst is
    network.limit(2, 8_000_000)
    assert seconds_to_send(network, 1, 2, size=size) > least_s
    assert seconds_to_send(network, 2, 1, size=size) > least_s
    assert seconds_to_send(network, 1, 3, size=size) < least_s, "not others' cables"
    network.limit(2, 1_000_000_000)
    assert seconds_to_send(network, 1, 2, size=size) < least_s
    assert seconds_to_send(network, 2, 1, size=size) < least_s


@pytest.mark.parametrize("bands", [False, True])
def test_low_priority_waits_only_where_there_are_bands(
    network: Network, bands: bool
) -> None:
    network.limit(1, 1_000_000, bands=bands)
    with network.entered(2):
        there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with network.entered(1):
        here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with there, here:
        there.settimeout(10)
        there.bind((network.address(2), PORT))
        places = [place_of_the_urgent(here, there) for _ in range(5)]
    # Whoever sends slowly finds an empty queue, in which there is nothing to wait for.
    assert (min(places) < WAITING) == bands, places


def place_of_the_urgent(here: socket.socket, there: socket.socket) -> int:
    """Where the last of some datagrams arrives, the only one of ordinary priority."""
    for priority, count in ((1, WAITING), (0, 1)):
        here.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        for _ in range(count):
            here.sendto(bytes([priority]) + bytes(1000), there.getsockname())
    return [there.recv(2000)[0] for _ in range(WAITING + 1)].index(0)


def marked(mark: str) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_two_networks_do_not_meet(network: Network) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with Network(3) as other:
        with other.entered(2):
            listener = socket.create_server((other.address(2), PORT))
        with listener:
            with network.entered(1), pytest.raises(ConnectionRefusedError):
                socket.create_connection((network.address(2), PORT), timeout=5)
            with other.entered(1):
                socket.create_connection((other.address(2), PORT), timeout=5).close()
    assert os.readlink("/proc/thread-self/ns/net") == before
