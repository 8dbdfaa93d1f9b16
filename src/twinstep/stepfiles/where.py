"""What a path on the command line names: a storage, or one folder with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinstep.errors import UsageError
from twinstep.store import contents as stored
from twinstep.store.contents import Contents
from twinstep.store.places import Disk, Place, place_of
from twinstep.store.reading import CONTENTS_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A storage, or a folder in a place."""

    place: Place
    folder: str = ""
    """The folder that is a checkpoint; empty for a storage, which has many."""
    foreign: bool = False
    """It was written by somebody else's torch.distributed.checkpoint."""

    @property
    def name(self) -> str:
        return f"{self.place.name}/{self.folder}" if self.folder else self.place.name


def where(path: str, options: dict[str, str]) -> Where:
    """Returns what there is at a folder, or at an address that fsspec knows.

    Raises: UsageError when a folder of this computer is none; OSError."""
    if "://" in path and not path.startswith("file://"):
        scheme, _, rest = path.rstrip("/").partition("://")
        parent, _, name = rest.rpartition("/")
        if parent:
            inside = _folder(place_of(f"{scheme}://{parent}", options), name)
            if inside is not None:
                return inside
        return Where(place=place_of(path, options))
    local = Path(path.removeprefix("file://")).expanduser().resolve()
    if not local.is_dir():
        raise UsageError(
            f"{path} is no folder; name a storage (setting storage.path), a step's "
            "folder in it, or a directory of torch.distributed.checkpoint"
        )
    return _folder(Disk(local.parent), local.name) or Where(place=Disk(local))


def step_in(storage: Where, step: int) -> Where:
    """Returns the folder of a step. Raises: UsageError naming the steps there are."""
    if storage.folder:
        raise UsageError(f"{storage.name} is one checkpoint; leave out the step")
    inside = _folder(storage.place, stored.folder_name(step))
    if inside is None:
        there = [stored.step_of(name) for name in storage.place.folders()]
        steps = [number for number in there if number is not None]
        raise UsageError(f"{storage.name} has no step {step}; it has {_some(steps)}")
    return inside


def table_of(at: Where) -> Contents:
    """Returns a step's table of contents.

    Raises: OSError, ValueError, ProtocolError."""
    name = f"{at.folder}/{stored.CONTENTS}"
    return stored.decode(at.place.read_whole(name, bytes_max=CONTENTS_BYTES_MAX))


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Returns options that were given as KEY=VALUE. Raises: UsageError."""
    wrong = [word for word in words if not word.partition("=")[1] or word[0] == "="]
    if wrong:
        raise UsageError(
            f"--option is {wrong[0]!r}; write KEY=VALUE, as in "
            "--option endpoint_url=http://127.0.0.1:9000"
        )
    return dict(word.split("=", 1) for word in words)


def _folder(place: Place, name: str) -> Where | None:
    sizes = place.sizes(name)
    ours, theirs = stored.CONTENTS in sizes, stored.METADATA in sizes
    if not (ours or theirs):
        return None
    return Where(place=place, folder=name, foreign=not ours)


def _some(steps: list[int]) -> str:
    if not steps:
        return "none"
    shown = ", ".join(map(str, sorted(steps)[-8:]))
    return f"{shown} (and {len(steps) - 8} older)" if len(steps) > 8 else shown
