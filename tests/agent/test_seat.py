"""Seats in the key-value store: one root a term, and a paused one writes nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.agent import etcd_nodes as nodes
from tests.agent.etcd_nodes import needs_etcd
from twinstep.agent.election import Campaign, Election, RootKey
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.kv_server import Embedded
from twinstep.agent.seat import MACHINES, PLAN, ROOT, Seat
from twinstep.clock import monotonic_s
from twinstep.cloud.requests import REQUESTS, RETURNS, KeyValueOperator
from twinstep.config import Timing
from twinstep.errors import DeadlinePassed, UsageError

TIMING = Timing(silence_s_max=1.0, tick_s=0.05, call_s_max=0.5)
SLOW = Timing(silence_s_max=10.5)  # leases are renewed every 2.1 s
WAIT_S = 20.0


class Store:
    """The store, as one machine reaches it: leases go unrenewed while it is paused."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self.leases: list[Any] = []
        self.unanswered: Callable[[], bool] = lambda: False
        """Whether the next transaction gets no answer: before it is done, or after."""
        self.awake = threading.Event()
        self.awake.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def grant(self, ttl_s: float) -> Any:
        lease = PausedLease(self, self._store.grant(ttl_s))
        self.leases.append(lease)
        return lease

    def transact(self, *operations: Any, **conditions: Any) -> tuple[bool, int]:
        if self.unanswered():
            raise DeadlinePassed("no answer; it was not done")
        done = self._store.transact(*operations, **conditions)
        if self.unanswered():
            raise DeadlinePassed("no answer; it was done")
        return done


class PausedLease:
    def __init__(self, store: Store, lease: Any) -> None:
        self.id, self._store, self._lease = lease.id, store, lease
        self.ttl_s = lease.ttl_s

    def renew(self) -> bool:
        self._store.awake.wait(WAIT_S)
        return self._lease.renew()

    def revoke(self) -> None:
        self._lease.revoke()


class Contender:
    """A machine that stands for root whenever there is none, as rooting.py does."""

    def __init__(
        self, store: KeyValueStore, name: str, *, timing: Timing = TIMING
    ) -> None:
        self.store = Store(store)
        self.election = Election(machine=name)
        self.gone: queue.Queue[str] = queue.Queue()
        self.lost: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        self.roots: queue.Queue[RootKey] = queue.Queue()
        self._loop = threading.Lock()
        self.seat = Seat(
            self.store,
            machine=name,
            timing=timing,
            post=self.post,
            on_root=self.observe,
            on_machine=self.saw,
            on_lost=self.lost.put,
            log=self.said.append,
        )

    def post(self, work: Callable[[], None]) -> None:
        self.store.awake.wait(WAIT_S)  # its loop stands still as well
        with self._loop:
            work()

    def saw(self, machine: str, here: bool) -> None:
        if not here:
            self.gone.put(machine)

    def observe(self, root: RootKey | None, term: int) -> None:
        if root is not None:
            self.roots.put(root)
        for action in self.election.observe(root, term=term):
            if isinstance(action, Campaign):
                name = self.election.machine
                key = RootKey(machine=name, host="h", port=1, term=action.term)
                self.seat.campaign(key)

    def root_of(self, term: int) -> str:
        """The machine that it was told is root in this term."""
        while True:
            root = self.roots.get(timeout=WAIT_S)
            if root.term >= term:
                assert root.term == term
                return root.machine


def until(true: Callable[[], object], what: str) -> None:
    """Waits for a thread. Fails naming what it waited for."""
    until_s = monotonic_s() + WAIT_S
    while not true():
        assert monotonic_s() < until_s, f"waited {WAIT_S} s for {what}"
        threading.Event().wait(0.01)


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=needs_etcd)])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeyValueStore]:
    """Each test has keys of its own."""
    if request.param == "embedded":
        embedded = Embedded()
        yield embedded
        embedded.close()
        return
    with nodes.cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster.open()


@pytest.fixture
def contenders(store: KeyValueStore) -> Iterator[list[Contender]]:
    made = [Contender(store, f"m{index}") for index in range(5)]
    yield made
    for one in made:
        one.seat.leave()


def history(store: KeyValueStore) -> Callable[[], list[RootKey]]:
    """Returns what tells all root keys that were ever put."""
    watch = store.watch(ROOT, after=store.get("")[0])

    def keys() -> list[RootKey]:
        items = [event.item for event in watch.next(0.2) if event.item is not None]
        return [msgspec.json.decode(item.value, type=RootKey) for item in items]

    return keys


def test_of_five_contenders_exactly_one_is_root_in_each_term(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    all_roots = history(store)
    for one in contenders:
        one.seat.take(b"{}")
    here = {one.election.machine: one for one in contenders}
    for term in (1, 2, 3):
        named = {one.root_of(term) for one in here.values()}
        assert len(named) == 1, f"term {term}: {named}"
        here.pop(named.pop()).seat.leave()
    terms = [root.term for root in all_roots()]
    assert terms[:3] == [1, 2, 3], "one key a term was ever put"
    assert terms == sorted(set(terms))


def test_everybody_is_told_of_a_machine_that_leaves(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    for one in (first, second):
        one.seat.take(b"{}")
    assert second.seat.machines() == {"m0", "m1"}
    first.seat.leave()
    assert second.gone.get(timeout=WAIT_S) == "m0"
    assert second.seat.machines() == {"m1"}


def test_a_paused_root_loses_its_seat_and_cannot_write_over_the_next_one(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    until(lambda: first.seat.holds(1), "m0 to know")
    first.seat.save(PLAN, b"of term 1")
    second.seat.take(b"{}")
    first.store.awake.clear()  # it renews nothing and does not know
    assert second.gone.get(timeout=WAIT_S) == "m0"
    assert second.root_of(2) == "m1"
    until(lambda: second.seat.holds(2), "m1 to know")
    second.seat.save(PLAN, b"of term 2")
    until(lambda: second.seat.plan() == b"of term 2", "the new root's plan")
    assert not first.seat.may_decide, "its lease is over by its own clock as well"
    first.seat.save(PLAN, b"an old plan, written late")
    first.store.awake.set()
    until(lambda: "plan was not written" in str(first.said), "the late plan's refusal")
    assert first.root_of(2) == "m1"
    assert second.seat.plan() == b"of term 2"
    until(lambda: "m0" in second.seat.machines(), "m0 to take its seat again")
    assert first.lost.empty(), "it follows the new root"


def test_a_machine_whose_lease_the_store_has_ended_takes_its_seat_again(
    store: KeyValueStore,
) -> None:
    # A leader of etcd that was stopped and goes on may end leases that live: issue
    # 15247. All machines, and the root, lose theirs at once.
    here = [Contender(store, f"m{index}", timing=SLOW) for index in range(3)]
    for one in here:
        one.seat.take(b"{}")
    for one in here:
        one.root_of(1)
    started_s = monotonic_s()
    leases = [lease for one in here for lease in one.store.leases]
    for lease in leases:  # and not those that are taken meanwhile
        lease.revoke()
    for one in here:
        until(lambda one=one: "taken its seat again" in str(one.said), "its seat")
    assert monotonic_s() - started_s < 1.0, "sooner than it would renew"
    assert len({one.root_of(2) for one in here}) == 1
    assert store.get(MACHINES)[1].keys() == {f"{MACHINES}m{n}" for n in range(3)}
    assert all(one.lost.empty() for one in here)
    for one in here:
        one.seat.leave()


def test_two_living_agents_cannot_have_one_name(store: KeyValueStore) -> None:
    first, second = Contender(store, "m0"), Contender(store, "m0")
    first.seat.take(b'{"host":"10.0.0.1","port":7}')
    with pytest.raises(UsageError, match="another agent is machine m0") as refused:
        second.seat.take(b"{}")
    assert "10.0.0.1:7" in str(refused.value)
    assert "waits for m0 (10.0.0.1:7)" in second.said[0]
    assert first.seat.machines() == {"m0"} and first.lost.empty()
    first.seat.leave()
    second.seat.leave()


def test_an_agent_that_was_killed_comes_back_under_its_name(
    store: KeyValueStore,
) -> None:
    first, second = Contender(store, "m0"), Contender(store, "m0")
    first.seat.take(b"1")
    first.store.awake.clear()  # dead: it renews nothing
    second.seat.take(b"2")
    assert store.get(MACHINES + "m0")[1][MACHINES + "m0"].value == b"2"
    # It was not dead, but paused: its successor has the name now.
    first.store.awake.set()
    assert "another agent is machine m0" in first.lost.get(timeout=WAIT_S)
    assert second.seat.machines() == {"m0"}
    first.seat.leave()
    second.seat.leave()


@pytest.mark.parametrize("after", [False, True])
def test_an_election_without_an_answer_is_looked_up(
    store: KeyValueStore, contenders: list[Contender], after: bool
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    until(lambda: first.seat.holds(1), "m0 to know")
    second.seat.take(b"{}")
    asked = iter([after is False, after])
    second.store.unanswered = lambda: next(asked, False)
    first.seat.leave()
    until(lambda: "it may be root of term 2" in str(second.said), "the lost answer")
    if after:
        until(lambda: second.seat.holds(2), "m1 to find that it is root")
        second.seat.save(PLAN, b"mine")
        until(lambda: second.seat.plan() == b"mine", "its plan")
    else:
        until(lambda: not second.seat.holds(2), "m1 to find that it is not")
        assert store.get(ROOT)[1] == {}


def test_what_a_root_decided_waits_for_the_store(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    first, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    until(lambda: first.seat.holds(1), "m0 to know")
    lost = iter([True, False, False, True])
    first.store.unanswered = lambda: next(lost, False)
    first.seat.save(PLAN, b"late")
    until(lambda: first.seat.plan() == b"late", "the plan")


def test_a_plan_is_kept_when_its_root_is_gone(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    until(lambda: first.seat.holds(1), "m0 to know")
    assert first.seat.plan() is None
    first.seat.save(PLAN, b"plan")
    first.seat.leave()
    assert second.seat.plan() == b"plan"
    assert store.get(MACHINES)[1] == {} and store.get(ROOT)[1] == {}


def test_who_is_no_longer_root_asks_its_operator_for_nothing(
    store: KeyValueStore, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    until(lambda: first.seat.holds(1), "m0 to know")
    old, new = KeyValueOperator(store), KeyValueOperator(store)
    old.fence = first.seat.fence
    old.ask("for-m7", reason="lost")
    second.seat.take(b"{}")
    first.seat.leave()
    until(lambda: second.seat.holds(2), "m1 to be root")
    new.fence = second.seat.fence
    assert not first.seat.still_root() and second.seat.still_root()
    # Its lease is over, and it does not know: it was paused between look and call.
    old.ask("for-m1", reason="its lease lapsed, as far as I know")
    old.give_back("m1", reason="its lease lapsed, as far as I know")
    new.give_back("m8", reason="lost")
    assert list(store.get(REQUESTS)[1]) == [REQUESTS + "for-m7"]
    assert list(store.get(RETURNS)[1]) == [RETURNS + "m8"]
