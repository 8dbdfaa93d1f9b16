"""Seats in the key-value store: one root a term, and a paused one writes nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from twinstep.agent.election import Campaign, Election, RootKey
from twinstep.agent.kv_server import Embedded
from twinstep.agent.seat import MACHINES, PLAN, ROOT, Seat
from twinstep.config import Timing

TIMING = Timing(silence_s_max=1.0, tick_s=0.05, call_s_max=0.2)
WAIT_S = 20.0


class Store:
    """The store, as one machine reaches it: leases go unrenewed while it is paused."""

    def __init__(self, store: Embedded) -> None:
        self._store = store
        self.awake = threading.Event()
        self.awake.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def grant(self, ttl_s: float) -> Any:
        return PausedLease(self, self._store.grant(ttl_s))


class PausedLease:
    def __init__(self, store: Store, lease: Any) -> None:
        self.id, self._store, self._lease = lease.id, store, lease

    def renew(self) -> bool:
        return self._lease.renew() if self._store.awake.is_set() else True

    def revoke(self) -> None:
        self._lease.revoke()


class Contender:
    """A machine that stands for root whenever there is none, as rooting.py does."""

    def __init__(self, store: Embedded, name: str) -> None:
        self.store = Store(store)
        self.election = Election(machine=name)
        self.gone: queue.Queue[str] = queue.Queue()
        self.lost: queue.Queue[str] = queue.Queue()
        self.roots: queue.Queue[RootKey] = queue.Queue()
        self._loop = threading.Lock()
        self.seat = Seat(
            self.store,
            machine=name,
            timing=TIMING,
            post=self.post,
            on_root=self.observe,
            on_machine_gone=self.gone.put,
            on_lost=self.lost.put,
        )

    def post(self, work: Callable[[], None]) -> None:
        self.store.awake.wait(WAIT_S)  # its loop stands still as well
        with self._loop:
            work()

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


@pytest.fixture
def store() -> Iterator[Embedded]:
    made = Embedded()
    yield made
    made.close()


@pytest.fixture
def contenders(store: Embedded) -> Iterator[list[Contender]]:
    made = [Contender(store, f"m{index}") for index in range(5)]
    yield made
    for one in made:
        one.seat.leave()


def history(store: Embedded) -> Callable[[], list[RootKey]]:
    """Returns what tells all root keys that were ever put."""
    watch = store.watch(ROOT, after=0)

    def keys() -> list[RootKey]:
        items = [event.item for event in watch.next(0.0) if event.item is not None]
        return [msgspec.json.decode(item.value, type=RootKey) for item in items]

    return keys


def test_of_five_contenders_exactly_one_is_root_in_each_term(
    store: Embedded, contenders: list[Contender]
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
    store: Embedded, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    for one in (first, second):
        one.seat.take(b"{}")
    assert second.seat.machines() == {"m0", "m1"}
    first.seat.leave()
    assert second.gone.get(timeout=WAIT_S) == "m0"
    assert second.seat.machines() == {"m1"}


def test_a_paused_root_loses_its_seat_and_cannot_write_over_the_next_one(
    store: Embedded, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    first.seat.save(PLAN, b"of term 1")
    second.seat.take(b"{}")
    first.store.awake.clear()  # it renews nothing and does not know
    assert second.gone.get(timeout=WAIT_S) == "m0"
    assert second.root_of(2) == "m1"
    second.seat.save(PLAN, b"of term 2")
    first.seat.save(PLAN, b"an old plan, written late")
    written = threading.Event()
    for one in (second, first):
        written.clear()
        one.seat.run(written.set)
        assert written.wait(WAIT_S)
    assert second.seat.plan() == b"of term 2"
    first.store.awake.set()
    assert "m0 is lost" in first.lost.get(timeout=WAIT_S)
    assert first.root_of(2) == "m1"


def test_a_plan_is_kept_when_its_root_is_gone(
    store: Embedded, contenders: list[Contender]
) -> None:
    first, second, *_ = contenders
    first.seat.take(b"{}")
    assert first.root_of(1) == "m0"
    assert first.seat.plan() is None
    first.seat.save(PLAN, b"plan")
    first.seat.leave()
    assert second.seat.plan() == b"plan"
    assert store.get(MACHINES)[1] == {} and store.get(ROOT)[1] == {}
