"""What a root does about storage, as a part of its decisions (root.py, draining.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import messages as say, resizing
from twinstep.agent.draining import Looked, Made

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


def tick(root: Root) -> Actions:
    """Asks what the storage holds, and gives up what it does not take."""
    draining, now_s = root.draining, root.now_s
    late = draining.tick(now_s)
    return [*draining.look(now_s), *late, *resizing.follows(root)]


def found(root: Root, seen: Looked) -> Actions:
    """The storage has said what it holds, or cannot be read."""
    return [*root.draining.found(seen, now_s=root.now_s)]


def stored(root: Root, said: say.Stored) -> Actions:
    """A machine has written its part of a step, or could not."""
    resizing.heard(root, said)
    done = root.draining.hears(said, now_s=root.now_s)
    return [*done, *resizing.follows(root)]


def made(root: Root, new: Made) -> Actions:
    """A step is whole in storage, or could not be made so."""
    done = root.draining.made(new, now_s=root.now_s)
    return [*done, *resizing.follows(root)]


def bad(root: Root, said: say.StoredBad) -> Actions:
    """A rank could not load a stored step: the next best is gone back to."""
    if root.begin is None or not root.begin.stored or said.step != root.begin.step:
        return []
    root.draining.cannot_load(said)
    what = "cannot be loaded" if said.corrupt else "cannot be reached"
    reason = f"step {said.step} in storage {what}: {said.reason}"
    root.chronicle.stored_bad(reason)
    return root.new_round("copy", "storage", reason)
