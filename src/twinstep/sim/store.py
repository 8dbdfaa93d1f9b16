"""The key-value store of a simulated cluster: the shipped ledger, behind a network.

Calls end by their deadline, and then nobody knows whether they were done. While the
store is away it answers nobody and no lease lapses, as with an etcd that has lost its
leader; when it is back, every lease has its life again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from twinstep.agent.kv import (
    Compare,
    Done,
    Event,
    Get,
    Got,
    Grant,
    Granted,
    Put,
    Renew,
    Request,
    Response,
    Revoke,
    Transact,
)
from twinstep.agent.kv_ledger import Ledger
from twinstep.errors import DeadlinePassed, Refused
from twinstep.sim.events import Events, Process, Signal, Step
from twinstep.sim.network import Network

PLACE = "store"
LOOK_S = 0.05
POLL_S = 0.1


@dataclass(slots=True, kw_only=True, repr=False)
class SimStore:
    """The store, and its clients' calls."""

    events: Events
    network: Network
    call_s_max: float
    ledger: Ledger = field(default_factory=Ledger)
    away: bool = False
    ended_early: set[int] = field(default_factory=set[int])
    """Leases that were ended though they had been renewed in time."""
    changed: Signal = field(init=False)

    def __post_init__(self) -> None:
        self.changed = self.events.signal()
        self.events.start(self._look())

    def _look(self) -> Process:
        """Leases lapse though nobody calls."""
        while True:
            yield LOOK_S
            if not self.away:
                self._apply_expiry()

    def _apply_expiry(self) -> None:
        before = self.ledger.revision
        self.ledger.expire(self.events.now_s)
        if self.ledger.revision > before:
            self.changed.set()

    def _apply(self, request: Request) -> Response | Refused:
        before = self.ledger.revision
        try:
            response: Response | Refused = self.ledger.apply(request, self.events.now_s)
        except Refused as error:
            response = error
        if self.ledger.revision > before:
            self.changed.set()
        return response

    def call(self, client: str, request: Request) -> Step[Response]:
        """Returns the answer. Raises: Refused; DeadlinePassed, done or not."""
        network, until_s = self.network, self.events.now_s + self.call_s_max
        # What is sent to a store that is away, or over a cut, is heard afterwards.
        while self.away or network.is_cut(client, PLACE):
            yield min(POLL_S, max(0.0, until_s - self.events.now_s))
            if self.events.now_s >= until_s:
                raise DeadlinePassed("the store did not answer")
        there_s = network.travel_s(client, PLACE)
        if self.events.now_s + there_s > until_s:
            yield max(0.0, until_s - self.events.now_s)
            raise DeadlinePassed("the store did not answer in time")
        yield there_s
        if self.away:
            yield max(0.0, until_s - self.events.now_s)
            raise DeadlinePassed("the store went away")
        response = self._apply(request)
        back_s = network.travel_s(PLACE, client)
        if self.events.now_s + back_s > until_s or network.is_cut(PLACE, client):
            self.events.probe("store: done, and nobody was told")
            yield max(0.0, until_s - self.events.now_s)
            raise DeadlinePassed("the store's answer did not come")
        yield back_s
        if isinstance(response, Refused):
            raise response
        return response

    def get(self, client: str, prefix: str) -> Step[Got]:
        got = yield from self.call(client, Get(prefix=prefix))
        assert isinstance(got, Got)
        return got

    def transact(
        self, client: str, puts: Sequence[Put], *, when: Sequence[Compare]
    ) -> Step[bool]:
        request = Transact(operations=list(puts), when=list(when))
        done = yield from self.call(client, request)
        assert isinstance(done, Done)
        return done.done

    def grant(self, client: str, ttl_s: float) -> Step[int]:
        granted = yield from self.call(client, Grant(ttl_s=ttl_s))
        assert isinstance(granted, Granted)
        return granted.lease

    def renew(self, client: str, lease: int) -> Step[bool]:
        done = yield from self.call(client, Renew(lease=lease))
        assert isinstance(done, Done)
        return done.done

    def revoke(self, client: str, lease: int) -> Step[None]:
        yield from self.call(client, Revoke(lease=lease))

    def changes(self, client: str, prefix: str, after: int) -> Step[list[Event]]:
        """Returns what has changed after a revision, once something has and the
        client can hear of it. Raises: Compacted."""
        while True:
            while self.away or self.network.is_cut(PLACE, client):
                yield POLL_S
            found = self.ledger.events(prefix, after)
            if found:
                yield self.network.travel_s(PLACE, client)
                return found
            yield self.changed
