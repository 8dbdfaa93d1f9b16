"""Decides which files of a storage are of no use any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinstep.store import contents as stored


def to_remove(
    steps: Sequence[int], *, keep_last: int, keep_every: int, newest: int
) -> list[int]:
    """Returns which whole steps go, oldest first: those that are not among the newest
    `keep_last`, nor a multiple of `keep_every` (0: none is spared), nor later than
    `newest`, to which the run went back."""
    past = sorted(step for step in steps if step <= newest)
    return [
        step
        for step in past[:-keep_last]
        if not (keep_every and step % keep_every == 0)
    ]


def leftovers(
    folders: Mapping[int, Sequence[str]], kept: Mapping[int, Sequence[str]]
) -> dict[int, list[str]]:
    """Returns per step the files of twinstep's that no whole step has in its table: the
    rest of attempts that were given up. What else somebody keeps there stays.

    What makes it a step comes first: without that it is none, whatever else is there.

    Args:
      folders: the files in each step's folder.
      kept: the files of each whole step that stays."""
    lasts = stored.LAST.values()
    gone = {
        step: sorted(
            (
                name
                for name in names
                if stored.is_ours(name) and name not in kept.get(step, ())
            ),
            key=lambda name: (name not in lasts, name),
        )
        for step, names in folders.items()
    }
    return {step: names for step, names in gone.items() if names}
