"""A training of bytes, without a framework: for tests of many machines.

    light.py --stop-file FILE --steps-file FILE [--pause-s S]

Each rank's state is a chain of hashes. In every step all ranks exchange what they have
through rank 0, so that a bit that differs anywhere is everywhere one step later, and a
rank whose peers are gone fails, as a collective does. All end after the same step when
rank 0 finds the stop file, and print a digest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import twinstep.session
from twinstep.capture.snapshot import Digests, Held, Layout, Told

STATE_BYTES = 64 * 1024
DIGEST_BYTES = 32
HEAD_BYTES = 8


def first(rank: int) -> bytes:
    """A rank's state before the first step."""
    return rank.to_bytes(8, "little") * (STATE_BYTES // 8)


def stepped(state: bytes, all_ranks: bytes) -> bytes:
    """A rank's state after a step, in which all have seen `all_ranks`."""
    fresh = hashlib.sha256(all_ranks + state).digest()
    return state[len(fresh) :] + fresh


def undisturbed(ranks: int, steps: int) -> dict[int, str]:
    """What each rank prints at the end."""
    states = [first(rank) for rank in range(ranks)]
    for _ in range(steps):
        seen = b"".join(hashlib.sha256(state).digest() for state in states)
        states = [stepped(state, seen) for state in states]
    return {r: hashlib.sha256(s).hexdigest()[:16] for r, s in enumerate(states)}


class Bytes:
    """The state, and how it is captured: what an adapter does, in small."""

    def __init__(self, state: bytes) -> None:
        self.state = state
        self.warnings: list[str] = []

    def layout(self) -> Layout:
        static: Any = None
        size = 8 + HEAD_BYTES + STATE_BYTES
        return Layout(own_bytes=size, shared_bytes=0, static=static)

    def unshare(self) -> None:
        pass

    def hold(self, step: int) -> Held:
        return Held(step=step, manifest=self.state)

    def copy(self, held: Held, *, own: memoryview, **_: Any) -> Callable[[], Digests]:
        own[:8] = HEAD_BYTES.to_bytes(8, "little")
        own[8:16] = held.step.to_bytes(8, "little")
        own[16 : 16 + STATE_BYTES] = held.manifest
        return Digests

    def fence(self, before_update: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        self.state = bytes(own[16 : 16 + STATE_BYTES])
        return int.from_bytes(own[8:16], "little")

    def shared_digest(self) -> bytes:
        return b""

    def watch(self, pulse: Told, complain: Callable[[str], None]) -> Callable[[], None]:
        return lambda: None


class Exchange:
    """All ranks' digests, at every rank, through rank 0."""

    def __init__(self, rank: int, ranks: int) -> None:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.rank = rank
        self.links: dict[int, socket.socket] = {}
        if rank == 0:
            with socket.create_server(address) as listener:
                while len(self.links) < ranks - 1:
                    link, _ = listener.accept()
                    self.links[link.recv(1)[0]] = link
        else:
            self.links[0] = self._connected(address)
            self.links[0].sendall(bytes([rank]))

    def _connected(self, address: tuple[str, int]) -> socket.socket:
        until_s = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection(address, timeout=30)
            except ConnectionRefusedError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.01)

    def gather(self, digest: bytes, *, over: bool) -> tuple[bytes, bool]:
        """Returns what all ranks have, and whether rank 0 says that this is all."""
        if self.rank > 0:
            self.links[0].sendall(digest)
            size = DIGEST_BYTES * int(os.environ["WORLD_SIZE"])
            return self._read(0, size), self._read(0, 1) == b"1"
        seen = digest + b"".join(
            self._read(rank, DIGEST_BYTES) for rank in sorted(self.links)
        )
        for link in self.links.values():
            link.sendall(seen + (b"1" if over else b"0"))
        return seen, over

    def _read(self, rank: int, count: int) -> bytes:
        said = b""
        while len(said) < count:
            part = self.links[rank].recv(count - len(said))
            if not part:
                raise ConnectionError(f"rank {rank} is gone")
            said += part
        return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stop-file", type=Path, required=True)
    parser.add_argument("--steps-file", type=Path, required=True)
    parser.add_argument("--pause-s", type=float, default=0.02)
    options = parser.parse_args()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    made = Bytes(first(rank))
    twinstep.session.adapter_for = lambda objects: made
    exchange = Exchange(rank, ranks)
    with twinstep.Session(state=made) as session:
        step, over = session.restore(), False
        print(f"starts from {step}")
        while not over:
            digest = hashlib.sha256(made.state).digest()
            seen, over = exchange.gather(digest, over=options.stop_file.exists())
            made.state = stepped(made.state, seen)
            step += 1
            session.after_step(step)
            with options.steps_file.with_suffix(f".{rank}").open("a") as lines:
                lines.write(f"{time.time()} {os.getpid()} {step}\n")
            time.sleep(options.pause_s)
    print(f"digest {hashlib.sha256(made.state).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
