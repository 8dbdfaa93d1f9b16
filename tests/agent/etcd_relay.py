"""A link that can be cut, or swallow what goes one way, between a client and etcd."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self


class Relay:
    """Carries bytes between whoever connects to it (on port `here`; 0: any) and a port
    on loopback."""

    def __init__(self, port: int, *, here: int = 0) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", here))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._ended = False
        self.accepted = 0
        """Connections so far."""
        self.mute_to = 0
        """Answers on the first so many connections are swallowed."""
        self.answers_max: int | None = None
        """So many pieces of answers are carried, and no more."""
        self.sent = b""
        """What clients have said."""
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._order: dict[socket.socket, int] = {}
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join(5)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """All connections are over; new ones are accepted."""
        with self._lock:
            for one in self._pairs:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._pairs.clear()

    def _carry(self) -> None:
        while not self._ended:
            with selectors.DefaultSelector() as selector, self._lock:
                selector.register(self._listener, selectors.EVENT_READ)
                for one in self._pairs:
                    selector.register(one, selectors.EVENT_READ)
                found = [key.fileobj for key, _ in selector.select(0.005)]
                for one in found:
                    assert isinstance(one, socket.socket)
                    with contextlib.suppress(OSError):
                        self._step(one)

    def _step(self, one: socket.socket) -> None:
        if one is self._listener:
            client, _ = one.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            self._pairs[client], self._pairs[server] = server, client
            self._order[server] = self.accepted
            self.accepted += 1
            return
        piece, other = one.recv(65536), self._pairs[one]
        if not piece:
            del self._pairs[one], self._pairs[other]
            one.close()
            other.close()
            return
        if one not in self._order:
            self.sent += piece
        elif self._order[one] < self.mute_to or self.answers_max == 0:
            return
        elif self.answers_max is not None:
            self.answers_max -= 1
        other.sendall(piece)
