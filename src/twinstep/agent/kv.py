"""What all agents agree on: a small key-value store, as one interface.

The model is etcd's, in small. Every change of the store has a revision, one higher
than the one before. A transaction compares and changes at one revision, or changes
nothing. A lease deletes its keys when it was not renewed for its life: that is how a
dead machine is noticed and how a dead root loses its key. A watch tells every change
under a prefix after a revision, in order and whole: all changes of a revision come
together. History is bounded; who fell behind it gets `Compacted`, reads again with
`get` and watches from there.

All calls are synchronous and end by a deadline, with `DeadlinePassed` saying whom
they waited for. Behind the interface are `Embedded` (this process, kv_server.py),
`connect` (over a socket, kv_client.py), and later etcd.

Left out: versions of the past (`get` reads the present only), deletion by range,
several operations on one key in a transaction, the else branch. None of them is
needed, and each would have to be the same in three stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from twinstep.errors import Refused


class Compacted(Refused):
    """The history after the revision asked for is gone: `get`, then watch anew."""


class LeaseGone(Refused):
    """The lease lapsed or was revoked, and its keys are deleted."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A key's value. `created` and `changed` are revisions, `lease` 0 for none."""

    value: bytes
    created: int
    changed: int
    lease: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A key was put, or deleted (`item` is None), at `revision`."""

    revision: int
    key: str
    item: Item | None


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """Holds when the key's created or changed revision, or its value, is this.

    An absent key was created and changed at 0, and has no value that equals any."""

    key: str
    what: Literal["created", "changed", "value"]
    equals: int | bytes


class Put(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Deletes a key; to delete one that is absent is no error and no event."""

    key: str


Operation: TypeAlias = Put | Delete


def absent(key: str) -> Compare:
    """Holds when there is no such key."""
    return Compare(key=key, what="created", equals=0)


def unchanged(key: str, revision: int) -> Compare:
    """Holds when the key was last put at `revision`."""
    return Compare(key=key, what="changed", equals=revision)


class Lease(Protocol):
    """A life that must be renewed; keys put under its id end with it."""

    @property
    def id(self) -> int: ...

    @property
    def ttl_s(self) -> float:
        """The life that the store gave it, which may be another than was asked for."""
        ...

    def renew(self) -> bool:
        """Starts the lease's time anew; False when it has lapsed already."""
        ...

    def revoke(self) -> None:
        """The lease and its keys are gone, at once; no error if they were."""
        ...


class Watch(Protocol):
    """Changes under a prefix. Not for two threads at once; `close` may come from
    any thread and ends a waiting `next` soon."""

    def next(self, timeout_s: float) -> list[Event]:
        """Returns the next changes, or none after `timeout_s` without any.

        An empty list is also what a closed watch returns, at once.

        Raises: Compacted when changes were missed; DeadlinePassed when the store
            could not be reached for `timeout_s`. The watch may be used on."""
        ...

    def close(self) -> None: ...


class KeyValueStore(Protocol):
    """Five calls: what election, membership and plans need, and etcd has.

    `get` and `watch` see; `transact` is the only way to change a key, since every
    change here has a condition or could have one; `grant` makes a lease. Each call
    may be made from any thread.
    """

    def get(self, prefix: str) -> tuple[int, Mapping[str, Item]]:
        """Returns the store's revision and all items whose key starts so, sorted."""
        ...

    def transact(
        self, operations: Sequence[Operation], *, when: Sequence[Compare] = ()
    ) -> tuple[bool, int]:
        """Does all operations if all of `when` hold; returns whether, and the
        revision.

        Raises: LeaseGone when a put names a lease that is no more; Refused when a
            bound is passed; DeadlinePassed without an answer in time, in which case
            it may or may not have been done: `get`, and see."""
        ...

    def grant(self, ttl_s: float) -> Lease:
        """Returns a lease that lapses `ttl_s` after it was last renewed."""
        ...

    def watch(self, prefix: str, *, after: int) -> Watch:
        """Returns a watch of all changes under `prefix` with a revision > `after`,
        which is best the revision that `get` returned."""
        ...

    def close(self) -> None:
        """Calls and watches end; leases are left to lapse."""
        ...


# What travels to an embedded store in another process, and what its ledger applies.


class Get(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    prefix: str


class Transact(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    operations: list[Operation]
    when: list[Compare]


class Grant(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    ttl_s: float


class Renew(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    lease: int


class Revoke(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    lease: int


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From now on the connection carries Changes, until it is closed."""

    prefix: str
    after: int


class Got(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    revision: int
    items: dict[str, Item]


class Done(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A transaction, renewal or revocation: whether it was done."""

    done: bool
    revision: int


class Granted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    lease: int


class Changes(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All changes up to `revision`; sent without any, too, as a sign of life."""

    revision: int
    events: list[Event]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    kind: Literal["compacted", "lease", "refused"]
    reason: str


Request: TypeAlias = Get | Transact | Grant | Renew | Revoke
Response: TypeAlias = Got | Done | Granted
