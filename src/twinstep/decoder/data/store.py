"""Examples on disk: made once, checked when opened, then read in any order.

    FOLDER/manifest.json                      what is here, from where, which digests
    FOLDER/image_digit.train.arrayrecord      examples, then the media that they share
    FOLDER/image_digit.held_out.arrayrecord

A file is written beside its place and renamed when it is whole, and the manifest after
each task, so a make that was interrupted is continued by the next one. The same seed,
amount and origins give the same bytes.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)

from twinstep.decoder.data import manifest as manifests
from twinstep.decoder.data.example import Example, Split, entities_of
from twinstep.decoder.data.manifest import (
    Manifest,
    OriginEntry,
    SplitEntry,
    TaskEntry,
)
from twinstep.decoder.data.origin import Pools
from twinstep.decoder.data.records import decode, encode
from twinstep.decoder.data.speech import Espeak, Speaker
from twinstep.decoder.data.tasks import DEFAULT, TASKS
from twinstep.decoder.data.tasks.task import Task
from twinstep.errors import Corrupt, UsageError

SPLITS: tuple[Split, ...] = ("train", "held_out")
PROGRESS_EXAMPLES = 500
_NO_READAHEAD = "readahead_buffer_size:0"
"""For reading in any order."""

Progress = Callable[[str, Split, int], None]
"""Told (task, split, examples made so far): at the end of each split, and on the way.
A task that is kept as it is tells nothing."""


class Examples(Sequence[Example]):
    """One split of one task, read from disk as it is asked for. It can be sent to
    another process, which opens the file itself."""

    def __init__(self, path: Path, task: str, entry: SplitEntry) -> None:
        self._path, self._task, self._entry = path, task, entry
        self._lock = threading.Lock()
        self._reader: Any = None

    def __len__(self) -> int:
        return self._entry.examples

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """Raises: IndexError; Corrupt when the record is damaged."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        where = f"{self._path} record {number}"
        return decode(self._record(number), self._task, self._medium, where=where)

    def _medium(self, number: int) -> bytes:
        if number >= self._entry.media:
            raise Corrupt(
                f"{self._path}: an example asks for medium {number} of "
                f"{self._entry.media}"
            )
        return self._record(len(self) + number)

    def _record(self, number: int) -> bytes:
        with self._lock:
            try:
                if self._reader is None:
                    self._reader = ArrayRecordReader(str(self._path), _NO_READAHEAD)
                return self._reader.read([number])[0]
            except (IndexError, RuntimeError) as error:
                raise Corrupt(
                    f"{self._path} record {number} cannot be read: {error}; make the "
                    "data again"
                ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_task": self._task, "_entry": self._entry}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_path"], state["_task"], state["_entry"])


class Store:
    """The examples of a folder. Made by open() or make()."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """Returns the folder's examples, after reading every file and comparing its
        digest (a tenth of a second for 200 MB).

        Raises: UsageError where there is no data; Corrupt, naming the file, where it
            is not what the manifest says."""
        folder = Path(folder)
        manifest = manifests.read(folder)
        for entry in manifest.tasks.values():
            for split in SPLITS:
                if wrong := manifests.trouble(folder, getattr(entry, split)):
                    raise Corrupt(f"{wrong}: make the data again")
        return cls(folder, manifest)

    @classmethod
    def make(
        cls,
        folder: Path | str,
        tasks: Sequence[str] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        *,
        amount: float = 1.0,
        speaker: Speaker | None = None,
    ) -> Store:
        """Returns the folder's examples after making what is not there yet.

        `tasks` are names of TASKS (None: all default ones). `amount` is the share of
        the full counts, 0 < amount <= 1. `speaker` reads aloud; espeak-ng unless given.

        A task's files are kept if they have the recorded digests and were made from
        the same seed, amount, version and origins. A task that cannot be made here is
        left out, and the manifest says why.

        Raises: UsageError for a name or a number that is not allowed."""
        chosen = _chosen(tasks, seed, amount)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pools = Pools(seed=seed, amount=amount, speaker=speaker or Espeak())
        before = _before(folder, pools)
        kept: dict[str, TaskEntry] = {}
        absent: dict[str, str] = {}
        manifest = Manifest(seed=seed, amount=amount)
        for task in chosen:
            if reason := task.absent(pools):
                absent[task.name] = reason
            else:
                entry = _kept(folder, before.get(task.name), task, pools)
                entry = entry or _made(folder, task, pools, progress)
                if entry.train.examples and entry.held_out.examples:
                    kept[task.name] = entry
                else:
                    absent[task.name] = "what it is made from has too little here"
            manifest = Manifest(seed=seed, amount=amount, tasks=kept, absent=absent)
            manifests.write(folder, manifest)
        return cls(folder, manifest)

    def tasks(self) -> tuple[str, ...]:
        return tuple(self.manifest.tasks)

    def examples(self, task: str, split: Split) -> Examples:
        """Returns one split of a task. Raises: UsageError with the names there are."""
        if (entry := self.manifest.tasks.get(task)) is None:
            reason = self.manifest.absent.get(task)
            raise UsageError(
                f"{self.folder} holds no task {task!r}"
                + (f" ({reason})" if reason else "")
                + f"; it holds {', '.join(self.tasks())}"
            )
        found: SplitEntry = getattr(entry, split)
        return Examples(self.folder / found.file, task, found)


def _chosen(tasks: Sequence[str] | None, seed: int, amount: float) -> list[Task]:
    names = DEFAULT if tasks is None else tuple(dict.fromkeys(tasks))
    if unknown := [name for name in names if name not in TASKS]:
        raise UsageError(
            f"no task {', '.join(map(repr, unknown))}; there are {', '.join(TASKS)}"
        )
    if not 0 < amount <= 1 or seed < 0:
        raise UsageError(
            f"amount {amount}, seed {seed}; 0 < amount <= 1 and seed >= 0 are allowed"
        )
    return [TASKS[name] for name in names]


def _before(folder: Path, pools: Pools) -> dict[str, TaskEntry]:
    """The tasks of an earlier make, or none if it was with other settings or there is
    no manifest that can be read: what is not known to be right is made again."""
    try:
        manifest = manifests.read(folder)
    except (Corrupt, UsageError):
        return {}
    same = (manifest.seed, manifest.amount) == (pools.seed, pools.amount)
    return manifest.tasks if same else {}


def _kept(
    folder: Path, entry: TaskEntry | None, task: Task, pools: Pools
) -> TaskEntry | None:
    if entry is None or any(
        manifests.trouble(folder, getattr(entry, split)) for split in SPLITS
    ):
        return None
    again = _entry(task, pools, entry.train, entry.held_out)
    return entry if entry == again else None


def _entry(
    task: Task, pools: Pools, train: SplitEntry, held_out: SplitEntry
) -> TaskEntry:
    return TaskEntry(
        version=task.version,
        asks=task.asks,
        chance=task.chance,
        entity_rule=task.entity_rule,
        origins=tuple(
            OriginEntry(
                name=origin.name, licence=origin.licence, edition=origin.edition(pools)
            )
            for origin in task.origins
        ),
        train=train,
        held_out=held_out,
    )


def _made(
    folder: Path, task: Task, pools: Pools, progress: Progress | None
) -> TaskEntry:
    made: dict[Split, SplitEntry] = {}
    for split in SPLITS:
        random = np.random.default_rng(
            [pools.seed, zlib.crc32(task.name.encode()), SPLITS.index(split)]
        )
        count = task.count(split, pools.amount)
        examples = task.make(pools, split, count, random)
        made[split] = _written(folder, task.name, split, examples, progress)
    return _entry(task, pools, made["train"], made["held_out"])


def _written(
    folder: Path,
    task: str,
    split: Split,
    examples: Iterator[Example],
    progress: Progress | None,
) -> SplitEntry:
    media: dict[bytes, int] = {}
    entities: set[str] = set()
    name = f"{task}.{split}.arrayrecord"
    part = folder / f"{name}.part"
    count = 0
    writer = ArrayRecordWriter(str(part), "group_size:1")
    try:
        for example in examples:
            writer.write(encode(example, lambda r: media.setdefault(r, len(media))))
            entities.update(entities_of(example))
            count += 1
            if progress is not None and count % PROGRESS_EXAMPLES == 0:
                progress(task, split, count)
        for medium in media:
            writer.write(medium)
    finally:
        writer.close()
    os.replace(part, folder / name)
    if progress is not None:
        progress(task, split, count)
    return SplitEntry(
        file=name,
        digest=manifests.digest_of(folder / name),
        bytes=(folder / name).stat().st_size,
        examples=count,
        media=len(media),
        entities=len(entities),
    )
