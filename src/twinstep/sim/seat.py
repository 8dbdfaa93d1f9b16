"""A simulated machine's seat in the key-value store: leases, writes, and who is there.

The rules of agent/seat.py, scribe.py and census.py, whose threads are processes here:
a seat that is lost is taken again; a write whose answer did not come is made again, and
counts only while this machine is still root; an election of which nobody knows whether
it succeeded is looked up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from twinstep.agent.begins import Begins
from twinstep.agent.census import LIVE, MACHINES, ROOT, TERM
from twinstep.agent.election import RootKey
from twinstep.agent.kv import (
    Compacted,
    Compare,
    Got,
    LeaseGone,
    Put,
    absent,
)
from twinstep.agent.seat import PLAN
from twinstep.errors import DeadlinePassed, TwinstepError
from twinstep.sim.events import Process, Signal, Step
from twinstep.sim.store import SimStore

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimSeat:
    """One machine's keys, and what it hears of the others'."""

    agent: SimAgent
    on_root: Callable[[RootKey | None, int], None]
    on_machine: Callable[[str, bool], None]
    leases: dict[str, int] = field(default_factory=dict[str, int])
    renewed_s: dict[str, float] = field(default_factory=dict[str, float])
    term: int = 0
    created: int = 0
    elected: int = 0
    """The lease under which this machine was last elected."""
    writes: deque[tuple[str, bytes, int, Begins | None]] = field(
        default_factory=deque[tuple[str, bytes, int, Begins | None]]
    )
    written: Signal = field(init=False)
    sitting: bool = False
    """Whether a lost seat is being taken again."""
    here: set[str] = field(default_factory=set[str])
    value: bytes = b""

    def __post_init__(self) -> None:
        self.written = self.agent.events.signal()

    @property
    def _key(self) -> str:
        return MACHINES + self.agent.name

    def _get(self, prefix: str) -> Step[Got]:
        return (yield from self.store.get(self.agent.name, prefix))

    @property
    def store(self) -> SimStore:
        return self.agent.world.store

    # This machine's seat.

    def take(self, value: bytes) -> None:
        self.value = value
        self.agent.start(self._live())
        self.agent.start(self._census())
        self.agent.start(self._write())

    def _sit(self) -> Step[bool]:
        """Puts this machine's key; False when somebody else's stays there."""
        timing = self.agent.job.timing
        lease = yield from self._granted()
        until_s = self.agent.events.now_s + 2 * timing.silence_s_max
        while True:
            put = Put(key=self._key, value=self.value, lease=lease)
            try:
                when = [absent(self._key)]
                if (yield from self.store.transact(self.agent.name, [put], when=when)):
                    break
            except DeadlinePassed:
                pass
            except LeaseGone:
                lease = yield from self._granted()
                continue
            found = yield from self._repeated_get(self._key)
            item = found.items.get(self._key)
            if item is not None and item.lease == lease:
                break
            if item is not None and self.agent.events.now_s > until_s:
                return False
            yield timing.tick_s
        self.leases[self._key] = lease
        self.renewed_s[self._key] = self.agent.events.now_s
        return True

    def _granted(self) -> Step[int]:
        timing = self.agent.job.timing
        while True:
            try:
                return (
                    yield from self.store.grant(self.agent.name, timing.silence_s_max)
                )
            except DeadlinePassed:
                yield timing.tick_s

    def _repeated_get(self, key: str) -> Step[Got]:
        while True:
            try:
                return (yield from self._get(key))
            except DeadlinePassed:
                yield self.agent.job.timing.tick_s

    def _live(self) -> Process:
        if not (yield from self._sit()):
            self.agent.leave("another agent has this name")
            return
        while True:
            yield self.agent.job.timing.renew_s
            at_s = self.agent.events.now_s
            try:
                lease = self.leases[self._key]
                renewed = yield from self.store.renew(self.agent.name, lease)
            except TwinstepError:
                continue
            if renewed:
                self.renewed_s[self._key] = at_s
                continue
            if self.leases[self._key] == lease:
                yield from self._retake()

    def _retake(self) -> Process:
        """The lease is lost, by a renewal or by what this machine's own watch tells."""
        if self.sitting:
            return
        self.sitting = True
        item = (yield from self._repeated_get(self._key)).items.get(self._key)
        if item is None or item.lease != self.leases[self._key]:
            self.agent.events.probe("seat: a lost lease is taken again")
            if not (yield from self._sit()):
                self.agent.leave("its seat is lost")
        self.sitting = False

    # The root's seat.

    def campaign(self, root: RootKey) -> None:
        self.agent.start(self._campaign(root))

    def _campaign(self, root: RootKey) -> Process:
        try:
            yield from self._stand(root)
        except TwinstepError:
            return

    def _stand(self, root: RootKey) -> Process:
        found = yield from self._get(TERM)
        item = found.items.get(TERM)
        if item is not None and int(item.value) >= root.term:
            return
        at_s = self.agent.events.now_s
        name = self.agent.name
        lease = yield from self.store.grant(name, self.agent.job.timing.silence_s_max)
        same = (
            absent(TERM)
            if item is None
            else Compare(key=TERM, what="value", equals=item.value)
        )
        put = Put(key=ROOT, value=msgspec.json.encode(root), lease=lease)
        term = Put(key=TERM, value=str(root.term).encode())
        try:
            when = [absent(ROOT), same]
            yield from self.store.transact(name, [put, term], when=when)
        except DeadlinePassed:
            self.agent.events.probe("seat: elected, perhaps")
        except LeaseGone:
            return
        item = (yield from self._repeated_get(ROOT)).items.get(ROOT)
        if item is None or item.lease != lease:
            yield from self.store.revoke(name, lease)
            return
        self.created, self.term, self.elected = item.created, root.term, lease
        self.leases[ROOT], self.renewed_s[ROOT] = lease, at_s
        self.agent.start(self._reign(lease))

    def _reign(self, lease: int) -> Process:
        while self.leases.get(ROOT) == lease:
            yield self.agent.job.timing.renew_s
            at_s = self.agent.events.now_s
            try:
                renewed = yield from self.store.renew(self.agent.name, lease)
            except TwinstepError:
                continue
            if not renewed:
                break
            self.renewed_s[ROOT] = at_s
        if self.leases.get(ROOT) == lease:
            del self.leases[ROOT]

    def holds(self, term: int) -> bool:
        return self.term == term and ROOT in self.leases

    @property
    def may_decide(self) -> bool:
        late_s = self.agent.events.now_s - self.renewed_s.get(ROOT, -1e9)
        return ROOT in self.leases and late_s <= self.agent.job.timing.silence_s_max

    # Writing, in order.

    def save(self, key: str, value: bytes, begins: Begins | None = None) -> None:
        self.writes.append((key, value, self.created, begins))
        self.written.set()

    @property
    def fence(self) -> Sequence[Compare]:
        return [Compare(key=ROOT, what="created", equals=self.created)]

    def _write(self) -> Process:
        while True:
            while not self.writes:
                yield self.written
            key, value, created, begins = self.writes[0]
            mine = Compare(key=ROOT, what="created", equals=created)
            try:
                done = yield from self.store.transact(
                    self.agent.name, [Put(key=key, value=value)], when=[mine]
                )
            except DeadlinePassed:
                yield self.agent.job.timing.tick_s
                continue
            self.writes.popleft()
            if not self.agent.events.probe("seat: a late write refused", not done):
                self.agent.world.saved(key, value)
                if begins is not None:
                    self.agent.rooting.plan_saved(begins)

    # Who is there.

    def _census(self) -> Process:
        store, name = self.store, self.agent.name
        while True:
            try:
                found = yield from self._get(LIVE)
                now = {key for key in found.items if key.startswith(MACHINES)}
                for key in sorted(self.here ^ now):
                    self._tell(key, key in now)
                yield from self._look()
                after = found.revision
                while True:
                    for event in (yield from store.changes(name, LIVE, after)):
                        after = max(after, event.revision)
                        if event.key.startswith(MACHINES):
                            self._tell(event.key, event.item is not None)
                        elif event.key == ROOT:
                            gone = event.revision if event.item is None else 0
                            yield from self._look(gone)
            except Compacted:
                continue
            except TwinstepError:
                yield self.agent.job.timing.tick_s

    def _tell(self, key: str, here: bool) -> None:
        (self.here.add if here else self.here.discard)(key)
        if key == self._key and not here and key in self.leases:
            self.agent.start(self._retake())
        self.on_machine(key.removeprefix(MACHINES), here)

    def _look(self, gone: int = 0) -> Process:
        found = yield from self._get(LIVE)
        root, term = found.items.get(ROOT), found.items.get(TERM)
        if gone and root is not None and root.created < gone:
            root = None
        key = msgspec.json.decode(root.value, type=RootKey) if root else None
        self.on_root(key, int(term.value) if term else 0)

    def plan(self) -> Step[bytes | None]:
        found = yield from self._get(PLAN)
        item = found.items.get(PLAN)
        return item.value if item else None

    def machines(self) -> Step[set[str]]:
        found = yield from self._get(MACHINES)
        return {key.removeprefix(MACHINES) for key in found.items}
