"""Writes what a root decided into the key-value store, in order, and only as root.

Every write compares: the root's key is the one this machine created (a root that was
paused, or cut off, writes nothing over its successor's), and the key written is as it
was last seen (of a write that was made again because no answer came, the first may
still be under way, and must not undo a later one). A store that is away is asked again
until it answers: what waits is bounded by keeping only the newest value of a key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

from twinstep.agent.census import ROOT
from twinstep.agent.kv import Compare, KeyValueStore, Put, unchanged
from twinstep.errors import DeadlinePassed, TwinstepError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """One key's newest value, by the root whose key was created at `created`."""

    value: bytes
    created: int
    then: tuple[Callable[[], None], ...] = ()
    """Called, in the thread, when it is written."""


@final
class Scribe:
    """One thread that writes, and campaigns between two writes.

    Invariant: at most one value a key waits."""

    def __init__(
        self, store: KeyValueStore, *, pause_s: float, note: Callable[[str], None]
    ) -> None:
        self._store, self._pause_s, self._note = store, pause_s, note
        self._changed = threading.Condition()
        self._pages: dict[str, _Page] = {}
        self._work: list[Callable[[], None]] = []
        self._revisions: dict[str, int] = {}
        self._ended = False
        self._away = False
        self._refused = 0
        self._thread = threading.Thread(
            target=self._run, name="twinstep-store", daemon=True
        )
        self._thread.start()

    def save(
        self,
        key: str,
        value: bytes,
        *,
        created: int,
        then: Callable[[], None] | None = None,
    ) -> None:
        """The key will have this value, if nobody else is root by then; `then` is
        called in the thread once it, or a newer value in its place, is written."""
        with self._changed:
            if not self._ended:
                former = self._pages.pop(key, None)  # the order of the newest values
                calls = (*(former.then if former else ()), *([then] if then else ()))
                self._pages[key] = _Page(value=value, created=created, then=calls)
                self._changed.notify()

    def run(self, work: Callable[[], None]) -> None:
        """Does `work` in the thread, before what is saved later; errors are noted."""
        with self._changed:
            if not self._ended:
                self._work.append(work)
                self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """What waits is written, if that is possible within `timeout_s`."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            self._pages.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._pages or self._work or self._ended):
                    self._changed.wait()
                if not (self._pages or self._work):
                    return
                work = self._work.pop(0) if self._work else None
                key = "" if work else next(iter(self._pages))
                page = None if work else self._pages.pop(key)
            if work is not None:
                self._do(work)
            elif page is not None:
                self._write(key, page)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except TwinstepError as error:
            self._note(f"key-value store: {error}")

    def _write(self, key: str, page: _Page) -> None:
        try:
            if self._put(key, page):
                for then in page.then:
                    then()
            elif self._refused != page.created:
                self._refused = page.created
                self._note(f"{key} was not written: another machine is root")
            self._away = False
        except DeadlinePassed as error:
            self._revisions.pop(key, None)
            if not self._away:
                self._away = True
                self._note(f"{key} waits to be written: {error}")
            with self._changed:
                newer = self._pages.get(key)
                again = replace(newer, then=page.then + newer.then) if newer else page
                self._pages = {key: again, **self._pages}
                if not self._ended:
                    self._changed.wait(self._pause_s)
        except TwinstepError as error:
            self._note(f"{key} cannot be written: {error}")
            for then in page.then:  # or a job would stand still for it
                then()

    def _put(self, key: str, page: _Page) -> bool:
        """Writes a key; returns whether this machine was still root.

        Raises: DeadlinePassed, in which case it may have been written."""
        mine = Compare(key=ROOT, what="created", equals=page.created)
        while True:
            if key not in self._revisions:
                item = self._store.get(key)[1].get(key)
                self._revisions[key] = item.changed if item else 0
            done, revision = self._store.transact(
                [Put(key=key, value=page.value)],
                when=[mine, unchanged(key, self._revisions[key])],
            )
            if done:
                self._revisions[key] = revision
                return True
            del self._revisions[key]
            root = self._store.get(ROOT)[1].get(ROOT)
            if root is None or root.created != page.created:
                return False
