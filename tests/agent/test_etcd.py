"""What etcd adds to the suite of all stores: members that die, links, time, trust."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.etcd_nodes import Cluster, cluster, needs_etcd
from tests.agent.etcd_relay import Relay
from tests.agent.kv_calls import LIFE_S, events_until, put_in
from twinstep.agent import etcd
from twinstep.agent.etcd_gateway import Bounds
from twinstep.agent.etcd_http import Endpoint, parse
from twinstep.agent.etcd_messages import Away, TokenRefused, refusal
from twinstep.agent.kv import Compacted, LeaseGone, Put, unchanged
from twinstep.agent.kv_client import Client
from twinstep.agent.stores import open_store
from twinstep.clock import monotonic_s
from twinstep.errors import ConfigError, DeadlinePassed, Refused

# Addresses


def test_an_address_names_endpoints_a_job_and_credentials() -> None:
    address = parse(
        "etcds://a:1,[::1]:2,c/run-7?user=u&password_file=/p&ca=/ca&cert=/c&key=/k"
    )
    assert [str(one) for one in address.endpoints] == ["a:1", "[::1]:2", "c:2379"]
    assert address.endpoints[1] == Endpoint("::1", 2)
    assert (address.prefix, address.tls, address.user) == ("twinstep/run-7/", True, "u")
    assert address.password_file == Path("/p")
    assert (address.ca, address.cert, address.key) == (
        Path("/ca"),
        Path("/c"),
        Path("/k"),
    )
    assert parse("etcd://a").prefix == ""


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://a:1", "use etcd://"),
        ("etcd://", "no HOST:PORT"),
        ("etcd://a:1,", "no HOST:PORT"),
        ("etcd://a:x", "no HOST:PORT"),
        ("etcd://a:1?speed=9", "does not know speed"),
        ("etcd://u:secret@a:1", "seen by everybody"),
        ("etcd://a:1?user=u", "needs a password_file"),
        ("etcd://a:1?ca=/x", "begin with etcds://"),
        ("etcds://a:1?cert=/x", "both cert and key"),
    ],
)
def test_a_wrong_address_says_what_is_right(address: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse(address)
    assert "secret" not in str(caught.value)


def test_the_address_chooses_the_store() -> None:
    assert isinstance(open_store("127.0.0.1:1"), Client)
    assert isinstance(open_store("etcd://127.0.0.1:1/job"), etcd.Etcd)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        open_store("nowhere")
    with pytest.raises(ConfigError, match="/no/ca"):
        open_store("etcds://127.0.0.1:1/job?ca=/no/ca")


@pytest.mark.parametrize(
    ("status", "body", "kind", "done"),
    [
        (503, b'{"error":"etcdserver: no leader","code":14}', Away, False),
        (503, b'{"error":"etcdserver: request timed out","code":14}', Away, True),
        (200, b'{"error":{"grpc_code":14,"message":"no leader"}}', Away, False),
        (500, b'{"code":2,"message":"raft proposal dropped"}', Away, False),
        (502, b"<html>a proxy</html>", Away, True),
        (401, b'{"error":"invalid auth token","code":16}', TokenRefused, None),
        (404, b'{"error":"requested lease not found","code":5}', LeaseGone, None),
        (400, b'{"error":"duplicate key given","code":3}', Refused, None),
    ],
)
def test_refusals_of_all_releases_are_read(
    status: int, body: bytes, kind: type[Exception], done: bool | None
) -> None:
    problem = refusal(status, body)
    assert type(problem) is kind
    assert getattr(problem, "done", None) is done


# A peer that is not etcd


@contextlib.contextmanager
def answering(said: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says the same to everybody: its address, and what it was told."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()
        told: list[bytes] = []

        def answer() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = server.accept()
                    with peer:
                        peer.settimeout(1)
                        told.append(peer.recv(65536))
                        peer.sendall(said)
                        peer.recv(1)

        server.settimeout(0.1)
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"etcd://127.0.0.1:{server.getsockname()[1]}", told
        finally:
            ended.set()
            thread.join(5)


def error(status: int, message: str, code: int) -> bytes:
    body = b'{"error":"%s","code":%d}' % (message.encode(), code)
    head = b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@pytest.mark.parametrize(
    ("message", "code", "again"),
    [("etcdserver: request timed out", 14, False), ("etcdserver: no leader", 14, True)],
)
def test_a_transaction_is_made_again_only_if_etcd_surely_did_nothing(
    message: str, code: int, again: bool
) -> None:
    with answering(error(503, message, code)) as (address, told):
        store = etcd.connect(address, call_s_max=0.5)
        with pytest.raises(DeadlinePassed, match=message) as caught:
            put_in(store, "a")
        assert ("may have been done" in str(caught.value)) != again
        assert (len(told) > 1) == again
        told.clear()
        with pytest.raises(DeadlinePassed, match=message):
            store.get("a")
        assert len(told) > 1
        store.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "silent"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99999, "over 9"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "speaks no HTTP"),
    ],
    ids=["silent", "not http", "too much", "endless head"],
)
def test_a_peer_that_is_no_etcd_is_named_by_the_deadline(
    said: bytes, reason: str
) -> None:
    with answering(said) as (address, _):
        bounds = Bounds(response_bytes_max=9999, quiet_s=0.1, probe_s_max=0.1)
        store = etcd.connect(address, call_s_max=0.4, bounds=bounds)
        began_s = monotonic_s()
        with pytest.raises(DeadlinePassed, match=reason):
            store.get("")
        with pytest.raises(DeadlinePassed, match="it may have been done"):
            put_in(store, "a")
        with pytest.raises(DeadlinePassed):
            store.watch("", after=1).next(0.4)
        assert monotonic_s() - began_s < 5
        store.close()


# Time


@needs_etcd
def test_etcds_least_lease_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster(tmp_path, heartbeat_ms=100, election_ms=1000) as nodes:
        store = nodes.open()
        with caplog.at_level(logging.WARNING):
            assert store.grant(LIFE_S).ttl_s == 2
            assert store.grant(LIFE_S).ttl_s == 2
        (record,) = caplog.records
        assert "noticed after up to 2.5 s" in record.message
        assert store.grant(7.9).ttl_s == 7


# Links


@needs_etcd
def test_jobs_that_share_an_etcd_see_their_own_keys(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        stores = {}
        for name in ("a", "ab"):
            nodes.name = name
            stores[name] = nodes.open()
        watch = stores["a"].watch("", after=1)
        put_in(stores["ab"], "root", b"other")
        put_in(stores["a"], "root", b"mine")
        assert [event.key for event in events_until(watch, 1)] == ["root"]
        assert stores["a"].get("")[1]["root"].value == b"mine"


@needs_etcd
def test_a_transaction_whose_answer_is_lost_is_done_once(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Relay(nodes.nodes[0].port) as relay:
        store = etcd.connect(f"etcd://127.0.0.1:{relay.port}", call_s_max=1.0)
        assert put_in(store, "a") == 2
        relay.answers_max = 0
        with pytest.raises(DeadlinePassed, match="it may have been done"):
            put_in(store, "a")
        assert relay.sent.count(b"POST /v3/kv/txn") == 2
        relay.answers_max = None
        assert store.get("")[0] == 3
        store.close()


@needs_etcd
def test_a_transaction_that_could_not_be_sent_goes_elsewhere(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Relay(nodes.nodes[0].port) as relay:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            refusing = nobody.getsockname()[1]
        address = f"etcd://127.0.0.1:{refusing},127.0.0.1:{relay.port}"
        for count in range(4):  # the first endpoint is chosen at random
            store = etcd.connect(address, call_s_max=5.0)
            assert put_in(store, "a") == 2 * count + 2
            relay.cut()  # the kept connection is found closed, before it is used
            assert put_in(store, "a") == 2 * count + 3
            store.close()


@needs_etcd
def test_a_renewal_is_made_on_another_connection_when_one_is_silent(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path) as nodes, Relay(nodes.nodes[0].port) as relay:
        relay.mute_to = 2
        store = etcd.connect(f"etcd://127.0.0.1:{relay.port}", call_s_max=20.0)
        lease = nodes.open().grant(10)
        began_s = monotonic_s()
        assert etcd.EtcdLease(store._gateway, lease.id, ttl_s=10).renew()
        assert relay.accepted >= 3
        assert monotonic_s() - began_s < 10
        store.close()


@needs_etcd
@pytest.mark.parametrize("damage", ["cut", "silent"])
def test_a_watch_goes_on_where_its_link_was_lost(tmp_path: Path, damage: str) -> None:
    with cluster(tmp_path) as nodes, Relay(nodes.nodes[0].port) as relay:
        store, writer = open_store(f"etcd://127.0.0.1:{relay.port}"), nodes.open()
        watch = store.watch("", after=1)
        revisions = [put_in(writer, "a")]
        assert [event.revision for event in events_until(watch, 1)] == revisions
        if damage == "cut":
            relay.cut()
        else:
            relay.mute_to = relay.accepted + 1  # what it asks its member, too
        revisions = [put_in(writer, "a") for _ in range(20)]
        got = [event.revision for event in events_until(watch, 20, 20)]
        assert got == revisions
        relay.cut()
        revisions = [put_in(writer, "a") for _ in range(20)]
        nodes.compact(revisions[-1])
        with pytest.raises(Compacted, match="get the prefix again"):
            watch.next(10)
        store.close()


@needs_etcd
def test_a_quiet_watch_of_a_living_member_keeps_its_connection(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, Relay(nodes.nodes[0].port) as relay:
        bounds = Bounds(quiet_s=0.05, probe_s_max=5.0)
        address = f"etcd://127.0.0.1:{relay.port}"
        store = etcd.connect(address, bounds=bounds)
        watch = store.watch("", after=1)
        assert watch.next(1.0) == []
        assert relay.accepted == 2  # its own, and that of its questions
        assert relay.sent.count(b"POST /v3/watch") == 1
        assert relay.sent.count(b"POST /v3/kv/range") > 5
        store.close()


# Members


class Job:
    """An agent's use of a store, all at once, and what came of it."""

    def __init__(self, nodes: Cluster) -> None:
        self._store = nodes.open(call_s_max=2.0)
        self._ended = threading.Event()
        self.lapsed = False
        self.put: list[int] = []
        """Revisions of transactions that said they were done."""
        self.unknown = 0
        self.seen: list[int] = []
        self._lease = self._store.grant(LIFE_S)
        self._after = put_in(self._store, "lease", lease=self._lease.id)
        work = (self._renew, self._write, self._watch)
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(0.2):
            with contextlib.suppress(DeadlinePassed):
                self.lapsed = self.lapsed or not self._lease.renew()

    def _write(self) -> None:
        while not self._ended.wait(0.02):
            try:
                _, items = self._store.get("count")
                at = items["count"].changed if items else 0
                put = Put(key="count", value=b"x" * 100)
                done, revision = self._store.transact(
                    [put], when=[unchanged("count", at)]
                )
                assert done, "nobody else writes"
                self.put.append(revision)
            except DeadlinePassed:
                self.unknown += 1

    def _watch(self) -> None:
        watch = self._store.watch("count", after=self._after)
        while not self._ended.is_set():
            with contextlib.suppress(DeadlinePassed):
                self.seen += [event.revision for event in watch.next(0.2)]

    def await_writes(self, count: int) -> None:
        """So many more transactions have been done and seen."""
        until_s = monotonic_s() + 60
        goal = len(self.put) + count
        while len(self.put) < goal or self.put[-1] not in self.seen:
            assert monotonic_s() < until_s, f"{len(self.put)} of {goal} were done"
            self._ended.wait(0.05)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        assert not self.lapsed
        assert self.seen == sorted(set(self.seen)), "twice, or out of order"
        last = self.seen[-1]
        missed = {revision for revision in self.put if revision <= last}
        missed -= set(self.seen)
        assert not missed
        assert len(set(self.seen) - set(self.put)) <= self.unknown


@needs_etcd
@pytest.mark.parametrize("damage", [signal.SIGKILL, signal.SIGSTOP])
def test_the_loss_of_etcds_leader_loses_nothing(
    tmp_path: Path, damage: signal.Signals
) -> None:
    with cluster(tmp_path, 3) as nodes:
        job = Job(nodes)
        job.await_writes(20)
        for _ in range(2):
            leader = nodes.leader()
            leader.send(damage)
            job.await_writes(20)
            # A stopped one is not continued: it takes its leases for lapsed, and
            # before 3.4.31 the new leader does as it says (docs/design/etcd.md).
            leader.kill()
            leader.start()
            nodes.await_ready()
        job.await_writes(20)
        job.end()
