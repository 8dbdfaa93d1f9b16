"""A store whose connections take long to be made is reached all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from tests.agent.kv_calls import put_in
from twinstep.agent.kv import Event
from twinstep.agent.kv_client import connect
from twinstep.agent.kv_server import serve
from twinstep.errors import DeadlinePassed
from twinstep.trust.credentials import Credentials

TOKEN = Credentials(token=b"t" * 32)
LATE_S = 0.04
"""Each way; a handshake goes twice there and back."""
LOOKS_MAX = 40


class LateWay:
    """A way to a store on which every piece comes late."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._opened = [self._listener]
        self._threads = [threading.Thread(target=self._accepts)]
        self._threads[0].start()

    def _accepts(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._opened += [near, far]
                for ends in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._carries, args=ends)
                    self._threads.append(thread)
                    thread.start()

    def _carries(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                time.sleep(LATE_S)
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._opened:
            one.close()


def test_a_watch_that_is_asked_for_little_time_connects_in_the_end() -> None:
    with serve(credentials=TOKEN) as server:
        way = LateWay(server.address)
        store = connect(way.address, credentials=TOKEN)
        watch = store.watch("", after=0)
        put_in(server.store, "a")
        found: list[Event] = []
        for _ in range(LOOKS_MAX):
            with contextlib.suppress(DeadlinePassed):
                found += watch.next(0.05)
            if found:
                break
        watch.close()
        store.close()
    way.close()
    assert [event.key for event in found] == ["a"]
