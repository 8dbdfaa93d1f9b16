"""The interface's counters are read while they are asked for, and those of the right
one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from twinstep.agent.counters import Counters, interface_of
from twinstep.errors import ConfigError

WAIT_S = 20.0


@pytest.fixture
def counters() -> Iterator[Counters]:
    own = iter(range(10**9))
    found = Counters("lo", lambda: next(own), samples_max=200)
    yield found
    found.stop()


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def until(counters: Counters, samples: int) -> None:
    end_s = time.monotonic() + WAIT_S
    while counters.statistics().samples < samples:
        assert time.monotonic() < end_s, counters.statistics()
        time.sleep(0.002)


def test_bytes_that_cross_loopback_are_counted(counters: Counters) -> None:
    ours, theirs = connected()
    size = 4_000_000
    counters.start()
    until(counters, 2)
    before = counters.samples()[0]
    sender = threading.Thread(target=ours.sendall, args=(bytes(size),))
    sender.start()
    left = size
    while left:
        left -= len(theirs.recv(1 << 20))
    sender.join()
    until(counters, counters.statistics().samples + 2)
    after = counters.samples()[-1]
    assert after.sent_bytes - before.sent_bytes >= size
    assert after.received_bytes - before.received_bytes >= size
    ours.close()
    theirs.close()


def test_samples_are_bounded_in_order_and_carry_the_own_bytes(
    counters: Counters,
) -> None:
    counters.start()
    until(counters, 250)
    counters.stop()
    samples = counters.samples()
    assert len(samples) == 200
    assert list(samples) == sorted(samples)
    first, final = samples[0].own_bytes, samples[-1].own_bytes
    assert final - first == 199
    assert final == counters.statistics().samples - 1


def test_nothing_is_sampled_before_start_or_after_stop(counters: Counters) -> None:
    assert not counters.samples()
    counters.start()
    counters.start()
    until(counters, 3)
    counters.stop()
    taken = counters.statistics()
    assert 0 < taken.processor_s < taken.seconds
    time.sleep(0.02)
    assert counters.statistics() == taken
    counters.start()
    until(counters, taken.samples + 3)


def test_an_interface_that_is_not_there_is_named() -> None:
    counters = Counters("nosuch0", lambda: 0)
    counters.start()
    end_s = time.monotonic() + WAIT_S
    while not counters.statistics().failure and time.monotonic() < end_s:
        time.sleep(0.002)
    assert "no network interface 'nosuch0'" in counters.statistics().failure
    counters.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost"])
def test_loopback_is_found(host: str) -> None:
    assert interface_of(host) == "lo"


def test_the_interface_of_the_way_out_is_found_by_its_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this computer has no network but loopback")
        address = asking.getsockname()[0]
    name = interface_of(address)
    assert name in [name for _, name in socket.if_nameindex()]
    assert name != "lo"
    assert interface_of("0.0.0.0") == name


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.7; it has .*127\.0\.0\.1"):
        interface_of("203.0.113.7")
    with pytest.raises(ConfigError, match="no address of this machine"):
        interface_of("no such name")
