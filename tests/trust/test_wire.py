"""Connections that prove themselves over real sockets, and carry bytes afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.trust import made
from twinstep.errors import DeadlinePassed, TwinstepError
from twinstep.trust import streams, wire
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.handshake import Role
from twinstep.trust.sealed import GcmSeal
from twinstep.trust.streams import Connection, SealedStream

ROLES = (Role.CONTROL, Role.DATA)
KINDS: dict[str, Callable[[], Credentials]] = {
    "none": lambda: NONE,
    "token": made.token,
    "tls": made.tls,
    "sealed": lambda: made.tls(data="sealed"),
    "plain": lambda: made.tls(data="plain"),
}


HIDDEN = ("tls", "sealed")


def beside(work: Callable[[], object]) -> Future[object]:
    """Runs in a thread; the future is done when it is."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), timeout=5)
        two, _ = listener.accept()
    two.settimeout(5)
    return one, two


def accept(
    sock: socket.socket, credentials: Credentials, limit_s: float = 5.0
) -> Connection:
    handshake = credentials.server(ROLES, job="job")
    if handshake is None:
        return sock
    try:
        wire.prove(sock, handshake, limit_s=limit_s)
        assert handshake.role is Role.DATA
        return credentials.carry(sock, handshake)
    except BaseException:
        sock.close()
        raise


def proved(
    near: Credentials, far: Credentials, limit_s: float = 5.0
) -> tuple[Connection, Connection]:
    """Both ends of a connection. Raises what the accepting end says of the other."""
    one, two = pair()
    accepted = beside(lambda: accept(two, far, limit_s))
    try:
        mine = wire.secure(one, near, role=Role.DATA, job="job", limit_s=limit_s)
    except (TwinstepError, OSError) as error:
        said = error
    else:
        found = accepted.result(10)
        assert isinstance(found, socket.socket | SealedStream)
        return mine, found
    finally:
        if not accepted.done():
            one.close()
    accepted.result(10)
    raise said


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_arrive_as_they_were_sent(kind: str) -> None:
    near, far = proved(KINDS[kind](), KINDS[kind]())
    assert isinstance(near, SealedStream) == (kind in HIDDEN)
    sent = os.urandom(3_000_017)

    def send() -> None:
        near.settimeout(10)
        near.sendall(sent)
        near.close()

    beside(send)
    far.settimeout(10)
    got = bytearray()
    while piece := far.recv(50_000):
        got += piece
    assert bytes(got) == sent
    far.close()


@pytest.mark.parametrize("kind", ["token", "tls", "sealed", "plain"])
def test_what_is_sent_cannot_be_found_on_the_wire(kind: str) -> None:
    """Honestly: only TLS hides it."""
    one, outer = pair()
    inner, two = pair()
    seen = bytearray()

    def relay(source: socket.socket, target: socket.socket) -> None:
        while piece := source.recv(65536):
            seen.extend(piece)
            target.sendall(piece)

    beside(lambda: relay(outer, inner))
    beside(lambda: relay(inner, outer))
    credentials = KINDS[kind]()
    accepted = beside(lambda: accept(two, credentials))
    near = wire.secure(one, credentials, role=Role.DATA, job="job", limit_s=5)
    far = accepted.result(10)
    assert isinstance(far, socket.socket | SealedStream)
    near.sendall(b"the weights")
    got = b""
    while len(got) < 11:
        got += far.recv(100)
    assert got == b"the weights"
    assert (b"the weights" in seen) == (kind not in HIDDEN)
    assert made.TOKEN.encode() not in seen
    for end in (one, two, inner, outer):
        end.close()


@pytest.mark.parametrize("kind", HIDDEN)
def test_bytes_that_were_changed_on_the_way_end_the_connection(kind: str) -> None:
    near, far = proved(KINDS[kind](), KINDS[kind]())
    assert isinstance(near, SealedStream) and isinstance(far, SealedStream)
    record = bytes(b"".join(near._seal.seal([b"the weights"])))
    near.socket.sendall(record[:-1] + bytes([record[-1] ^ 1]))
    with pytest.raises(ConnectionAbortedError, match="bad record|changed on"):
        far.recv(100)
    near.close()
    far.close()


def wrong() -> dict[str, tuple[Callable[[Path], Credentials], str, str]]:
    """What comes, to which credentials, and what is said of it."""
    return {
        "wrong token": (lambda _: made.token("x" * 40), "token", "another token"),
        "wrong authority": (
            lambda _: made.tls("theirs"),
            "tls",
            "does not know the authority of our certificate",
        ),
        "token to TLS": (lambda _: made.token(), "tls", "speaks of a token"),
        "TLS to a token": (lambda _: made.tls(), "token", "speaks TLS"),
        "other rules for copies": (
            lambda _: made.tls(data="plain"),
            "tls",
            "something other than",
        ),
        "expired": (
            lambda there: _expired(there / "e"),
            "tls",
            "its certificate is not accepted: certificate has expired",
        ),
    }


def _expired(there: Path) -> Credentials:
    from twinstep.trust.certificates import Certificates

    return Credentials(certificates=Certificates(made.expired(there)))


@pytest.mark.parametrize("case", wrong())
def test_a_stranger_is_refused_and_the_reason_known(case: str, tmp_path: Path) -> None:
    near, kind, says = wrong()[case]
    one, two = pair()
    far = KINDS[kind]()
    accepted = beside(lambda: accept(two, far))
    # The near end hears no, too, and at once.
    with pytest.raises(TwinstepError):
        wire.secure(one, near(tmp_path), role=Role.DATA, job="job", limit_s=3)
    with pytest.raises(TwinstepError, match=says):
        accepted.result(10)
    two.close()


def test_a_server_that_is_a_stranger_is_refused(tmp_path: Path) -> None:
    for far, says in (
        (made.tls("theirs"), "not accepted"),
        (_expired(tmp_path / "e"), "expired"),
    ):
        one, two = pair()
        beside(lambda two=two, far=far: accept(two, far))
        with pytest.raises(TwinstepError, match=says):
            wire.secure(one, made.tls(), role=Role.DATA, job="job", limit_s=3)
        two.close()


@pytest.mark.parametrize("kind", ["token", "tls"])
def test_a_handshake_byte_by_byte_has_one_deadline(kind: str) -> None:
    one, two = pair()
    credentials = KINDS[kind]()
    accepted = beside(lambda: accept(two, credentials, limit_s=0.4))
    handshake = credentials.client(Role.DATA, job="job")
    assert handshake is not None
    started_s = time.monotonic()
    try:
        for byte in handshake.begin() + bytes(1000):
            one.sendall(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        pass
    with pytest.raises(DeadlinePassed, match="did not prove itself within 0.4 s"):
        accepted.result(5)
    assert time.monotonic() - started_s < 30
    one.close()
    two.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_speaks_with_a_thread(kind: str) -> None:
    credentials = KINDS[kind]()
    one, two = pair()

    async def serve() -> bytes:
        two.setblocking(False)
        connection: Connection = two
        handshake = credentials.server(ROLES, job="job")
        if handshake is not None:
            with ThreadPoolExecutor(1) as pool:
                await wire.prove_in_loop(two, handshake, limit_s=5, pool=pool)
            connection = credentials.carry(two, handshake)
        got = b""
        while len(got) < 2_000_000:
            got += await streams.receive(connection, 1 << 20)
        await streams.send(connection, got)
        assert await streams.receive(connection, 10) == b""
        return got

    served = beside(lambda: asyncio.run(asyncio.wait_for(serve(), 20)))
    near = wire.secure(one, credentials, role=Role.DATA, job="job", limit_s=5)
    sent = os.urandom(2_000_000)
    near.sendall(sent)
    got = bytearray(len(sent))
    view, at = memoryview(got), 0
    while at < len(sent):
        at += near.recv_into(view[at:])
    near.close()
    assert served.result(20) == sent == bytes(got)
    two.close()


def sealed_pair() -> tuple[GcmSeal, GcmSeal]:
    secret = os.urandom(64)
    return GcmSeal(secret, server=False), GcmSeal(secret, server=True)


def give(seal: GcmSeal, record: bytes) -> None:
    while record:
        room = seal.room()
        count = min(len(room), len(record))
        room[:count] = record[:count]
        seal.fed(count)
        record = record[count:]


def test_sealed_records_cannot_be_left_out_repeated_or_sent_back() -> None:
    records = {}
    for case in ("in order", "left out", "repeated", "sent back", "longer"):
        near, far = sealed_pair()
        first, second = (bytes(near.seal([text])[0]) for text in (b"first", b"second"))
        records[case] = {
            "in order": (far, first + second),
            "left out": (far, second),
            "repeated": (far, first + first),
            "sent back": (near, first),
            "longer": (far, b"\xff" + first[1:]),
        }[case]
    view = memoryview(bytearray(11))
    for case, (end, record) in records.items():
        give(end, record)
        if case == "in order":
            assert end.read_into(view) == 11 and bytes(view) == b"firstsecond"
            continue
        if case == "repeated":
            end.read_into(view[:5])
        with pytest.raises(ConnectionAbortedError, match="changed|at most 1048576"):
            end.read_into(view)


def test_a_sealed_record_may_be_read_in_small_pieces() -> None:
    near, far = sealed_pair()
    sent = os.urandom(900_000)
    record = b"".join(bytes(part) for part in near.seal([sent[:60], sent[60:]]))
    got, view = bytearray(), memoryview(bytearray(70_001))
    for at in range(0, len(record), 300_000):
        give(far, record[at : at + 300_000])
        while count := far.read_into(view):
            got += view[:count]
    assert bytes(got) == sent
