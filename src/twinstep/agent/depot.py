"""The storage as a root's agent sees it: what it holds, and steps made whole.

Both take as long as the storage takes, in a thread; what came of it is then decided on
in the agent's loop, by the root that asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

from twinstep.agent import actions as do, filing
from twinstep.agent.draining import Looked, Made, StoredStep
from twinstep.storage_settings import Storage
from twinstep.store import contents as stored
from twinstep.store.contents import Contents
from twinstep.store.places import Place, place_of
from twinstep.store.reading import Found, look
from twinstep.store.retention import leftovers, to_remove
from twinstep.store.writing import make_whole

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root

NOTES_MAX = 20
"""Folders that are passed over are named in the log, so many of the newest."""

HANGS = "has not answered an earlier call yet"

Wanted: TypeAlias = do.LookInStorage | do.MakeWhole | do.TidyStorage


@final
class Depot:
    """Does what a root wants of the storage.

    `decide` runs a root's decision in the loop, if it is root still."""

    def __init__(
        self,
        settings: Storage,
        decide: Callable[[Root, Callable[[Root], Actions]], None],
    ) -> None:
        self._settings, self._decide = settings, decide
        self._busy: dict[type, threading.Thread] = {}

    def serve(self, action: Wanted, root: Root) -> None:
        """Begins to do it; the root hears what came of it. Of each kind one thread at
        most hangs: while it does, the next is told so."""
        before = self._busy.get(type(action))
        if before is not None and before.is_alive():
            self._tell(root, _refused(action, f"{self._settings.path} {HANGS}"))
            return

        def work() -> None:
            self._tell(root, _done(self._settings, action))

        thread = threading.Thread(target=work, name="twinstep-depot", daemon=True)
        self._busy[type(action)] = thread
        thread.start()

    def _tell(self, root: Root, done: Looked | Made | None) -> None:
        match done:
            case Looked():
                self._decide(root, lambda root: filing.found(root, done))
            case Made():
                self._decide(root, lambda root: filing.made(root, done))
            case None:
                pass


def _done(settings: Storage, action: Wanted) -> Looked | Made | None:
    match action:
        case do.LookInStorage():
            return looked(settings)
        case do.MakeWhole():
            return made(settings, action)
        case do.TidyStorage(newest=newest):
            tidied(settings, newest=newest)
            return None


def _refused(action: Wanted, reason: str) -> Looked | Made | None:
    match action:
        case do.LookInStorage():
            return Looked(steps=None, trouble=reason)
        case do.MakeWhole():
            return Made(whole=None, trouble=reason)
        case do.TidyStorage():
            return None


def looked(settings: Storage) -> Looked:
    """Looks at every step of the storage. Raises nothing: it is said in the answer."""
    steps: list[StoredStep] = []
    notes: list[str] = []
    try:
        place = place_of(settings.path, settings.options)
        for one in look(place, steps_max=settings.steps_max):
            if one.contents is not None:
                steps.append(_stored(one.contents))
            else:
                notes.append(f"{one.folder} is passed over: {one.reason}")
    except Exception as error:
        return Looked(steps=None, trouble=_words(error))
    more = len(notes) - NOTES_MAX
    if more > 0:
        notes = [f"{more} older folders are passed over", *notes[more:]]
    return Looked(steps=steps, notes=notes)


def made(settings: Storage, action: do.MakeWhole) -> Made:
    """All parts are one step afterwards, and what is old is gone. Raises nothing."""
    try:
        place = place_of(settings.path, settings.options)
        whole = _stored(make_whole(place, step=action.step, names=action.parts))
    except Exception as error:
        return Made(whole=None, trouble=_words(error))
    return Made(whole=whole, gone=tidied(settings, newest=action.step))


def tidied(settings: Storage, *, newest: int) -> list[int]:
    """Old steps, and the rest of attempts that were given up, are gone as far as the
    storage allows; returns which steps. Raises nothing: the next turn tries again."""
    try:
        return _tidy(place_of(settings.path, settings.options), settings, newest)
    except Exception:
        return []


def _tidy(place: Place, settings: Storage, newest: int) -> list[int]:
    kept: dict[int, list[str]] = {}
    past: dict[int, list[str]] = {}
    for one in look(place, steps_max=settings.steps_max):
        if one.step > newest or not _ours(one):
            continue
        past[one.step] = list(place.sizes(one.folder))
        if one.contents is not None:
            kept[one.step] = stored.names_of(one.contents)
    gone = to_remove(
        sorted(kept),
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        newest=newest,
    )
    for step in gone:
        del kept[step]
    for step, names in leftovers(past, kept).items():
        place.remove(stored.folder_name(step), names)
    return gone


def _ours(found: Found) -> bool:
    """Whether the folder is twinstep's: a checkpoint of somebody else stays."""
    return found.whole or not found.foreign


def _stored(contents: Contents) -> StoredStep:
    return StoredStep(
        step=contents.step,
        captured_in=contents.captured_in,
        machines=contents.machines,
        ranks_per_machine=contents.ranks_per_machine,
        size=contents.size,
        written_s=contents.written_s,
    )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
