"""An agent's seat in the key-value store: its lease, and who is root.

Keys:
    live/machines/NAME  the machine's Join, under its lease: gone when it is silent
    live/root           the root's RootKey, under its lease
    live/term           the newest term, kept for ever
    plan                what the next root needs
    recoveries/N        timelines
    status              what `twinstep status` shows
    result              the job is over

Threads of this file renew leases and watch; what they see is handed to the agent's
loop. A lease that could not be renewed in its life is over, whatever the store says.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from twinstep.agent.election import RootKey
from twinstep.agent.kv import (
    Compacted,
    Compare,
    Event,
    KeyValueStore,
    Lease,
    Put,
    absent,
)
from twinstep.agent.lifeline import prefer_thread
from twinstep.clock import monotonic_s
from twinstep.config import Timing
from twinstep.errors import TwinstepError

LIVE = "live/"
MACHINES = "live/machines/"
ROOT = "live/root"
TERM = "live/term"
PLAN = "plan"
RECOVERIES = "recoveries/"
STATUS = "status"
RESULT = "result"


class Seat:
    """Keeps one machine's keys alive and tells its agent what changed.

    `post` runs a function in the agent's loop. `on_lost` is called when the
    machine's own lease is over: the agent must stop, others count on it."""

    def __init__(
        self,
        store: KeyValueStore,
        *,
        machine: str,
        timing: Timing,
        post: Callable[[Callable[[], None]], None],
        on_root: Callable[[RootKey | None, int], None],
        on_machine_gone: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._store, self._machine, self._timing = store, machine, timing
        self._post, self._on_root = post, on_root
        self._on_machine_gone, self._on_lost = on_machine_gone, on_lost
        self._ended = threading.Event()
        self._leases: dict[str, Lease] = {}
        self._created = 0  # revision of our root key, by which writes are fenced
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="twinstep-store")

    def take(self, value: bytes) -> None:
        """The machine is known from now on. Raises: TwinstepError."""
        lease = self._store.grant(self._timing.silence_s_max)
        key = MACHINES + self._machine
        done, _ = self._store.transact([Put(key=key, value=value, lease=lease.id)])
        assert done
        self._keep(key, lease, self._on_lost)
        threading.Thread(target=self._watch, name="twinstep-watch", daemon=True).start()

    def campaign(self, root: RootKey) -> None:
        """Tries to become root; the watch tells whether that came true."""
        self.run(lambda: self._campaign(root))

    def _campaign(self, root: RootKey) -> None:
        term = str(root.term).encode()
        _, items = self._store.get(TERM)
        item = items.get(TERM)
        if item is not None and int(item.value) >= root.term:
            return  # somebody was faster; the watch has told, or will
        lease = self._store.grant(self._timing.silence_s_max)
        same_term = (
            absent(TERM)
            if item is None
            else Compare(key=TERM, what="value", equals=item.value)
        )
        done, revision = self._store.transact(
            [
                Put(key=ROOT, value=msgspec.json.encode(root), lease=lease.id),
                Put(key=TERM, value=term),
            ],
            when=[absent(ROOT), same_term],
        )
        if not done:
            lease.revoke()
            return
        self._created = revision
        self._keep(ROOT, lease, lambda _reason: None)

    def save(self, key: str, value: bytes) -> None:
        """Puts a key in order, if this machine is still root."""
        self.run(lambda: self._save(key, value))

    def run(self, work: Callable[[], None]) -> None:
        """Does `work` with the store, in order, in the store's thread."""
        if not self._ended.is_set():
            self._writer.submit(self._guarded, work)

    def _save(self, key: str, value: bytes) -> None:
        mine = Compare(key=ROOT, what="created", equals=self._created)
        self._store.transact([Put(key=key, value=value)], when=[mine])

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except TwinstepError as error:
            text = f"key-value store: {error}"
            self._post(lambda: self._note(text))

    def _note(self, text: str) -> None:
        print(f"twinstep: {self._machine}: {text}", flush=True)

    # Leases.

    def _keep(self, key: str, lease: Lease, on_lost: Callable[[str], None]) -> None:
        self._leases[key] = lease
        arguments = (key, lease, on_lost)
        name = f"twinstep-lease-{key}"
        threading.Thread(
            target=self._renew, args=arguments, name=name, daemon=True
        ).start()

    def _renew(self, key: str, lease: Lease, on_lost: Callable[[str], None]) -> None:
        prefer_thread()
        renewed_s = monotonic_s()
        reason = "it lapsed"
        while not self._ended.wait(self._timing.renew_s):
            try:
                if not lease.renew():
                    break
                renewed_s = monotonic_s()
            except TwinstepError as error:
                reason = str(error)
                # The store is away: nobody can take over either, so go on asking.
                if monotonic_s() - renewed_s > 100 * self._timing.silence_s_max:
                    break
        if not self._ended.is_set():
            self._leases.pop(key, None)
            text = f"the lease of {key} is lost: {reason}"
            self._post(lambda: on_lost(text))

    # Watching.

    def _watch(self) -> None:
        known: set[str] = set()
        while not self._ended.is_set():
            try:
                revision, items = self._store.get(LIVE)
                known = self._all(set(items), known)
                watch = self._store.watch(LIVE, after=revision)
                try:
                    while not self._ended.is_set():
                        for event in watch.next(self._timing.call_s_max):
                            self._see(event, known)
                finally:
                    watch.close()
            except Compacted:
                continue
            except TwinstepError:
                self._ended.wait(self._timing.tick_s)

    def _all(self, keys: set[str], known: set[str]) -> set[str]:
        """Tells the present state, after a gap in what was seen."""
        now = {key for key in keys if key.startswith(MACHINES)}
        for key in sorted(known - now):
            name = key.removeprefix(MACHINES)
            self._post(lambda name=name: self._on_machine_gone(name))
        self._look()
        return now

    def _see(self, event: Event, known: set[str]) -> None:
        if event.key.startswith(MACHINES):
            if event.item is not None:
                known.add(event.key)
                return
            known.discard(event.key)
            name = event.key.removeprefix(MACHINES)
            self._post(lambda: self._on_machine_gone(name))
        elif event.key == ROOT:
            self._look(event)

    def _look(self, event: Event | None = None) -> None:
        """Reads who is root and the newest term, and tells the agent."""
        _, items = self._store.get(LIVE)
        root, term = items.get(ROOT), items.get(TERM)
        if event is not None and event.item is None:
            root = None if root is None or root.created < event.revision else root
        key = msgspec.json.decode(root.value, type=RootKey) if root else None
        number = int(term.value) if term else 0
        self._post(lambda: self._on_root(key, number))

    def machines(self) -> set[str]:
        """The machines whose lease lives. Raises: TwinstepError."""
        _, items = self._store.get(MACHINES)
        return {key.removeprefix(MACHINES) for key in items}

    def plan(self) -> bytes | None:
        _, items = self._store.get(PLAN)
        item = items.get(PLAN)
        return item.value if item else None

    def leave(self) -> None:
        """What was to be saved is saved; then the leases are given back.

        In this order: a write is refused once this machine is no longer root, and the
        last one is the job's result."""
        self._ended.set()
        self._writer.shutdown(wait=True)
        for lease in list(self._leases.values()):
            with contextlib.suppress(TwinstepError):
                lease.revoke()
