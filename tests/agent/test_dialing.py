"""A connection is had as soon as one attempt of several succeeds."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from tests.hosts.needs import needs_hosts
from twinstep.agent.dialing import dial
from twinstep.demo.hosts.links import Links
from twinstep.demo.hosts.network import Network


def test_a_listener_is_reached_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with dial("127.0.0.1", port, until_s=time.monotonic() + 5) as one:
            other, _ = listener.accept()
            with other:
                other.sendall(b"hello")
                assert one.gettimeout() is None
                assert one.recv(10) == b"hello"


def test_a_refusal_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    began_s = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.1", port, until_s=began_s + 30)
    assert time.monotonic() - began_s < 10


def test_silence_ends_by_the_deadline() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):  # nobody accepts: its queue is full, and drops who comes
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(TimeoutError, match="no answer from 127.0.0.1"):
            dial("127.0.0.1", port, until_s=time.monotonic() + 0.3)


@needs_hosts
def test_lost_packets_do_not_cost_a_second_each() -> None:
    with Network(2) as network, ExitStack() as stack:
        with network.entered(2):
            listener = stack.enter_context(socket.create_server((NEAR, 4711)))
        stack.enter_context(network.entered(1))
        network.set(Links().but_lossy(1, 0.4))
        began_s = time.monotonic()
        for _ in range(10):
            dial(NEAR, 4711, until_s=time.monotonic() + 30).close()
        took_s = time.monotonic() - began_s
        # An attempt succeeds in 36 %; where each waits a second for the kernel to send
        # again, ten connections take more than ten seconds.
        assert took_s < 6, took_s
        listener.close()


NEAR = Network.address(2)
