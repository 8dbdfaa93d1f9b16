"""What is fuzzed: each target takes any bytes, and nothing but its promise may happen.

The promise of a reader: bytes become a value that can be encoded again and is then the
same, or the one documented error. Of a decision: whatever a peer may say, it returns.
What else is raised is a bug, and the bytes that show it are kept in corpus/TARGET/.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz import decisions, samples, settings
from tests.trust import made
from twinstep.agent import kv_wire, messages as say
from twinstep.agent.kv_ledger import Ledger
from twinstep.capture.manifest import decode_manifest, read_manifest, values_of
from twinstep.clock import monotonic_s
from twinstep.errors import ProtocolError, Refused
from twinstep.transfer import frame
from twinstep.trust.handshake import Role, Stranger, TokenClient, TokenServer
from twinstep.trust.sealed import GcmSeal
from twinstep.trust.tls import TlsHandshake

CORPUS = Path(__file__).parent / "corpus"
HEADER_BYTES_MAX = 1 << 16
TOKEN, NONCE, SECRET = made.TOKEN.encode(), bytes(32), bytes(range(64))
DECODERS: list[msgspec.msgpack.Decoder[Any]] = [
    frame.DATA_DECODER,
    msgspec.msgpack.Decoder(say.Opening | say.Question),
    msgspec.msgpack.Decoder(say.ToRoot),
    msgspec.msgpack.Decoder(say.FromRoot),
    msgspec.msgpack.Decoder(say.FromRank),
    msgspec.msgpack.Decoder(say.ToRank),
    msgspec.msgpack.Decoder(say.Held),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    feed: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    """Valid inputs, that others are made from."""
    packed: bool = False
    """The input is msgpack behind its first byte, and can be changed as a tree."""
    bytes_per_byte: int = 400
    """How much may be allocated for each byte of input: a Python object takes tens of
    bytes where msgpack takes one."""


def kept(name: str) -> list[bytes]:
    """The corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


# Readers.


def read_frame(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        header, payload = frame.decode_frame(
            data,
            frame.DATA_DECODER,
            header_bytes_max=HEADER_BYTES_MAX,
            payload_bytes_max=1 << 20,
        )
        again = frame.encode(header, payload_bytes=len(payload)) + bytes(payload)
        assert frame.decode_frame(
            again,
            frame.DATA_DECODER,
            header_bytes_max=HEADER_BYTES_MAX,
            payload_bytes_max=1 << 20,
        ) == (header, payload)


def framed(raw: bytes) -> bytes:
    """Any bytes as a header with right checksums."""
    fields = struct.pack("<4sIQI", frame.MAGIC, len(raw), 0, zlib.crc32(raw))
    return fields + struct.pack("<I", zlib.crc32(fields)) + raw


def read_header(data: bytes) -> None:
    """The first byte says whose decoder reads the rest."""
    decoder = DECODERS[data[0] % len(DECODERS)] if data else DECODERS[0]
    limits = {"header_bytes_max": HEADER_BYTES_MAX, "payload_bytes_max": 0}
    with contextlib.suppress(ProtocolError):
        header, _ = frame.decode_frame(framed(data[1:]), decoder, **limits)
        again, _ = frame.decode_frame(frame.encode(header), decoder, **limits)
        assert again == header


def read_token(data: bytes) -> None:
    """The first byte says how the rest is cut, and which end reads it."""
    size = 1 + (data[0] >> 1 if data else 0)
    end: TokenServer | TokenClient = TokenServer(
        TOKEN, roles=(Role.CONTROL, Role.DATA), job="job", nonce=NONCE
    )
    if data and data[0] & 1:
        end = TokenClient(TOKEN, role=Role.DATA, job="job", nonce=NONCE)
    end.begin()
    rest = data[1:]
    with contextlib.suppress(Stranger):
        while rest and not end.done:
            count = min(size, end.wants)
            end.feed(rest[:count])
            rest = rest[count:]
    assert not end.done, "nobody who does not know the token gets in"


def read_tls(data: bytes) -> None:
    end = TlsHandshake(
        certificates(), server=True, roles=(Role.CONTROL, Role.DATA), data="sealed"
    )
    end.begin()
    with contextlib.suppress(Stranger):
        for at in range(0, len(data), 1 << 14):
            end.feed(data[at : at + (1 << 14)])
    assert not end.done


@cache
def certificates() -> Any:
    return made.tls().certificates


def read_sealed(data: bytes) -> None:
    seal = GcmSeal(SECRET, server=True)
    view = memoryview(bytearray(1 << 12))
    with contextlib.suppress(ConnectionError):
        while data:
            room = seal.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            seal.fed(count)
            data = data[count:]
            while seal.read_into(view):
                pass


def read_requests(data: bytes) -> None:
    """What a client of the key-value store says, up to the ledger."""
    here, there = socket.socketpair()
    ledger = Ledger()
    with here, there:
        there.setblocking(False)
        there.send(data[: 1 << 16])
        there.close()
        frames = kv_wire.Frames(connection=here, bytes_max=1 << 16, peer="a peer")
        with contextlib.suppress(ProtocolError, ConnectionError):
            for number in range(64):
                request = frames.receive(kv_wire.requests, until_s=monotonic_s() + 10)
                assert request is not None
                with contextlib.suppress(Refused):
                    answer = (
                        ledger.events(request.prefix, request.after)
                        if isinstance(request, kv_wire.Follow)
                        else ledger.apply(request, float(number))
                    )
                    if isinstance(answer, msgspec.Struct):
                        kv_wire.encode(answer, bytes_max=1 << 20)


def read_responses(data: bytes) -> None:
    """What a store says to its client."""
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        there.send(data[: 1 << 16])
        there.close()
        frames = kv_wire.Frames(connection=here, bytes_max=1 << 16, peer="a store")
        with contextlib.suppress(ProtocolError, ConnectionError):
            while True:
                frames.receive(kv_wire.responses, until_s=monotonic_s() + 10)


def read_manifests(data: bytes) -> None:
    for read in (decode_manifest, lambda raw: read_manifest(memoryview(raw))):
        with contextlib.suppress(ProtocolError):
            manifest = read(data)
            assert manifest.step >= 0 and manifest.head_bytes <= manifest.own_bytes
            for entry in manifest.entries:
                end = {"own": manifest.own_bytes, "shared": manifest.shared_bytes}
                assert entry.offset >= 0 and entry.offset + entry.size <= max(
                    end[entry.region], entry.offset
                )
            values_of(manifest)


TARGETS: dict[str, Target] = {
    "frame": Target(feed=read_frame, seeds=samples.frames),
    "header": Target(
        feed=read_header, seeds=lambda: samples.headers(DECODERS), packed=True
    ),
    "token": Target(feed=read_token, seeds=samples.tokens),
    "tls": Target(feed=read_tls, seeds=lambda: samples.hellos(certificates())),
    "sealed": Target(feed=read_sealed, seeds=lambda: samples.sealed(SECRET)),
    "requests": Target(feed=read_requests, seeds=samples.requests),
    "responses": Target(feed=read_responses, seeds=samples.responses),
    "manifest": Target(feed=read_manifests, seeds=samples.manifests),
    "config": Target(feed=settings.load_config, seeds=settings.configs),
    "environment": Target(feed=settings.read_environment, seeds=settings.environments),
    "store": Target(feed=decisions.read_store, seeds=decisions.store_values),
    "root": Target(feed=decisions.tell_root, seeds=decisions.told_roots, packed=True),
    "worker": Target(
        feed=decisions.tell_worker, seeds=decisions.told_workers, packed=True
    ),
}
