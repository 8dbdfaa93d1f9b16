"""Sending and remote restore, beside a plain socket copy of the same bytes.

    python -m benchmarks.transfer --json transfer.json

Two processes, two slots that both have touched, one TCP connection over loopback for
everything. Each repeat runs all ways one after the other, in an order drawn anew, so
that what else the computer does falls on all of them; a ratio is taken within a
repeat, and its median over the repeats is the result. The plain copy is sendall and
recv_into without checksum or frame, with tiles of 8 MiB and of a chunk; send and
restore are compared with the faster of these. The plain copy is measured twice: its
ratio to itself shows what the noise is.

"None held" and "nine tenths held" tell the digests first (transfer/reuse.py), to a
holder whose former copy has no chunk of it, or nine of ten; GB/s are of the whole copy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from twinstep import config
from twinstep.store.memory import Slot
from twinstep.transfer.exchange import (
    accept_copy,
    confirm,
    fetch_copy,
    offer_copy,
    serve_fetch,
)
from twinstep.transfer.frame import Fetch, Offer
from twinstep.transfer.reuse import Source as Held
from twinstep.transfer.sender import hash_copy
from twinstep.transfer.tcp import TcpChannel, ask_buffers
from twinstep.trust import certs
from twinstep.trust.credentials import Credentials, load
from twinstep.trust.handshake import Role
from twinstep.trust.streams import SealedStream
from twinstep.trust.wire import prove, secure

BIG_TILE_BYTES = 8 << 20
DEADLINE_S = 60.0
BUDGET = 0.9
HELD = {"send, none held": 1, "send, nine tenths held": 10}
"""In one of so many chunks the holder's former copy differs."""

Way = Callable[[], object]


class Source:
    """The process that has the bytes."""

    def __init__(
        self, sock: socket.socket, slot: Slot, *, limits: config.Transfer
    ) -> None:
        self.sock, self.slot, self.limits = sock, slot, limits
        self.channel = TcpChannel(sock, limits=limits, deadline_s=DEADLINE_S)
        self.digests = hash_copy(slot.view, slot.size, limits.chunk_bytes)
        self.proved: dict[str, TcpChannel] = {}

    def ways(self) -> dict[str, Way]:
        chunk = self.limits.chunk_bytes
        ways: dict[str, Way] = {
            "plain, chunk tiles": lambda: self.plain(chunk),
            "plain, 8 MiB tiles": lambda: self.plain(BIG_TILE_BYTES),
            "plain, again": lambda: self.plain(chunk),
            "send": self.send,
            "send, digests known": lambda: self.send(self.digests),
            **{name: lambda: self.send(self.digests, told=True) for name in HELD},
            "restore": self.restore,
        }
        for kind, channel in self.proved.items():
            ways[f"send, {kind}"] = lambda channel=channel: self.send(channel=channel)
        return ways

    def plain(self, tile_bytes: int) -> None:
        view = self.slot.view
        for at in range(0, self.slot.size, tile_bytes):
            self.sock.sendall(view[at : at + tile_bytes])
        assert self.sock.recv(1) == b"!"

    def send(
        self,
        digests: bytes | None = None,
        channel: TcpChannel | None = None,
        *,
        told: bool = False,
    ) -> None:
        offer = Offer(
            job="benchmark",
            machine="m00",
            round=1,
            term=1,
            shard=0,
            step=1,
            size=self.slot.size,
            chunk_bytes=self.limits.chunk_bytes,
            told=told,
        )
        offer_copy(channel or self.channel, offer, view=self.slot.view, digests=digests)

    def restore(self) -> None:
        fetch, _ = self.channel.receive()
        assert isinstance(fetch, Fetch)
        serve_fetch(
            self.channel,
            fetch,
            view=self.slot.view,
            size=self.slot.size,
            chunk_bytes=self.limits.chunk_bytes,
            digests=self.digests,
        )
        assert self.sock.recv(1) == b"!"


class Target:
    """The process that wants them."""

    def __init__(
        self, sock: socket.socket, slot: Slot, noise: bytes, *, limits: config.Transfer
    ) -> None:
        self.sock, self.slot, self.limits = sock, slot, limits
        self.channel = TcpChannel(sock, limits=limits, deadline_s=DEADLINE_S)
        self.proved: dict[str, TcpChannel] = {}
        self.held = {
            name: former(slot.size, noise, every, chunk_bytes=limits.chunk_bytes)
            for name, every in HELD.items()
        }

    def ways(self) -> dict[str, Way]:
        chunk = self.limits.chunk_bytes
        ways: dict[str, Way] = {
            "plain, chunk tiles": lambda: self.plain(chunk),
            "plain, 8 MiB tiles": lambda: self.plain(BIG_TILE_BYTES),
            "plain, again": lambda: self.plain(chunk),
            "send": self.accept,
            "send, digests known": self.accept,
            **{
                name: lambda held=held: self.accept(held=held)
                for name, held in self.held.items()
            },
            "restore": self.restore,
        }
        for kind, channel in self.proved.items():
            ways[f"send, {kind}"] = lambda channel=channel: self.accept(channel)
        return ways

    def plain(self, tile_bytes: int) -> None:
        view = self.slot.view
        for at in range(0, self.slot.size, tile_bytes):
            tile = view[at : at + tile_bytes]
            got = 0
            while got < len(tile):
                got += self.sock.recv_into(tile[got:], 0, socket.MSG_WAITALL)
        self.sock.sendall(b"!")

    def accept(
        self, channel: TcpChannel | None = None, *, held: Held | None = None
    ) -> None:
        channel = channel or self.channel
        offer, _ = channel.receive()
        assert isinstance(offer, Offer)
        accept_copy(
            channel,
            offer,
            view=self.slot.view,
            chunk_bytes_max=self.limits.chunk_bytes,
            sources=None if held is None else lambda: [held],
        )
        confirm(channel, offer)

    def restore(self) -> None:
        fetch = Fetch(job="benchmark", machine="m01", round=1, term=1, shard=0, step=1)
        fetch_copy(
            self.channel,
            fetch,
            view=self.slot.view,
            chunk_bytes_max=self.limits.chunk_bytes,
        )
        self.sock.sendall(b"!")


def former(size: int, noise: bytes, every: int, *, chunk_bytes: int) -> Held:
    """Returns a copy that differs in one of `every` chunks from the one that comes."""
    view = memoryview(bytearray(size))
    fill(view, noise)
    for at in range(0, size, every * chunk_bytes):
        view[at] ^= 1
    return Held(view=view, digests=hash_copy(view, size, chunk_bytes))


def fill(view: memoryview, noise: bytes) -> None:
    for at in range(0, len(view), len(noise)):
        view[at : at + len(noise)] = noise[: len(view) - at]


def connected(limits: config.Transfer) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        ask_buffers(listener, limits=limits)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        source = socket.socket()
        ask_buffers(source, limits=limits)
        source.connect(listener.getsockname())
        target, _ = listener.accept()
    return source, target


def kinds(folder: Path) -> dict[str, Credentials]:
    """What connections are proved with: each a way to send of its own."""
    made = certs.make(folder, machine="m0", hosts=["127.0.0.1"], days=1)
    certs.make_token(folder / "token")
    found = {"token": load(config.Trust(token_file=str(folder / "token")))}
    for name, data in (
        ("TLS", "tls"),
        ("sealed", "sealed"),
        ("plain after TLS", "plain"),
    ):
        found[name] = load(config.Trust(certs=str(made.folder), data=data))
    return found


def proved_source(
    sockets: dict[str, socket.socket], known: dict[str, Credentials]
) -> tuple[dict[str, socket.socket | SealedStream], dict[str, float]]:
    """Returns the connections, and how long each handshake took, in seconds."""
    found: dict[str, socket.socket | SealedStream] = {}
    passed_s: dict[str, float] = {}
    for kind, sock in sockets.items():
        started_s = time.perf_counter()
        found[kind] = secure(
            sock, known[kind], role=Role.DATA, job="benchmark", limit_s=DEADLINE_S
        )
        passed_s[kind] = time.perf_counter() - started_s
    return found, passed_s


def proved_target(
    sockets: dict[str, socket.socket], known: dict[str, Credentials]
) -> dict[str, socket.socket | SealedStream]:
    found: dict[str, socket.socket | SealedStream] = {}
    for kind, sock in sockets.items():
        handshake = known[kind].server((Role.DATA,), job="benchmark")
        assert handshake is not None
        prove(sock, handshake, limit_s=DEADLINE_S)
        found[kind] = known[kind].carry(sock, handshake)
    return found


def turned(names: list[str], repeat: int) -> list[str]:
    """The order of one repeat, the same in both processes."""
    return random.Random(repeat + 1).sample(names, len(names))


def run_target(
    sock: socket.socket,
    sockets: dict[str, socket.socket],
    known: dict[str, Credentials],
    *,
    size: int,
    repeats: int,
    chunk: int,
    noise: bytes,
) -> None:
    limits = config.Transfer(chunk_bytes=chunk)
    slot = Slot.create("twinstep-0-1", capacity_bytes=size)
    target = Target(sock, slot, noise, limits=limits)
    for kind, connection in proved_target(sockets, known).items():
        target.proved[kind] = TcpChannel(
            connection, limits=limits, deadline_s=DEADLINE_S
        )
    ways = target.ways()
    for repeat in range(-1, repeats):
        for name in turned(list(ways), repeat):
            sock.sendall(b"?")
            ways[name]()


def run_source(
    sock: socket.socket,
    sockets: dict[str, socket.socket],
    known: dict[str, Credentials],
    *,
    size: int,
    repeats: int,
    chunk: int,
    noise: bytes,
) -> dict[str, list[float]]:
    """Returns the GB/s of each way in each repeat; one before them is not counted."""
    limits = config.Transfer(chunk_bytes=chunk)
    slot = Slot.create("twinstep-0-0", capacity_bytes=size)
    fill(slot.view, noise)
    source = Source(sock, slot, limits=limits)
    for kind, connection in proved_source(sockets, known)[0].items():
        source.proved[kind] = TcpChannel(
            connection, limits=limits, deadline_s=DEADLINE_S
        )
    ways = source.ways()
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):
        for name in turned(list(ways), repeat):
            assert sock.recv(1) == b"?"
            started_s = time.perf_counter()
            ways[name]()
            if repeat >= 0:
                passed_s = time.perf_counter() - started_s
                rates[name].append(slot.size / passed_s / 1e9)
    return rates


def measure(*, size: int, repeats: int, chunk: int) -> dict[str, list[float]]:
    limits = config.Transfer(chunk_bytes=chunk)
    source, target = connected(limits)
    noise = os.urandom(1 << 20)
    amounts = {"size": size, "repeats": repeats, "chunk": chunk}
    with tempfile.TemporaryDirectory() as name:
        known = kinds(Path(name))
        pairs = {kind: connected(limits) for kind in known}
        near = {kind: pair[0] for kind, pair in pairs.items()}
        far = {kind: pair[1] for kind, pair in pairs.items()}
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for sock in (source, *near.values()):
                    sock.close()
                run_target(target, far, known, **amounts, noise=noise)
                status = 0
            finally:
                os._exit(status)
        for sock in (target, *far.values()):
            sock.close()
        try:
            return run_source(source, near, known, **amounts, noise=noise)
        finally:
            for sock in (source, *near.values()):
                sock.close()
            os.waitpid(pid, 0)


def summary(rates: dict[str, list[float]]) -> dict[str, object]:
    tiles = ("plain, chunk tiles", "plain, 8 MiB tiles")
    fastest = max(tiles, key=lambda name: statistics.median(rates[name]))
    ratios = {
        name: statistics.median(
            mine / plain
            for mine, plain in zip(rates[name], rates[fastest], strict=True)
        )
        for name in rates
    }
    return {
        "plain": fastest,
        "median_gb_per_s": {n: statistics.median(r) for n, r in rates.items()},
        "ratio_to_plain": ratios,
        "budget": BUDGET,
        "send_in_budget": ratios["send"] >= BUDGET,
        "restore_in_budget": ratios["restore"] >= BUDGET,
        "gb_per_s": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--chunk-kib", type=int, default=0)
    options = parser.parse_args()
    chunk = options.chunk_kib << 10 or config.Transfer().chunk_bytes
    size = options.mebibytes << 20
    rates = measure(size=size, repeats=options.repeats, chunk=chunk)
    result: dict[str, object] = {
        "computer": f"{platform.machine()}, {os.cpu_count()} cores",
        "bytes": size,
        "chunk_bytes": chunk,
        **summary(rates),
    }
    print(f"{size >> 20} MiB, chunks of {chunk >> 10} KiB, {options.repeats} repeats")
    for name, rate in rates.items():
        ratio = result["ratio_to_plain"][name]  # type: ignore[index]
        print(
            f"  {name:22} {statistics.median(rate):5.2f} GB/s"
            f" [{min(rate):.2f} {max(rate):.2f}]  {ratio:.2f} of plain"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
