"""Decides what is in the key-value store: revisions, leases and history.

The ledger is a state machine: it takes a request and the time, and returns the
answer. It knows no thread and no clock, so all of it can be tested by arithmetic.

A lease lapses only while the ledger is awake. When the process that holds the ledger
was stopped or starved, all holders were cut off from renewing, and none of them is
dead for that: a gap between two looks at the time longer than `pause_s_max` is added
to the life of every lease (etcd does the same when its leader changes).

History is a bounded queue of events, cut at its old end. Every bound is in `Limits`;
what would pass one is refused with the numbers, and nothing is half done.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from twinstep.agent.kv import (
    Compacted,
    Compare,
    Delete,
    Done,
    Event,
    Get,
    Got,
    Grant,
    Granted,
    Item,
    LeaseGone,
    Put,
    Renew,
    Request,
    Response,
    Revoke,
    Transact,
)
from twinstep.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a store holds at most. It keeps who, where and when; state goes to slots."""

    key_bytes_max: int = 512
    """A key; etcd has no such bound, but a path of names needs no more."""
    value_bytes_max: int = 1024 * 1024
    """A value; etcd's request limit is 1.5 MiB. A plan for 10,000 ranks is 1 MB."""
    store_bytes_max: int = 64 * 1024 * 1024
    """All keys and values together."""
    operations_max: int = 128
    """In one transaction, as in etcd; comparisons likewise."""
    leases_max: int = 4096
    """Two or three an agent: a thousand machines."""
    ttl_s_max: float = 86_400.0
    """The longest life of a lease: a day."""
    history_events_max: int = 10_000
    """Events kept for watches; at ten a second a watch may be away for a quarter
    of an hour."""
    history_bytes_max: int = 16 * 1024 * 1024
    """Bytes of those events' keys and values."""
    pause_s_max: float = 0.5
    """The ledger looks at the time twenty times a second; a longer gap means that
    its own process stood still."""


@dataclass(slots=True, kw_only=True)
class _Life:
    ttl_s: float
    ends_s: float
    keys: dict[str, None] = field(default_factory=dict[str, None])


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The contents of a store.

    Invariants: revision never falls; a key's lease is in `leases` and lists the key;
    every event with a revision > `compacted` is in `history`."""

    limits: Limits = field(default_factory=Limits)
    revision: int = 1
    compacted: int = 0
    items: dict[str, Item] = field(default_factory=dict[str, Item])
    leases: dict[int, _Life] = field(default_factory=dict[int, _Life])
    history: deque[Event] = field(default_factory=deque[Event])
    granted: int = 0
    store_bytes: int = 0
    history_bytes: int = 0
    looked_s: float | None = None

    def apply(self, request: Request, now_s: float) -> Response:
        """Returns the answer to a request, after what has lapsed is gone.

        Raises: Refused, or its kinds LeaseGone and Compacted; nothing has changed."""
        self.expire(now_s)
        match request:
            case Get(prefix=prefix):
                return Got(revision=self.revision, items=self._under(prefix))
            case Transact(operations=operations, when=when):
                self._admit(request)
                done = all(self._holds(compare) for compare in when)
                if done and operations:
                    self._change(operations)
                return Done(done=done, revision=self.revision)
            case Grant(ttl_s=ttl_s):
                return self._grant(ttl_s, now_s)
            case Renew(lease=lease):
                life = self.leases.get(lease)
                if life is not None:
                    life.ends_s = now_s + life.ttl_s
                return Done(done=life is not None, revision=self.revision)
            case Revoke(lease=lease):
                done = lease in self.leases
                if done:
                    self._end(lease)
                return Done(done=done, revision=self.revision)

    def expire(self, now_s: float) -> None:
        """Every lease whose time is over is gone, and its keys with it."""
        if self.looked_s is not None:
            gap_s = now_s - self.looked_s
            assert gap_s >= 0, "time ran backwards"
            if gap_s > self.limits.pause_s_max:
                for life in self.leases.values():
                    life.ends_s += gap_s
        self.looked_s = now_s
        lapsed = [
            (life.ends_s, lease)
            for lease, life in self.leases.items()
            if life.ends_s <= now_s
        ]
        for _, lease in sorted(lapsed):
            self._end(lease)

    def events(self, prefix: str, after: int) -> list[Event]:
        """Returns the changes under `prefix` with a revision > `after`, in order.

        Raises: Compacted when some of them are no longer known."""
        if not self.compacted <= after <= self.revision:
            raise Compacted(
                f"changes after revision {after} were asked for, but the store knows "
                f"those after {self.compacted} up to {self.revision}; "
                "get the prefix again and watch from the revision that comes with it"
            )
        found: list[Event] = []
        for event in reversed(self.history):
            if event.revision <= after:
                break
            if event.key.startswith(prefix):
                found.append(event)
        found.reverse()
        return found

    def _under(self, prefix: str) -> dict[str, Item]:
        keys = sorted(key for key in self.items if key.startswith(prefix))
        return {key: self.items[key] for key in keys}

    def _holds(self, compare: Compare) -> bool:
        item = self.items.get(compare.key)
        match compare.what:
            case "created":
                return (item.created if item else 0) == compare.equals
            case "changed":
                return (item.changed if item else 0) == compare.equals
            case "value":
                return item is not None and item.value == compare.equals

    def _admit(self, request: Transact) -> None:
        """Raises what a transaction would break, before it is looked at further."""
        limits = self.limits
        count = max(len(request.operations), len(request.when))
        if count > limits.operations_max:
            raise Refused(
                f"{count} operations or comparisons in one transaction; at most "
                f"{limits.operations_max}: use several transactions"
            )
        keys = [operation.key for operation in request.operations]
        if len(set(keys)) < len(keys):
            raise Refused("a transaction names one key twice; put or delete it once")
        grows = 0
        for operation in request.operations:
            _bound("key", operation.key.encode(), limits.key_bytes_max)
            if isinstance(operation, Put):
                _bound(operation.key, operation.value, limits.value_bytes_max)
                grows += _weight(operation.key, operation.value)
                if operation.lease and operation.lease not in self.leases:
                    raise LeaseGone(
                        f"lease {operation.lease} is gone, so {operation.key} cannot "
                        "be put under it; grant a new one"
                    )
            grows -= self._weight_of(operation.key)
        if self.store_bytes + grows > limits.store_bytes_max:
            raise Refused(
                f"the store would hold {self.store_bytes + grows} bytes; at most "
                f"{limits.store_bytes_max}: delete keys of ended rounds"
            )

    def _weight_of(self, key: str) -> int:
        item = self.items.get(key)
        return _weight(key, item.value) if item else 0

    def _change(self, operations: list[Put | Delete]) -> None:
        """One revision more; a transaction that changes no key leaves it as it is."""
        revision = self.revision + 1
        events: list[Event] = []
        for operation in operations:
            before = self._take(operation.key)
            item = None
            if isinstance(operation, Put):
                item = Item(
                    value=operation.value,
                    created=before.created if before else revision,
                    changed=revision,
                    lease=operation.lease,
                )
                self._keep(operation.key, item)
            elif before is None:
                continue
            events.append(Event(revision=revision, key=operation.key, item=item))
        self._record(events)

    def _grant(self, ttl_s: float, now_s: float) -> Granted:
        if not 0 < ttl_s <= self.limits.ttl_s_max:
            raise Refused(
                f"ttl_s is {ttl_s}; more than 0, at most {self.limits.ttl_s_max}"
            )
        if len(self.leases) >= self.limits.leases_max:
            raise Refused(
                f"there are {len(self.leases)} leases already; at most "
                f"{self.limits.leases_max}: revoke those that are not needed"
            )
        self.granted += 1
        self.leases[self.granted] = _Life(ttl_s=ttl_s, ends_s=now_s + ttl_s)
        return Granted(lease=self.granted)

    def _end(self, lease: int) -> None:
        keys = list(self.leases[lease].keys)
        if keys:
            self._change([Delete(key=key) for key in keys])
        del self.leases[lease]

    def _take(self, key: str) -> Item | None:
        item = self.items.pop(key, None)
        if item is not None:
            self.store_bytes -= _weight(key, item.value)
            if item.lease:
                del self.leases[item.lease].keys[key]
        return item

    def _keep(self, key: str, item: Item) -> None:
        self.items[key] = item
        self.store_bytes += _weight(key, item.value)
        if item.lease:
            self.leases[item.lease].keys[key] = None

    def _record(self, events: list[Event]) -> None:
        if not events:
            return
        self.revision += 1
        self.history.extend(events)
        self.history_bytes += sum(_event_bytes(event) for event in events)
        while (
            len(self.history) > self.limits.history_events_max
            or self.history_bytes > self.limits.history_bytes_max
        ):
            dropped = self.history.popleft()
            self.history_bytes -= _event_bytes(dropped)
            self.compacted = dropped.revision


def _weight(key: str, value: bytes) -> int:
    return len(key.encode()) + len(value)


def _event_bytes(event: Event) -> int:
    return _weight(event.key, event.item.value if event.item else b"")


def _bound(name: str, value: bytes, most: int) -> None:
    if len(value) > most:
        raise Refused(f"{name} has {len(value)} bytes; at most {most}")
