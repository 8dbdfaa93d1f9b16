"""The storage as a root's agent sees it: what it holds, and steps made whole.

Both take as long as the storage takes, in a thread; what came of it is then decided on
in the agent's loop, by the root that asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from twinstep.agent import actions as do, filing
from twinstep.agent.draining import Looked, Made, StoredStep
from twinstep.errors import TwinstepError
from twinstep.storage_settings import Storage
from twinstep.store import contents as stored
from twinstep.store.contents import Contents
from twinstep.store.places import Place, place_of
from twinstep.store.reading import Found, look
from twinstep.store.retention import leftovers, to_remove
from twinstep.store.writing import make_whole

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


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

    def serve(self, action: do.LookInStorage | do.MakeWhole, root: Root) -> None:
        """Begins to do it; the root hears what came of it."""

        def work() -> None:
            if isinstance(action, do.MakeWhole):
                new = made(self._settings, action)
                self._decide(root, lambda root: filing.made(root, new))
                return
            seen = looked(self._settings)
            self._decide(root, lambda root: filing.found(root, seen))

        threading.Thread(target=work, name="twinstep-depot", daemon=True).start()


def looked(settings: Storage) -> Looked:
    """Looks at every step of the storage. Raises nothing: it is said in the answer."""
    try:
        place = place_of(settings.path, settings.options)
        found = look(place, steps_max=settings.steps_max)
    except (OSError, TwinstepError) as error:
        return Looked(steps=None, trouble=_words(error))
    notes = [
        f"{one.folder} is passed over: {one.reason}" for one in found if not one.whole
    ]
    steps = [_stored(one.contents) for one in found if one.contents is not None]
    return Looked(steps=steps, notes=notes)


def made(settings: Storage, action: do.MakeWhole) -> Made:
    """All parts are one step afterwards, and what is old is gone. Raises nothing."""
    try:
        place = place_of(settings.path, settings.options)
        whole = make_whole(place, step=action.step, names=action.parts)
    except (OSError, ValueError, TwinstepError) as error:
        return Made(whole=None, trouble=_words(error))
    try:
        gone = _tidy(place, settings, newest=action.step)
    except (OSError, TwinstepError):
        gone = []  # the next step's turn tries again
    return Made(whole=_stored(whole), gone=gone)


def _tidy(place: Place, settings: Storage, *, newest: int) -> list[int]:
    """Removes old steps and the rest of attempts that were given up; returns which."""
    found = [one for one in look(place, steps_max=settings.steps_max) if _ours(one)]
    past = [one for one in found if one.step <= newest]
    whole = {one.step: one.contents for one in past if one.contents is not None}
    gone = to_remove(
        sorted(whole),
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
        newest=newest,
    )
    kept = {
        step: [file.name for file in contents.files]
        for step, contents in whole.items()
        if step not in gone
    }
    folders = {one.step: list(place.sizes(one.folder)) for one in past}
    for step, names in leftovers(folders, kept).items():
        # Without its table a step is none, whatever else is still there.
        first = sorted(names, key=lambda name: name != stored.METADATA)
        place.remove(stored.folder_name(step), first)
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
