"""Examples as a batch wants them, made once and mapped from files.

Tokenising and log-mel features cost far more than laying rows together, and each
example is shown several times, in each run, again after each restart. So each becomes
what fill() would write of it, end to end in a few flat arrays; of an example's size,
nothing but two offsets is read. The folder's name says what it was made from: another
tokenizer, tower or set of data makes another folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash

from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Example, Sound, Split
from twinstep.decoder.data.segmenting import segments, sound_features
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.model.segments import (
    Audio,
    BatchShape,
    Segment,
    Size,
    fill,
    size_of,
)
from twinstep.errors import Corrupt

EDITION = 1
"""Of this layout and of what segmenting.py does; raise it to have all made anew."""


class Named(Protocol):
    """A manifest: its identity stands for all bytes of a store."""

    @property
    def identity(self) -> str: ...


class Examples(Protocol):
    """What is asked of a store of examples (data/store.py): its folder, what names its
    content, and random access to the examples of a task."""

    @property
    def folder(self) -> Path: ...
    @property
    def manifest(self) -> Named: ...
    def examples(self, task: str, split: Split) -> Sequence[Example]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """All examples end to end. N positions, S and A soft tokens, E examples; the other
    letters are Packed's. `*_end[i]` is where example i - 1 ends, and i begins."""

    token: np.ndarray  # int32[N]
    weight: np.ndarray  # float32[N]
    block: np.ndarray  # int32[N]
    patch: np.ndarray  # uint8[S, k, P]
    patch_at: np.ndarray  # int16[S, k, 2]
    patch_doc: np.ndarray  # int16[S] number of the image in its example
    frame: np.ndarray  # float16[A, r, M]
    frame_at: np.ndarray  # int16[A, r]
    frame_doc: np.ndarray  # int16[A] number of the sound in its example
    token_end: np.ndarray  # int64[E + 1]
    image_end: np.ndarray  # int64[E + 1]
    audio_end: np.ndarray  # int64[E + 1]
    document: np.ndarray  # bool[E] text without a question, which can be cut
    task_end: np.ndarray  # int64[tasks + 1], in examples


class Prepared:
    """Examples of some tasks, mapped from a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises: Corrupt when the arrays do not fit each other."""
        self.folder = folder
        self.flat = Flat(
            **{
                f.name: np.load(folder / f"{f.name}.npy", "r", allow_pickle=False)
                for f in fields(Flat)
            }
        )
        flat = self.flat
        for ends, arrays in (
            (flat.token_end, (flat.token, flat.weight, flat.block)),
            (flat.image_end, (flat.patch, flat.patch_at, flat.patch_doc)),
            (flat.audio_end, (flat.frame, flat.frame_at, flat.frame_doc)),
            (flat.task_end, (flat.document,)),
        ):
            total = int(ends[-1])
            fits = all(len(array) == total for array in arrays)
            if ends[0] != 0 or not fits or np.any(np.diff(ends) < 0):
                raise Corrupt(f"the arrays in {folder} do not fit; remove the folder")
        self.token_end = flat.token_end.tolist()
        self.image_end = flat.image_end.tolist()
        self.audio_end = flat.audio_end.tolist()
        self.document = flat.document.tolist()
        self.task_end = flat.task_end.tolist()

    def __reduce__(self) -> tuple[type[Prepared], tuple[Path]]:
        """Another process maps the files itself."""
        return Prepared, (self.folder,)

    def __len__(self) -> int:
        return len(self.document)

    def size(self, example: int) -> Size:
        """Returns what the example takes of a row."""
        return Size(
            self.token_end[example + 1] - self.token_end[example],
            self.image_end[example + 1] - self.image_end[example],
            self.audio_end[example + 1] - self.audio_end[example],
        )

    def count(self, task: int) -> int:
        """How many examples the task has, by its number."""
        return self.task_end[task + 1] - self.task_end[task]


def prepare(
    store: Examples,
    tasks: Sequence[str],
    tokenizer: Tokenizer,
    tower: TowerConfig,
    *,
    split: Split = "train",
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Prepared:
    """Returns the examples of these tasks, in this order; from STORE/prepared/KEY, and
    makes that when it is not there. `progress(task, done, total)` is told."""
    source = f"{store.manifest.identity} {tuple(tasks)} {split}"
    key = f"{EDITION} {source} {tokenizer.digest} {tower}"
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = store.folder / "prepared" / name
    if not folder.exists():
        _make(folder, store, tasks, tokenizer, tower, split, progress)
    return Prepared(folder)


def _make(
    folder: Path,
    store: Examples,
    tasks: Sequence[str],
    tokenizer: Tokenizer,
    tower: TowerConfig,
    split: Split,
    progress: Callable[[str, int, int], None],
) -> None:
    gathered = _Gathered(tower)
    features = _Features(tower)
    for task in tasks:
        examples = store.examples(task, split)
        for number in range(len(examples)):
            example = examples[number]
            found = segments(example, tokenizer, tower, features=features)
            gathered.add(found, document=not example.prompt)
            if number % 1000 == 0:
                progress(task, number, len(examples))
        progress(task, len(examples), len(examples))
        gathered.end_task()
    _write(folder, gathered.flat())


class _Features:
    """Log-mel features; a sound that several examples have is computed once."""

    def __init__(self, tower: TowerConfig) -> None:
        self._tower = tower
        self._known: dict[int, Audio] = {}

    def __call__(self, sound: Sound) -> Audio:
        key = xxhash.xxh3_64_intdigest(np.ascontiguousarray(sound.samples).data)
        if key not in self._known:
            self._known[key] = sound_features(sound, self._tower)
        return self._known[key]


class _Gathered:
    """Examples laid end to end as they come."""

    def __init__(self, tower: TowerConfig) -> None:
        self._tower = tower
        k, r = tower.window, tower.stack
        empty = {
            "token": np.zeros(0, np.int32),
            "weight": np.zeros(0, np.float32),
            "block": np.zeros(0, np.int32),
            "patch": np.zeros((0, k, tower.pixels), np.uint8),
            "patch_at": np.zeros((0, k, 2), np.int16),
            "patch_doc": np.zeros(0, np.int16),
            "frame": np.zeros((0, r, tower.mel), np.float16),
            "frame_at": np.zeros((0, r), np.int16),
            "frame_doc": np.zeros(0, np.int16),
        }
        self._arrays = {name: [array] for name, array in empty.items()}
        self._sizes = [Size(0, 0, 0)]
        self._document: list[bool] = []
        self._task_end = [0]

    def add(self, example: Sequence[Segment], *, document: bool) -> None:
        size = size_of(example, self._tower)
        shape = BatchShape(
            rows=1, tokens=size.tokens, images=size.images, audio=size.audio
        )
        row = fill([[example]], shape, self._tower)
        for name, arrays in self._arrays.items():
            part = getattr(row, name)[0]
            if part.size:
                arrays.append(part.astype(arrays[0].dtype))
        self._sizes.append(self._sizes[-1] + size)
        self._document.append(document)
        if len(self._document) % 1000 == 0:
            self._join()

    def end_task(self) -> None:
        self._task_end.append(len(self._document))

    def flat(self) -> Flat:
        self._join()
        return Flat(
            **{name: array for name, (array,) in self._arrays.items()},
            token_end=np.array([size.tokens for size in self._sizes], np.int64),
            image_end=np.array([size.images for size in self._sizes], np.int64),
            audio_end=np.array([size.audio for size in self._sizes], np.int64),
            document=np.array(self._document, bool),
            task_end=np.array(self._task_end, np.int64),
        )

    def _join(self) -> None:
        """Many small arrays cost more than what is in them."""
        self._arrays = {n: [np.concatenate(some)] for n, some in self._arrays.items()}


def _write(folder: Path, flat: Flat) -> None:
    """Whole or not at all; who comes second finds the same, made by the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    new.mkdir()
    for f in fields(Flat):
        np.save(new / f"{f.name}.npy", getattr(flat, f.name), allow_pickle=False)
    try:
        new.rename(folder)
    except OSError:
        shutil.rmtree(new)
        if not folder.exists():
            raise
