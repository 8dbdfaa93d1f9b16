"""What of a store is not trained on, and why: a file beside the manifest.

    STORE/removed.json     for each task: item -> reasons, such as
                           "stop_words 0.02, allowed 0.06 to inf"
                           "13 words of docstring 17 (module json)"

The store stays as it is; the mixture passes these items over (pipeline.py). So a rule
can be changed, and what it removed looked at, without making anything again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from twinstep.decoder.data.decontaminate import EvaluationIndex
from twinstep.decoder.data.prepared import Examples
from twinstep.decoder.data.quality import TEXT_TASKS, judge_example
from twinstep.errors import Corrupt, UsageError

NAME = "removed.json"
BYTES_MAX = 1 << 26

Item = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """`identity` is the manifest's: of another store the items are others."""

    identity: str
    reasons: dict[str, dict[Item, tuple[str, ...]]] = {}

    def items(self) -> dict[str, list[int]]:
        """Returns the items of each task that are not shown."""
        return {task: sorted(found) for task, found in self.reasons.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns how many items of each task each rule removed; an item that two
        rules remove counts for both."""
        return {
            task: dict(
                Counter(
                    "contaminated" if " of " in reason else reason.split()[0]
                    for reasons in found.values()
                    for reason in reasons
                ).most_common()
            )
            for task, found in self.reasons.items()
        }


class Stored(Examples, Protocol):
    """A store that can say which tasks it has."""

    def tasks(self) -> Sequence[str]: ...


def remove(
    store: Stored,
    *,
    tasks: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Removal:
    """Judges each training example of these tasks (all), looks for every held-out item
    of every task in it, and returns what is to be removed, written beside the manifest.
    `progress(task, done, total)` is told."""
    index = EvaluationIndex(
        item for task in store.tasks() for item in store.examples(task, "held_out")
    )
    reasons: dict[str, dict[int, tuple[str, ...]]] = {}
    for task in tasks or store.tasks():
        examples = store.examples(task, "train")
        found: dict[int, tuple[str, ...]] = {}
        for number, example in enumerate(examples):
            why: list[str] = []
            if task in TEXT_TASKS:
                why += map(str, judge_example(example))
            if (match := index.find(example)) is not None:
                why.append(str(match))
            if why:
                found[number] = tuple(why)
            if number % 1000 == 0:
                progress(task, number, len(examples))
        progress(task, len(examples), len(examples))
        reasons[task] = found
    removal = Removal(identity=store.manifest.identity, reasons=reasons)
    _write(store.folder, removal)
    return removal


def _write(folder: Path, removal: Removal) -> None:
    plain = msgspec.json.format(msgspec.json.encode(removal), indent=1)
    new = folder / f"{NAME}.{os.getpid()}.part"
    new.write_bytes(plain + b"\n")
    new.replace(folder / NAME)


def removed(store: Examples) -> Mapping[str, Sequence[int]]:
    """Returns the items of each task that are not shown; nothing when remove() was not
    run. Raises: UsageError when it was run for other data, Corrupt for nonsense."""
    path = store.folder / NAME
    if not path.is_file():
        return {}
    if path.stat().st_size > BYTES_MAX:
        raise Corrupt(f"{path} has more than {BYTES_MAX} bytes; remove it")
    try:
        removal = msgspec.json.decode(path.read_bytes(), type=Removal)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} makes no sense ({error}); remove it") from None
    if removal.identity != store.manifest.identity:
        raise UsageError(
            f"{path} was written for other data than is in {store.folder} now; judge "
            "it again (removal.remove), or remove the file to train on everything"
        )
    return removal.items()
