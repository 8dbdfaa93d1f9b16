"""Copies move between two machines on loopback: real slots, sockets and threads."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Self

import msgspec
import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene
from twinstep.agent import actions as do, messages as say
from twinstep.agent.moving import Mover
from twinstep.agent.worker import Actions
from twinstep.config import Job, Timing, Transfer
from twinstep.store.memory import Reservation, reserve
from twinstep.store.slots import State
from twinstep.transfer.frame import (
    PREFIX_BYTES,
    Accepted,
    Fetch,
    Offer,
    decode_header,
    parse_prefix,
)
from twinstep.transfer.sender import hash_copy
from twinstep.transfer.tcp import TcpChannel, connect

CHUNK = 4096
SIZE = 20 * CHUNK + 100
WAIT_S = 20.0
TICK_S = 0.05
TWIN_S = 2.0
JOB = Job(
    machines=2,
    transfer=Transfer(
        chunk_bytes=CHUNK, streams=2, threads_max=4, twin_ms_max=round(TWIN_S * 1000)
    ),
    timing=Timing(transfer_s_max=10.0),
)
HEADERS: msgspec.msgpack.Decoder[Offer | Fetch] = msgspec.msgpack.Decoder(Offer | Fetch)


class Machine(Scene):
    """A worker and its mover; decisions are made under one lock, as in one loop."""

    def __init__(self, name: str) -> None:
        super().__init__(machine=name)
        self.worker.chunk_bytes = CHUNK
        self.memory: dict[tuple[int, int], Any] = {}
        self.reservations: list[Reservation] = []
        self.told: list[say.ToRoot] = []
        self.changed = threading.Condition()
        self.mover = Mover(
            job=JOB,
            name="job",
            worker=self.worker,
            memory=self.memory,
            post=self.post,
            clock=lambda: 0.0,
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accepts, daemon=True)
        self.thread.start()

    def post(self, decide: Callable[[], Actions]) -> Future[None]:
        done: Future[None] = Future()
        with self.changed:
            self.carry(decide())
            self.changed.notify_all()
        done.set_result(None)
        return done

    def decide(self, decide: Callable[[], Actions]) -> None:
        self.post(decide).result()

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits, and ticks meanwhile: what was refused is tried again."""
        with self.changed:
            for _ in range(int(WAIT_S / TICK_S)):
                if self.changed.wait_for(condition, TICK_S):
                    return
                self.carry(self.transit.tick(1e9))
        raise AssertionError("it did not come true")

    def carry(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case do.ReserveSlots(sizes=sizes):
                    reservation = reserve(sizes, available=1 << 30, margin_bytes=0)
                    self.reservations.append(reservation)
                    for place in reservation:
                        self.memory[place] = reservation.slot(*place)
                    self.carry(self.worker.reserved(sizes))
                case do.HashCopy():
                    self.mover.hash(action)
                case do.ShipCopy():
                    self.mover.ship(action)
                case do.FetchCopy():
                    self.mover.fetch(action)
                case do.TellRoot(message=message):
                    self.told.append(message)
                case _:
                    pass

    def accepts(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            prefix = parse_prefix(
                connection.recv(PREFIX_BYTES, socket.MSG_WAITALL),
                header_bytes_max=10_000,
                payload_bytes_max=0,
            )
            raw = connection.recv(prefix.header_bytes, socket.MSG_WAITALL)
            with self.changed:
                self.mover.attend(connection, decode_header(prefix, raw, HEADERS))

    def member(self) -> say.Member:
        name = self.worker.machine
        return say.Member(machine=name, host="127.0.0.1", port=self.port)

    def fills(self, shard: int, slot: int, step: int) -> bytes:
        """A copy as a rank would write it; returns its bytes."""
        body = bytes((shard * 31 + step + i) % 251 for i in range(SIZE))
        self.memory[shard, slot].view[:SIZE] = body
        self.table.start(shard, slot, step=step, captured_in=1, writer="rank")
        self.table.written(shard, slot)
        return body

    def holds_whole(self, shard: int, step: int) -> bytes:
        slot = self.table.target(shard, keep=0)
        assert slot is not None
        body = self.fills(shard, slot, step)
        view = self.memory[shard, slot].view
        self.table.whole(shard, slot, digests=hash_copy(view, SIZE, CHUNK))
        return body

    def bytes_of(self, shard: int, step: int) -> bytes | None:
        slot = self.table.find(shard, step=step, captured_in=1)
        return None if slot is None else bytes(self.memory[shard, slot].view[:SIZE])

    def close(self) -> None:
        self.mover.close()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(WAIT_S)
        for reservation in self.reservations:
            reservation.close()


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    both = Machine("m0"), Machine("m1")
    yield both
    for one in both:
        one.close()


def begins(pair: tuple[Machine, Machine], *, round: int = 1, **changed: Any) -> None:
    begin = msgspec.structs.replace(
        scenes.begin(round=round, sizes=dict.fromkeys(range(2), SIZE), **changed),
        members=[one.member() for one in pair],
    )
    for one in pair:
        one.stops(round=round)
    for one in pair:
        one.decide(lambda one=one: one.worker.from_root(begin))


def flip(machine: Machine, shard: int, step: int, at: int) -> None:
    slot = machine.table.find(shard, step=step, captured_in=1)
    machine.memory[shard, slot].view[at] ^= 1


def test_a_captured_copy_is_safe_when_its_holder_has_the_same_bytes(pair) -> None:
    owner, holder = pair
    begins(pair)
    body = owner.fills(0, 0, 5)
    owner.decide(lambda: owner.worker.copies.send_out(0, 0, keep=0))
    owner.until(lambda: owner.worker.copies.safe_steps() == [5])
    assert holder.bytes_of(0, 5) == body
    digests = [machine.table.slots[0][0].digests for machine in pair]
    assert digests[0] == digests[1] == hash_copy(memoryview(body), SIZE, CHUNK)


def test_a_copy_that_is_lacking_is_fetched_verified(pair) -> None:
    owner, holder = pair
    begins(pair)
    body = holder.holds_whole(0, 5)
    sources = {0: ["m1"], 1: ["m1"]}
    begins(pair, round=2, step=5, captured_in=1, sources=sources)
    owner.until(lambda: owner.worker.copies.loaded_from.get(0) == "memory of m1")
    assert owner.bytes_of(0, 5) == body


def test_a_source_with_other_bytes_is_named_corrupt_and_not_believed(pair) -> None:
    owner, holder = pair
    begins(pair)
    holder.holds_whole(0, 5)
    flip(holder, 0, 5, at=7 * CHUNK)
    sources = {0: ["m1"], 1: ["m1"]}
    begins(pair, round=2, step=5, captured_in=1, sources=sources)
    owner.until(lambda: bool(scenes.of(owner.told, say.CopyBad)))
    (named,) = scenes.of(owner.told, say.CopyBad)
    assert (named.holder, named.corrupt, named.last) == ("m1", True, True)
    assert "chunk 7" in named.reason
    assert owner.bytes_of(0, 5) is None


class BadWay:
    """A way to a machine that damages the first `count` answers that have a chunk."""

    def __init__(self, machine: Machine, count: int) -> None:
        self.left, self._target = count, machine.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        machine.port = self._listener.getsockname()[1]
        self._opened = [self._listener]
        self._threads = [threading.Thread(target=self._accepts)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(2):  # what the acceptor has just opened, too
            for one in self._opened:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._threads[0].join(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for one in self._opened:
            one.close()

    def _accepts(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._opened += [near, far]
                for ends in ((near, far), (far, near)):
                    thread = threading.Thread(
                        target=self._carries, args=(*ends, ends[0] is far)
                    )
                    self._threads.append(thread)
                    thread.start()

    def _carries(self, source: socket.socket, target: socket.socket, damages: bool):
        with contextlib.suppress(OSError):
            while piece := bytearray(source.recv(65536)):
                if damages and self.left and len(piece) >= CHUNK:
                    self.left -= 1
                    piece[CHUNK // 2] ^= 1
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


def test_what_is_damaged_on_the_way_is_asked_for_again_and_nobody_is_blamed(
    pair,
) -> None:
    owner, holder = pair
    begins(pair)
    body = holder.holds_whole(0, 5)
    with BadWay(holder, 5) as way:
        begins(pair, round=2, step=5, captured_in=1, sources={0: ["m1"], 1: ["m1"]})
        owner.until(lambda: owner.worker.copies.loaded_from.get(0) == "memory of m1")
    assert owner.bytes_of(0, 5) == body
    assert way.left == 0
    assert scenes.of(owner.told, say.CopyBad) == []


def test_a_way_that_stays_bad_makes_no_copy_bad(pair) -> None:
    owner, holder = pair
    begins(pair)
    holder.holds_whole(0, 5)
    with BadWay(holder, 1000):
        begins(pair, round=2, step=5, captured_in=1, sources={0: ["m1"], 1: ["m1"]})
        owner.until(lambda: bool(scenes.of(owner.told, say.CopyBad)))
    (named,) = scenes.of(owner.told, say.CopyBad)
    assert (named.holder, named.corrupt, named.last) == ("m1", False, True)
    assert "in a row" in named.reason
    assert owner.bytes_of(0, 5) is None


def test_a_source_that_is_gone_is_not_called_corrupt(pair) -> None:
    owner, _ = pair
    begins(pair)
    sources = {0: ["m1"], 1: ["m1"]}
    begins(pair, round=2, step=5, captured_in=1, sources=sources)
    owner.until(lambda: bool(scenes.of(owner.told, say.CopyBad)))
    (named,) = scenes.of(owner.told, say.CopyBad)
    assert (named.holder, named.corrupt) == ("m1", False)


def test_our_own_bad_copy_is_found_out_by_the_holder_and_named(pair) -> None:
    owner, holder = pair
    begins(pair)
    owner.holds_whole(0, 5)
    flip(owner, 0, 5, at=SIZE - 1)
    sources = {0: ["m0"], 1: ["m1"]}
    begins(pair, round=2, step=5, captured_in=1, sources=sources)
    owner.until(lambda: bool(scenes.of(owner.told, say.CopyBad)))
    (named,) = scenes.of(owner.told, say.CopyBad)
    assert (named.holder, named.reason) == ("m0", "chunk 20 has a wrong checksum")
    assert holder.bytes_of(0, 5) is None
    assert not owner.worker.copies.pending


def test_a_copy_is_hashed_where_nobody_else_holds_it(pair) -> None:
    owner, _ = pair
    begins(pair, copies=1)
    owner.fills(0, 1, 3)
    owner.decide(lambda: owner.worker.copies.send_out(0, 1, keep=0))
    owner.until(lambda: owner.table.slots[0][1].state is State.WHOLE)


def offer_to(holder: Machine, part: int = 0) -> TcpChannel:
    """A sender that has been told yes, and has sent nothing yet."""
    channel = connect(
        ("127.0.0.1", holder.port), limits=JOB.transfer, connect_s=5.0, deadline_s=10.0
    )
    offer = Offer(
        job="job",
        machine="m0",
        round=1,
        term=1,
        shard=0,
        step=5,
        captured_in=1,
        keep=0,
        replace=False,
        size=SIZE,
        chunk_bytes=CHUNK,
        part=part,
        parts=1,
    )
    channel.send(offer)
    assert channel.receive()[0] == Accepted()
    return channel


def test_stop_ends_what_comes_in_and_the_slot_has_no_writer_then(pair) -> None:
    _, holder = pair
    begins(pair)
    channel = offer_to(holder)
    assert not holder.mover.idle
    assert holder.table.filling() == [(0, 0, "m0")]
    holder.mover.stop()
    holder.until(lambda: holder.table.filling() == [])
    wait_idle(holder)
    channel.close()


def test_stop_ends_what_goes_out(pair) -> None:
    owner, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begins(pair)
        members = owner.worker.begin.members
        port = silent.getsockname()[1]
        members[1] = msgspec.structs.replace(members[1], port=port)
        owner.fills(0, 0, 5)
        (ship, *_) = owner.worker.copies.send_out(0, 0, keep=0)
        for _ in range(JOB.transfer.threads_max + 1):  # one waits for a thread
            owner.mover.ship(ship)
        peer, _ = silent.accept()
        assert not owner.mover.idle
        owner.worker.from_root(scenes.stop(round=2))
        owner.mover.stop()
        wait_idle(owner)
        assert owner.worker.copies.retry == [], "it is a matter of an older round"
        peer.close()


def test_a_sender_that_dies_leaves_an_empty_slot(pair) -> None:
    _, holder = pair
    begins(pair)
    offer_to(holder).close()
    holder.until(lambda: holder.table.filling() == [])
    assert holder.bytes_of(0, 5) is None


def wait_idle(machine: Machine) -> None:
    """`idle` turns true soon; process.py asks every few milliseconds, as this does."""
    pause = threading.Event()
    for _ in range(1000):
        if machine.mover.idle:
            return
        pause.wait(0.005)
    raise AssertionError("threads still move copies")
