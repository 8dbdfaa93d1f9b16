"""An agent's seat in the key-value store: its lease, and the root's while it is root.

Keys:
    live/machines/NAME  the machine's Join, under its lease: gone when it is silent
    live/root           the root's RootKey, under its lease
    live/term           the newest term, kept for ever
    plan                what the next root needs
    recoveries/N        timelines
    status              what `twinstep status` shows
    result              the job is over

Threads of this file renew leases; census.py watches, scribe.py writes. What they see
is handed to the agent's loop. A machine whose lease is gone although it lives takes its
seat again at once (docs/design/agents.md, "A seat that is lost"): whether it still has
its place among those who train is the root's word, not its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from twinstep.agent.census import MACHINES, ROOT, TERM, Census, term_of
from twinstep.agent.election import RootKey
from twinstep.agent.kv import (
    Compare,
    Item,
    KeyValueStore,
    Lease,
    LeaseGone,
    Put,
    absent,
)
from twinstep.agent.lifeline import prefer_thread
from twinstep.agent.scribe import Scribe
from twinstep.clock import monotonic_s
from twinstep.config import Timing
from twinstep.errors import DeadlinePassed, TwinstepError, UsageError

PLAN = "plan"
RECOVERIES = "recoveries/"
STATUS = "status"
RESULT = "result"
__all__ = ["MACHINES", "PLAN", "RECOVERIES", "RESULT", "ROOT", "STATUS", "Seat"]
Found = TypeVar("Found")


class Seat:
    """Keeps one machine's keys alive and tells its agent what changed.

    `post` runs a function in the agent's loop; `log` says a line there. `on_machine`
    tells of each machine that comes (True) or goes. `on_lost` is called when the seat
    is lost for good, with why: another agent has it, or the store is away too long."""

    def __init__(
        self,
        store: KeyValueStore,
        *,
        machine: str,
        timing: Timing,
        post: Callable[[Callable[[], None]], None],
        on_root: Callable[[RootKey | None, int], None],
        on_machine: Callable[[str, bool], None],
        on_lost: Callable[[str], None],
        log: Callable[[str], None],
    ) -> None:
        self._store, self._machine, self._timing = store, machine, timing
        self._key, self._value = MACHINES + machine, b""
        self._post, self._on_lost, self._log = post, on_lost, log
        self._on_machine = on_machine
        self._ended = threading.Event()
        self._hurry = threading.Event()
        self._leases: dict[str, Lease] = {}
        self._renewed_s: dict[str, float] = {}
        self._created = 0  # revision of our root key, by which writes are fenced
        self._term = 0
        self._scribe = Scribe(store, pause_s=timing.tick_s, note=self._say)
        self._census = Census(
            store,
            timing=timing,
            on_root=lambda root, term: post(lambda: on_root(root, term)),
            on_machine=self._machine_seen,
        )

    # This machine's seat.

    def take(self, value: bytes) -> None:
        """The machine is known from now on.

        Raises: DeadlinePassed when the store does not answer in time; UsageError when
            another agent has this name and lives."""
        self._value = value
        lease = self._sit(within_s=self._timing.store_start_s_max)
        self._keep(self._key, lease)
        self._begin("lease", lambda: self._live(lease))
        self._census.start()

    def _sit(self, *, within_s: float) -> Lease:
        """Puts this machine's key under a new lease, and waits for that until another
        life of its name is over.

        Raises: DeadlinePassed; UsageError naming who has the seat."""
        started_s = monotonic_s()
        lease = self._repeated(
            lambda: self._store.grant(self._timing.silence_s_max), within_s
        )
        # The other life's lease is like ours; the store may be late to end it.
        patience_s = lease.ttl_s + self._timing.silence_s_max
        said = False
        while True:
            other = self._repeated(lambda: self._put_seat(lease), within_s)
            if other is None:
                return lease
            if self._ended.is_set() or monotonic_s() - started_s > patience_s:
                with contextlib.suppress(TwinstepError):
                    lease.revoke()
                raise UsageError(
                    f"another agent is machine {self._machine} of this job and lives "
                    f"({_whereabouts(other)}): it has kept its lease for "
                    f"{patience_s:g} s since; end it, or give this one another name"
                )
            if not said:
                said = True
                self._say(
                    f"waits for {self._machine} ({_whereabouts(other)}), an agent of "
                    f"the same name, to leave or to lapse, at most {patience_s:g} s"
                )
            self._ended.wait(self._timing.tick_s)
            lease.renew()

    def _put_seat(self, lease: Lease) -> Item | None:
        """Puts this machine's key, unless there is one: returns that.

        Raises: DeadlinePassed when it may have been put and nobody can tell."""
        put = Put(key=self._key, value=self._value, lease=lease.id)
        with contextlib.suppress(DeadlinePassed):
            if self._store.transact([put], when=[absent(self._key)])[0]:
                return None
        item = self._store.get(self._key)[1].get(self._key)
        if item is None:
            raise DeadlinePassed(f"{self._key} was not put in time")
        return None if item.lease == lease.id else item

    def _live(self, lease: Lease) -> None:
        """Renews the machine's lease; takes the seat again if it is lost."""
        prefer_thread()
        away = False
        while self._wait_to_renew():
            at_s = monotonic_s()
            try:
                if not lease.renew():
                    lease = self._sit(within_s=self._timing.call_s_max)
                    self._leases[self._key] = lease
                    silent_s = at_s - self._renewed_s[self._key]
                    self._say(
                        f"its lease was gone, {silent_s:.1f} s after it was renewed; "
                        "the machine has taken its seat again"
                    )
                self._renewed_s[self._key] = at_s
                if away:
                    away = False
                    self._say("the key-value store answers again")
            except UsageError as error:
                return self._lose(str(error))
            except TwinstepError as error:
                silent_s = monotonic_s() - self._renewed_s[self._key]
                if silent_s > self._timing.store_s_max:
                    return self._lose(
                        f"the key-value store was away for {silent_s:.0f} s: {error}"
                    )
                if not away and silent_s > lease.ttl_s:
                    away = True
                    self._say(
                        "the key-value store does not answer; training goes on, and "
                        f"what needs a lease waits: {error}"
                    )
        return None

    def _lose(self, reason: str) -> None:
        self._leases.pop(self._key, None)
        text = f"its seat is lost: {reason}"
        self._post(lambda: self._on_lost(text))

    def _wait_to_renew(self) -> bool:
        self._hurry.wait(self._timing.renew_s)
        self._hurry.clear()
        return not self._ended.is_set()

    def _machine_seen(self, name: str, here: bool) -> None:
        if name == self._machine and not here:
            self._hurry.set()  # the lease is gone; its thread looks at once
        self._post(lambda: self._on_machine(name, here))

    @property
    def overdue(self) -> bool:
        """Whether the machine's lease may be over, as far as this machine knows."""
        return self._is_overdue(self._key)

    # The root's seat.

    def campaign(self, root: RootKey) -> None:
        """Tries to become root; the census tells whether that came true."""
        self.run(lambda: self._campaign(root))

    def _campaign(self, root: RootKey) -> None:
        item = self._store.get(TERM)[1].get(TERM)
        if term_of(item) >= root.term:
            return  # somebody was faster; the census has told, or will
        at_s = monotonic_s()
        lease = self._store.grant(self._timing.silence_s_max)
        same_term = (
            absent(TERM)
            if item is None
            else Compare(key=TERM, what="value", equals=item.value)
        )
        put = Put(key=ROOT, value=msgspec.json.encode(root), lease=lease.id)
        try:
            self._store.transact(
                [put, Put(key=TERM, value=str(root.term).encode())],
                when=[absent(ROOT), same_term],
            )
        except DeadlinePassed as error:
            self._say(f"it may be root of term {root.term}, and looks: {error}")
        except LeaseGone:
            return
        # Whether that was done, or came about later than anybody waited, the key says.
        created = self._repeated(lambda: self._mine(lease), lease.ttl_s)
        if not created:
            lease.revoke()  # a write that is still under way is refused without it
            return
        self._created, self._term = created, root.term
        self._keep(ROOT, lease, at_s)
        self._begin("root", lambda: self._reign(lease))

    def _mine(self, lease: Lease) -> int:
        """The revision at which the root's key came to be, if it is under `lease`."""
        item = self._store.get(ROOT)[1].get(ROOT)
        return item.created if item is not None and item.lease == lease.id else 0

    def _reign(self, lease: Lease) -> None:
        """Renews the root's lease for as long as that is possible."""
        prefer_thread()
        while not self._ended.wait(self._timing.renew_s):
            at_s = monotonic_s()
            try:
                if not lease.renew():
                    break
                self._renewed_s[ROOT] = at_s
            except TwinstepError:
                if monotonic_s() - self._renewed_s[ROOT] > self._timing.store_s_max:
                    break
        if self._leases.get(ROOT) is lease and not self._ended.is_set():
            del self._leases[ROOT]

    def holds(self, term: int) -> bool:
        """Whether this machine won the election of `term`, and renews its lease."""
        return self._term == term and ROOT in self._leases

    @property
    def may_decide(self) -> bool:
        """Whether the root's lease is surely not over: nobody else can be root yet.

        False after a pause of this process, before anything else can tell it."""
        return ROOT in self._leases and not self._is_overdue(ROOT)

    def still_root(self) -> bool:
        """Asks the store. Raises: TwinstepError."""
        item = self._store.get(ROOT)[1].get(ROOT)
        return item is not None and item.created == self._created

    @property
    def fence(self) -> Sequence[Compare]:
        """Holds while the root's key is the one that this machine created."""
        return [Compare(key=ROOT, what="created", equals=self._created)]

    def save(
        self, key: str, value: bytes, then: Callable[[], None] | None = None
    ) -> None:
        """Puts a key, if this machine is still root when that is done; `then` is
        called in another thread once it is."""
        self._scribe.save(key, value, created=self._created, then=then)

    def run(self, work: Callable[[], None]) -> None:
        """Does `work` with the store, in the store's thread."""
        self._scribe.run(work)

    # What is there.

    def machines(self) -> set[str]:
        """The machines whose lease lives. Raises: TwinstepError."""
        _, items = self._store.get(MACHINES)
        return {key.removeprefix(MACHINES) for key in items}

    def plan(self) -> bytes | None:
        """What the former root wrote down. Raises: TwinstepError."""
        item = self._store.get(PLAN)[1].get(PLAN)
        return item.value if item else None

    def leave(self) -> None:
        """What was to be saved is saved; then the leases are given back, at once where
        the store answers and within some calls' time where it does not.

        In this order: a write is refused once this machine is no longer root, and the
        last one is the job's result."""
        self._ended.set()
        self._hurry.set()
        self._census.close()
        self._scribe.close(2 * self._timing.call_s_max)
        if self._leases and not self.overdue:
            for lease in list(self._leases.values()):
                with contextlib.suppress(TwinstepError):
                    lease.revoke()

    # Leases.

    def _keep(self, key: str, lease: Lease, at_s: float | None = None) -> None:
        self._leases[key] = lease
        self._renewed_s[key] = monotonic_s() if at_s is None else at_s

    def _is_overdue(self, key: str) -> bool:
        lease = self._leases.get(key)
        ttl_s = lease.ttl_s if lease is not None else 0.0
        return monotonic_s() - self._renewed_s.get(key, 0.0) > ttl_s

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        name = f"twinstep-{name}"
        threading.Thread(target=work, name=name, daemon=True).start()

    def _repeated(self, call: Callable[[], Found], within_s: float) -> Found:
        """Makes a call that may be made twice until it has an answer.

        Raises: DeadlinePassed after `within_s`, or when the agent leaves."""
        until_s = monotonic_s() + within_s
        while True:
            try:
                return call()
            except DeadlinePassed:
                if monotonic_s() > until_s or self._ended.is_set():
                    raise
                self._ended.wait(self._timing.tick_s)

    def _say(self, text: str) -> None:
        self._post(lambda: self._log(text))


def _whereabouts(item: Item) -> str:
    """Where the agent that put a machine's key is, as far as that can be read."""
    with contextlib.suppress(msgspec.DecodeError, AttributeError):
        join = msgspec.json.decode(item.value)
        return f"{join.get('host')}:{join.get('port')}"
    return "at an address that cannot be read"
