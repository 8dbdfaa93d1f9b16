"""Which examples lie in which row of which batch, settled before the first step.

Packing while reading makes a batch depend on all before it; then a restart must carry
half-filled rows along, and no batch can be had alone. Sizes are known without the
examples (prepared.py), so the whole run is packed ahead, in seconds, and kept in a
file: batch k is what lies at k. The file's name says what it was made from.

Examples come in the mixture's order and go into the first row with room for their
tokens, their image and their audio slots; who finds no room waits for the next batch,
and is the first there. A document that is longer than a row is cut; the last token of
a piece is again the first of the next (where it is not predicted), so that each token
is predicted once. Any other example that is too large for a row is left out, counted.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from twinstep.decoder.data.mixture import Mixture, Table
from twinstep.decoder.data.prepared import Prepared
from twinstep.decoder.model.segments import BatchShape, Size
from twinstep.errors import Corrupt, UsageError

EDITION = 1
WINDOW = 2.0
"""Tokens that wait to be packed, in batches: more fills gaps better, and moves an
example further from its place in the mixture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """R rows of all batches together, in order, and the entries in them.

    Batch k holds rows k * rows .. (k + 1) * rows - 1; row r holds entries
    row_end[r] .. row_end[r + 1] - 1; an entry is tokens start .. stop - 1 of an example
    of Prepared."""

    row_end: np.ndarray  # int64[R + 1]
    example: np.ndarray  # int32[entries]
    start: np.ndarray  # int32[entries]
    stop: np.ndarray  # int32[entries]
    begins: np.ndarray  # int64[stages] the first example of each stage
    too_large: np.ndarray  # int64[tasks] examples left out

    def check(self, prepared: Prepared, rows: int) -> None:
        """Raises: Corrupt unless each entry lies in its example."""
        size = np.diff(prepared.flat.token_end)
        fits = (
            (len(self.row_end) - 1) % rows == 0
            and self.row_end[0] == 0
            and np.all(np.diff(self.row_end) >= 0)
            and self.row_end[-1] == len(self.example)
            and len(self.example) == len(self.start) == len(self.stop)
            and np.all((self.example >= 0) & (self.example < len(size)))
            and np.all((self.start >= 0) & (self.start < self.stop))
            and np.all(self.stop <= size[self.example])
        )
        if not fits:
            raise Corrupt("a pack plan that does not fit the examples; remove it")


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is put into a row: tokens start .. stop - 1 of an example."""

    example: int
    start: int
    stop: int
    size: Size


def pack(
    prepared: Prepared,
    kept: Sequence[np.ndarray],
    mixture: Mixture,
    shape: BatchShape,
    *,
    steps: int,
    seed: int,
) -> Plan:
    """Returns the plan of `steps` batches. `kept` has the items of each task that are
    shown (others were removed). Raises: UsageError when no example of a task fits."""
    table = Table(mixture, tuple(len(items) for items in kept), seed)
    too_large = np.zeros(len(kept), np.int64)
    entries: list[_Piece] = []
    row_end = [0]
    waiting: list[_Piece] = []
    drawn = 0
    for stage, batches in enumerate(mixture.steps(steps)):
        if stage:
            table = table.after(drawn)
            drawn = table.begins[-1]
        for _ in range(batches):
            enough = WINDOW * shape.rows * shape.tokens
            held = sum(piece.size.tokens for piece in waiting)
            while held < enough:
                place = table[drawn]
                drawn += 1
                item = int(kept[place.task][place.item])
                pieces = list(
                    _pieces(prepared, prepared.task_end[place.task] + item, shape)
                )
                if not pieces:
                    too_large[place.task] += 1
                    _require_some(too_large, table, mixture, shape)
                held += sum(piece.size.tokens for piece in pieces)
                waiting += pieces
            rows, waiting = _first_fit(waiting, shape)
            for row in rows:
                entries += row
                row_end.append(len(entries))
    return Plan(
        row_end=np.array(row_end, np.int64),
        example=np.array([piece.example for piece in entries], np.int32),
        start=np.array([piece.start for piece in entries], np.int32),
        stop=np.array([piece.stop for piece in entries], np.int32),
        begins=np.array(table.begins, np.int64),
        too_large=too_large,
    )


def _pieces(prepared: Prepared, example: int, shape: BatchShape) -> Iterator[_Piece]:
    size = prepared.size(example)
    if size.fits(shape):
        yield _Piece(example, 0, size.tokens, size)
    elif prepared.document[example]:
        for start in range(0, size.tokens - 1, shape.tokens - 1):
            stop = min(start + shape.tokens, size.tokens)
            yield _Piece(example, start, stop, Size(stop - start, 0, 0))


def _require_some(
    too_large: np.ndarray, table: Table, mixture: Mixture, shape: BatchShape
) -> None:
    for task, count in enumerate(too_large):
        if count >= 2 * table.sizes[task]:
            raise UsageError(
                f"no example of {mixture.tasks[task]} fits into a row of {shape}; make "
                "the row larger (fitting() says how large), or leave the task out"
            )


def _first_fit(
    waiting: Sequence[_Piece], shape: BatchShape
) -> tuple[list[list[_Piece]], list[_Piece]]:
    rows: list[list[_Piece]] = [[] for _ in range(shape.rows)]
    tokens = [shape.tokens] * shape.rows
    images = [shape.images] * shape.rows
    audio = [shape.audio] * shape.rows
    left: list[_Piece] = []
    for piece in waiting:
        need = piece.size
        for row in range(shape.rows):
            if (
                need.tokens <= tokens[row]
                and need.images <= images[row]
                and need.audio <= audio[row]
            ):
                tokens[row] -= need.tokens
                images[row] -= need.images
                audio[row] -= need.audio
                rows[row].append(piece)
                break
        else:
            left.append(piece)
    return rows, left


def plan_for(
    folder: Path,
    prepared: Prepared,
    kept: Sequence[np.ndarray],
    mixture: Mixture,
    shape: BatchShape,
    *,
    steps: int,
    seed: int,
) -> Plan:
    """Returns the plan of these from FOLDER/KEY.npz, and makes it when it is not there.
    Raises: Corrupt when a file is no plan of these examples."""
    digest = hashlib.sha256(
        f"{EDITION} {WINDOW} {prepared.folder.name} {mixture} {shape} {steps} {seed}"
        "".encode()
    )
    for items in kept:
        digest.update(np.asarray(items, np.int64).tobytes() + b"|")
    path = folder / f"{digest.hexdigest()[:16]}.npz"
    if path.exists():
        plan = _load(path)
    else:
        plan = pack(prepared, kept, mixture, shape, steps=steps, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.stem}.{os.getpid()}.new.npz")
        np.savez(new, **{f.name: getattr(plan, f.name) for f in fields(Plan)})
        new.rename(path)
    plan.check(prepared, shape.rows)
    return plan


def _load(path: Path) -> Plan:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return Plan(**{f.name: found[f.name] for f in fields(Plan)})
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{path} is no pack plan ({error}); remove it") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """How much of the batches is used, in shares of 1, and by which task."""

    tokens: float
    images: float
    audio: float
    predicted: float
    """Positions whose token the loss is on."""
    by_task: dict[str, float]
    """Share of all tokens."""
    predicted_by_task: dict[str, float]
    """Share of all that is predicted."""
    examples_per_batch: float
    too_large: dict[str, int]


def fill_of(
    plan: Plan, prepared: Prepared, shape: BatchShape, tasks: Sequence[str]
) -> Fill:
    """Returns how the plan fills its batches."""
    flat = prepared.flat
    rows = len(plan.row_end) - 1
    tokens = plan.stop - plan.start
    whole = tokens == np.diff(flat.token_end)[plan.example]
    images = np.diff(flat.image_end)[plan.example] * whole
    audio = np.diff(flat.audio_end)[plan.example] * whole
    weights = np.cumsum(np.concatenate([[0], flat.weight > 0]))
    first = flat.token_end[plan.example] + plan.start
    # The first token of an entry is not predicted.
    predicted = weights[first + tokens] - weights[first + 1]
    task = np.searchsorted(flat.task_end, plan.example, side="right") - 1

    def by_task(amount: np.ndarray) -> dict[str, float]:
        sums = np.bincount(task, weights=amount, minlength=len(tasks))
        return dict(zip(tasks, (sums / max(1, amount.sum())).tolist(), strict=True))

    return Fill(
        tokens=float(tokens.sum() / (rows * shape.tokens)),
        images=float(images.sum() / max(1, rows * shape.images)),
        audio=float(audio.sum() / max(1, rows * shape.audio)),
        predicted=float(predicted.sum() / (rows * shape.tokens)),
        by_task=by_task(tokens),
        predicted_by_task=by_task(predicted),
        examples_per_batch=len(tokens) / rows * shape.rows,
        too_large=dict(zip(tasks, plan.too_large.tolist(), strict=True)),
    )


def fitting(
    prepared: Prepared,
    kept: Sequence[np.ndarray],
    mixture: Mixture,
    *,
    rows: int,
    tokens: int,
    spare: float = 1.25,
) -> BatchShape:
    """Returns a shape with `rows` rows of `tokens`, whose image and audio slots are
    `spare` times what the mixture needs on average in its most demanding stage, and
    enough for its largest example."""
    images = audio = 0.0
    table = Table(mixture, tuple(len(items) for items in kept), 0)
    for stage in range(len(mixture.stages)):
        if stage:
            table = table.after(1024 * stage)
        need = Size(0, 0, 0)
        for n in range(table.begins[-1], table.begins[-1] + 1024):
            place = table[n]
            item = int(kept[place.task][place.item])
            need += prepared.size(prepared.task_end[place.task] + item)
        images = max(images, need.images / need.tokens * tokens * spare)
        audio = max(audio, need.audio / need.tokens * tokens * spare)
    flat = prepared.flat
    shown = np.concatenate(
        [prepared.task_end[task] + items for task, items in enumerate(kept)]
    )
    shown = shown[np.diff(flat.token_end)[shown] <= tokens]
    largest_images = int(np.diff(flat.image_end)[shown].max(initial=0))
    largest_audio = int(np.diff(flat.audio_end)[shown].max(initial=0))
    return BatchShape(
        rows=rows,
        tokens=tokens,
        images=max(largest_images, math.ceil(images)),
        audio=max(largest_audio, math.ceil(audio)),
    )
