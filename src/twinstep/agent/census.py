"""Tells an agent who is alive and who is root, as the key-value store sees it.

One thread watches the keys that live under leases. A machine is here while its key is;
it is gone with the deletion of the key, or when the key is not among those that are
read after a gap in what was seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

import msgspec

from twinstep.agent.election import RootKey
from twinstep.agent.kv import Compacted, Event, Item, KeyValueStore, Watch
from twinstep.bounds import Count
from twinstep.config import Timing
from twinstep.errors import TwinstepError

LIVE = "live/"
MACHINES = "live/machines/"
ROOT = "live/root"
TERM = "live/term"


@final
class Census:
    """Watches who lives; what it sees is told in its own thread.

    `on_machine(name, here)` is called for each machine that comes or goes, `on_root`
    with the root's key, or None while there is none, and the newest term."""

    def __init__(
        self,
        store: KeyValueStore,
        *,
        timing: Timing,
        on_root: Callable[[RootKey | None, int], None],
        on_machine: Callable[[str, bool], None],
    ) -> None:
        self._store, self._timing = store, timing
        self._on_root, self._on_machine = on_root, on_machine
        self._ended = threading.Event()
        self._watch: Watch | None = None
        self._here: set[str] = set()

    def start(self) -> None:
        name = "twinstep-watch"
        threading.Thread(target=self._follow, name=name, daemon=True).start()

    def close(self) -> None:
        """Nothing is told from now on; the thread ends within a call's time."""
        self._ended.set()
        watch = self._watch
        if watch is not None:
            watch.close()

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                revision, items = self._store.get(LIVE)
                self._all({key for key in items if key.startswith(MACHINES)})
                watch = self._watch = self._store.watch(LIVE, after=revision)
                try:
                    while not self._ended.is_set():
                        for event in watch.next(self._timing.call_s_max):
                            self._see(event)
                finally:
                    watch.close()
            except Compacted:
                continue
            except TwinstepError:
                self._ended.wait(self._timing.tick_s)

    def _all(self, now: set[str]) -> None:
        """Tells the present state, after a gap in what was seen."""
        for key in sorted(self._here ^ now):
            self._tell(key, key in now)
        self._look()

    def _see(self, event: Event) -> None:
        if event.key.startswith(MACHINES):
            self._tell(event.key, event.item is not None)
        elif event.key == ROOT:
            self._look(event)

    def _tell(self, key: str, here: bool) -> None:
        (self._here.add if here else self._here.discard)(key)
        if not self._ended.is_set():
            self._on_machine(key.removeprefix(MACHINES), here)

    def _look(self, event: Event | None = None) -> None:
        """Reads who is root and the newest term, and tells the agent."""
        _, items = self._store.get(LIVE)
        root, term = items.get(ROOT), items.get(TERM)
        if event is not None and event.item is None:
            root = None if root is None or root.created < event.revision else root
        key, newest = root_of(root), term_of(term)
        if not self._ended.is_set():
            self._on_root(key, newest)


def root_of(item: Item | None) -> RootKey | None:
    """Who is root; nobody, where the key holds what no root has put there. Whoever has
    the job's credentials may have put it; a thread that ended here would leave this
    machine deaf for ever, and the next root puts another."""
    if item is None:
        return None
    try:
        return msgspec.json.decode(item.value, type=RootKey)
    except (ValueError, RecursionError):
        return None


def term_of(item: Item | None) -> int:
    """The newest term; 0 where the key holds no number that a term can be."""
    if item is None:
        return 0
    try:
        return msgspec.json.decode(item.value, type=Count)
    except (ValueError, RecursionError):
        return 0
