"""Calls that the tests of every key-value store make."""

from __future__ import annotations

from typing import Any

from twinstep.agent.kv import Event, KeyValueStore, Put
from twinstep.clock import monotonic_s

LIFE_S = 1.5
"""A lease's life that every store can keep: etcd ends this one after 1.0 to 1.5 s."""


def put_in(store: KeyValueStore, key: str, value: bytes = b"", lease: int = 0) -> int:
    return store.transact([Put(key=key, value=value, lease=lease)])[1]


def events_until(watch: Any, count: int, timeout_s: float = 5.0) -> list[Event]:
    """At least `count` events, or those that came by the deadline."""
    until_s = monotonic_s() + timeout_s
    events: list[Event] = []
    while len(events) < count and monotonic_s() < until_s:
        events += watch.next(max(0.0, until_s - monotonic_s()))
    return events
