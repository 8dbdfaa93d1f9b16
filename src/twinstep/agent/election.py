"""Decides when an agent stands for root, and whose word it takes.

The root holds a key under a lease in the key-value store. When the key is gone, every
agent proposes itself with the next term in one transaction that succeeds only while
the key is absent and the term unchanged: the store decides, and a term has one root.
An agent refuses words of a term older than the newest it has seen, so that a root
that was paused with old reports in its hands harms nobody.

The paper (section 3.2) promotes an alive worker by the store's leader election; the
published artifact counts heartbeats and lets the least rank win after a sleep, which
can crown two. Leases and terms can not.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from twinstep.bounds import Count, Host, Name, Port


class RootKey(msgspec.Struct, frozen=True, kw_only=True):
    """The value of the root's key."""

    machine: Name
    host: Host
    port: Port
    term: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Try to become root with this term."""

    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Speak to this root from now on."""

    root: RootKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Abdicate:
    """Somebody else is root now, or nobody: stop acting as one."""

    reason: str


@dataclass(slots=True, kw_only=True)
class Election:
    """One agent's view of who is root.

    Invariant: term never falls."""

    machine: str
    term: int = 0
    root: RootKey | None = None

    @property
    def is_root(self) -> bool:
        return self.root is not None and self.root.machine == self.machine

    def observe(
        self, root: RootKey | None, *, term: int
    ) -> list[Campaign | Follow | Abdicate]:
        """Takes what the store says now: the root's key, and the newest term."""
        was_root = self.is_root
        before = self.root
        self.term = max(self.term, term, root.term if root else 0)
        self.root = root
        actions: list[Campaign | Follow | Abdicate] = []
        if was_root and (root is None or root != before):
            actions.append(Abdicate(reason="the root lease is no longer ours"))
        if root is None:
            actions.append(Campaign(term=self.term + 1))
        elif root != before:
            actions.append(Follow(root=root))
        return actions

    def accepts(self, term: int) -> bool:
        """Whether words of `term` still count; remembers a newer one."""
        self.term = max(self.term, term)
        return term == self.term
