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

    The .metadata comes first: without it a step is none, whatever else is there.

    Args:
      folders: the files in each step's folder.
      kept: the data files of each whole step that stays."""
    tables = (stored.CONTENTS, stored.METADATA)
    gone = {
        step: sorted(
            (
                name
                for name in names
                if stored.is_ours(name)
                and name not in kept.get(step, ())
                and not (step in kept and name in tables)
            ),
            key=lambda name: (name != stored.METADATA, name),
        )
        for step, names in folders.items()
    }
    return {step: names for step, names in gone.items() if names}
