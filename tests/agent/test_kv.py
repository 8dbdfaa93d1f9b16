"""One suite for every key-value store, then what a socket adds to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.etcd_nodes import cluster, needs_etcd
from tests.agent.kv_calls import LIFE_S, events_until, put_in
from twinstep.agent.kv import (
    Compacted,
    Compare,
    Delete,
    Item,
    KeyValueStore,
    Lease,
    LeaseGone,
    Put,
    absent,
    unchanged,
)
from twinstep.agent.kv_client import connect
from twinstep.agent.kv_ledger import Limits
from twinstep.agent.kv_server import LOOK_S, Embedded, serve
from twinstep.agent.kv_wire import Bounds
from twinstep.clock import monotonic_s
from twinstep.errors import ConfigError, DeadlinePassed, Refused

# Every store


STORES = [
    "embedded",
    "socket",
    pytest.param("etcd", marks=needs_etcd),
    pytest.param("three", marks=needs_etcd, id="etcd of three"),
]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Opens the one store again and again, as many processes would."""

    open: Callable[[], KeyValueStore]
    forget: Callable[[int], None]
    """History before a revision is gone, if the store does not see to that."""

    def __call__(self) -> KeyValueStore:
        return self.open()


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opening]:
    if request.param in ("etcd", "three"):
        count = 1 if request.param == "etcd" else 3
        with cluster(tmp_path, count, heartbeat_ms=30, election_ms=300) as nodes:
            yield Opening(open=nodes.open, forget=nodes.compact)
        return
    embedded = Embedded(limits=Limits(history_events_max=200))
    if request.param == "embedded":
        yield Opening(open=lambda: embedded, forget=lambda revision: None)
        embedded.close()
        return
    opened: list[KeyValueStore] = []

    def open_again() -> KeyValueStore:
        opened.append(connect(server.address))
        return opened[-1]

    with serve(embedded) as server:
        yield Opening(open=open_again, forget=lambda revision: None)
        for store in opened:
            store.close()


@pytest.fixture
def store(open_store: Opening) -> KeyValueStore:
    return open_store()


def test_get_sees_what_was_put_under_a_prefix(store: KeyValueStore) -> None:
    put_in(store, "machines/m01", b"one")
    put_in(store, "machines/m00", b"zero")
    put_in(store, "root", b"")
    revision, items = store.get("machines/")
    assert revision == 4
    assert list(items) == ["machines/m00", "machines/m01"]
    assert items["machines/m01"] == Item(value=b"one", created=2, changed=2)
    put_in(store, "machines/m01", b"two")
    assert store.get("machines/m01") == (
        5,
        {"machines/m01": Item(value=b"two", created=2, changed=5)},
    )


def test_a_transaction_is_done_whole_or_not(store: KeyValueStore) -> None:
    revision = put_in(store, "term", b"1")
    both = [Put(key="term", value=b"2"), Put(key="root", value=b"m01")]
    assert store.transact(both, when=[unchanged("term", revision)]) == (True, 3)
    assert store.transact(both, when=[unchanged("term", revision)]) == (False, 3)
    assert store.transact(both, when=[absent("root")]) == (False, 3)
    equal = Compare(key="term", what="value", equals=b"2")
    assert store.transact([Delete(key="root")], when=[equal]) == (True, 4)
    assert list(store.get("")[1]) == ["term"]
    nothing = Compare(key="root", what="value", equals=b"")
    assert store.transact(both, when=[nothing]) == (False, 4)
    assert store.transact([Delete(key="root")]) == (True, 4)


def test_one_of_many_wins_a_key(open_store: Opening) -> None:
    winners: list[int] = []

    def stand(number: int) -> None:
        store = open_store()
        for term in range(20):
            key = f"term/{term}"
            done, _ = store.transact([Put(key=key, value=b"")], when=[absent(key)])
            if done:
                winners.append(term)

    threads = [threading.Thread(target=stand, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(winners) == list(range(20))


def test_a_watch_tells_all_changes_after_a_revision(store: KeyValueStore) -> None:
    put_in(store, "a/0")
    revision, _ = store.get("a/")
    put_in(store, "a/1", b"x")
    put_in(store, "b/1")
    watch = store.watch("a/", after=revision)
    assert [event.key for event in events_until(watch, 1)] == ["a/1"]
    assert watch.next(0.05) == []
    store.transact([Put(key="a/2", value=b""), Delete(key="a/0")])
    events = watch.next(5.0)
    assert [(event.revision, event.key) for event in events] == [(5, "a/2"), (5, "a/0")]
    assert events[1].item is None
    watch.close()
    assert watch.next(5.0) == []


def test_a_closed_watch_ends_a_waiting_next(store: KeyValueStore) -> None:
    watch = store.watch("", after=1)
    waiter = threading.Thread(target=watch.next, args=(30.0,))
    waiter.start()
    watch.close()
    waiter.join(5)
    assert not waiter.is_alive()


def test_who_fell_behind_reads_again(open_store: Opening) -> None:
    store = open_store()
    for count in range(201):
        put_in(store, "step", str(count).encode())
    open_store.forget(100)
    with pytest.raises(Compacted):
        store.watch("", after=1).next(5.0)
    revision, items = store.get("")
    assert items["step"].value == b"200"
    watch = store.watch("", after=revision)
    put_in(store, "step", b"201")
    assert len(events_until(watch, 1)) == 1
    watch.close()


def test_a_watch_of_a_quiet_prefix_does_not_fall_behind(open_store: Opening) -> None:
    store = open_store()
    watch = store.watch("quiet/", after=1)
    for count in range(500):
        put_in(store, "step", str(count).encode())
        if count % 100 == 0:
            assert watch.next(0.0) == []
    open_store.forget(400)
    put_in(store, "quiet/now")
    assert [event.key for event in events_until(watch, 1)] == ["quiet/now"]
    watch.close()


def test_a_lapsed_lease_is_seen_in_time(open_store: Opening) -> None:
    store, other = open_store(), open_store()
    lease = store.grant(LIFE_S)
    revision = put_in(store, "machines/m00", lease=lease.id)
    watch = other.watch("machines/", after=revision)
    granted_s = monotonic_s()
    (event,) = events_until(watch, 1)
    assert event.item is None
    assert 0.9 < monotonic_s() - granted_s < LIFE_S + LOOK_S + 1.0  # slack: busy host
    assert not lease.renew()
    with pytest.raises(LeaseGone, match="grant a new one"):
        put_in(store, "machines/m00", lease=lease.id)
    watch.close()


def test_a_renewed_lease_keeps_its_keys(store: KeyValueStore) -> None:
    lease: Lease = store.grant(LIFE_S)
    revision = put_in(store, "a", lease=lease.id)
    watch = store.watch("", after=revision)
    until_s = monotonic_s() + 2 * LIFE_S
    while monotonic_s() < until_s:
        assert lease.renew()
        assert watch.next(0.05) == []
    lease.revoke()
    assert [event.item for event in events_until(watch, 1)] == [None]
    lease.revoke()
    watch.close()


def test_what_is_refused_says_why(store: KeyValueStore) -> None:
    with pytest.raises(Refused, match="at most 1048576"):
        put_in(store, "large", bytes(1024 * 1024 + 1))
    with pytest.raises(Refused, match="ttl_s is -1"):
        store.grant(-1)
    assert store.get("") == (1, {})


# Over a socket


CLIENT = """
import sys
from twinstep.agent.kv import Put
from twinstep.agent.kv_client import connect
store = connect(sys.argv[1])
lease = store.grant(0.5)
store.transact([Put(key="machines/m00", value=b"", lease=lease.id)])
while lease.renew():
    pass
"""


@pytest.mark.parametrize("damage", [signal.SIGSTOP, signal.SIGKILL])
def test_the_lease_of_a_stopped_or_killed_client_lapses(damage: signal.Signals) -> None:
    with serve() as server:
        watch = server.store.watch("", after=1)
        client = subprocess.Popen([sys.executable, "-c", CLIENT, server.address])
        try:
            (event,) = events_until(watch, 1, 20)
            assert event.item is not None
            assert watch.next(0.8) == []  # it renews
            os.kill(client.pid, damage)
            (event,) = events_until(watch, 1)
            assert (event.key, event.item) == ("machines/m00", None)
        finally:
            client.kill()
            client.wait(10)


def test_connections_are_bounded() -> None:
    with serve(bounds=Bounds(connections_max=1)) as server:
        first = connect(server.address)
        first.get("")
        second = connect(server.address, call_s_max=0.3)
        with pytest.raises(DeadlinePassed, match=server.address):
            second.get("")
        first.get("")
        first.close()


def test_calls_to_a_silent_store_end_by_their_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = connect(f"127.0.0.1:{silent.getsockname()[1]}", call_s_max=0.3)
        began_s = monotonic_s()
        with pytest.raises(DeadlinePassed, match="no answer within 0.3 s"):
            store.get("")
        with pytest.raises(DeadlinePassed, match="it may have been done"):
            put_in(store, "a")
        assert monotonic_s() - began_s < 3
        store.close()


def test_a_transaction_without_an_answer_is_not_sent_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hasty:
        hasty.settimeout(0.5)
        store = connect(f"127.0.0.1:{hasty.getsockname()[1]}", call_s_max=2.0)
        seen: list[bytes] = []

        def hang_up() -> None:
            with contextlib.suppress(TimeoutError):
                while True:
                    peer, _ = hasty.accept()
                    seen.append(peer.recv(65536))
                    peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DeadlinePassed, match="it may have been done"):
            put_in(store, "a")
        thread.join(5)
        assert len(seen) == 1
        store.close()


def test_a_watch_of_a_store_that_is_gone_says_so() -> None:
    with serve() as server:
        store = connect(server.address, call_s_max=0.3)
        watch = store.watch("", after=1)
        assert watch.next(0.2) == []
    with pytest.raises(DeadlinePassed, match="could not be reached for 0.3 s"):
        watch.next(0.3)
    with pytest.raises(DeadlinePassed):
        store.get("")


def test_a_client_whose_connection_was_closed_opens_another() -> None:
    with serve(bounds=Bounds(frame_s_max=0.05, idle_s_max=0.05)) as server:
        store = connect(server.address)
        assert put_in(store, "a") == 2
        store.watch("", after=2).next(0.4)  # longer than it may be idle
        assert put_in(store, "a") == 3
        store.close()


def test_a_watch_that_hears_nothing_connects_anew() -> None:
    bounds = Bounds(progress_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        store = connect(f"127.0.0.1:{silent.getsockname()[1]}", bounds=bounds)
        watch = store.watch("", after=1)
        waiter = threading.Thread(target=watch.next, args=(5.0,))
        waiter.start()
        first, _ = silent.accept()
        second, _ = silent.accept()
        watch.close()
        first.close()
        second.close()
        waiter.join(6)
        assert not waiter.is_alive()


def test_only_loopback_is_served_and_a_taken_port_is_named() -> None:
    with pytest.raises(ConfigError, match="no credentials"):
        serve(host="0.0.0.0")
    with serve() as server:
        port = int(server.address.split(":")[1])
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            serve(port=port)


def test_a_closed_server_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with serve() as server:
        store = connect(server.address)
        store.watch("", after=1).next(0.1)
        assert store.get("") == (1, {})
    assert set(threading.enumerate()) == before
    store.close()
