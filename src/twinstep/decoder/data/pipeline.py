"""Batch k is ds[k]: a Grain dataset over prepared examples and a pack plan.

    store, tokenizer -> prepared.py        each example as a row wants it, in files
    mixture, shape, seed -> packing.py     which of them lie where, in a file
    k -> Batches[k]                        copies them together

Nothing is drawn at random here and nothing remembered: any batch, in any process, in
any order, is the same bytes. So the position in the data is one integer in the
session's state, and a step is replayed from its number. Where a batch is made on
several machines, each reads its own rows of the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from twinstep.decoder.config import ModelConfig, TowerConfig
from twinstep.decoder.data import removal
from twinstep.decoder.data.example import texts_of
from twinstep.decoder.data.mixture import Mixture, Stage, Table
from twinstep.decoder.data.packing import Fill, Plan, fill_of, plan_for
from twinstep.decoder.data.prepared import Examples, Prepared, prepare
from twinstep.decoder.data.tokenizer import SAMPLE_BYTES, Tokenizer, sample
from twinstep.decoder.model.segments import AUDIO, IMAGE, BatchShape, Packed, empty


def batches(
    store: Examples,
    tokenizer: Tokenizer,
    config: ModelConfig,
    shape: BatchShape,
    mixture: Mixture,
    *,
    steps: int,
    seed: int,
    rows: slice = slice(None),
    removed: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> grain.MapDataset[Packed]:
    """Returns the dataset whose element k is batch k (NumPy), for k in 0..steps - 1.

    `rows` are those that this process reads. `removed` has, for a task, the items
    that are not shown (None: those that removal.py wrote beside the manifest). Raises:
    UsageError when tokenizer, model, store and mixture do not fit each other."""
    found = open_batches(
        store,
        tokenizer,
        config,
        shape,
        mixture,
        steps=steps,
        seed=seed,
        rows=rows,
        removed=removed,
        progress=progress,
    )
    return grain.MapDataset.source(found)


def open_batches(
    store: Examples,
    tokenizer: Tokenizer,
    config: ModelConfig,
    shape: BatchShape,
    mixture: Mixture,
    *,
    steps: int,
    seed: int,
    rows: slice = slice(None),
    removed: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Batches:
    """As batches(), with what can be asked of it besides: how full the rows are."""
    tokenizer.require(config.vocabulary)
    prepared = prepare(store, mixture.tasks, tokenizer, config.tower, progress=progress)
    counts = [prepared.count(number) for number in range(len(mixture.tasks))]
    kept = kept_items(store, mixture.tasks, counts, removed)
    plan = plan_for(
        store.folder / "plans", prepared, kept, mixture, shape, steps=steps, seed=seed
    )
    return Batches(prepared, plan, shape, config.tower, mixture.tasks, rows)


def sample_texts(
    store: Examples,
    mixture: Mixture,
    *,
    seed: int = 0,
    bytes_max: int = SAMPLE_BYTES,
    removed: Mapping[str, Sequence[int]] | None = None,
) -> list[str]:
    """Returns what a tokenizer is trained on: texts of training examples as the
    mixture draws them, of each stage as many bytes as its share of the steps.
    Raises: UsageError when a task has no examples."""
    tasks = mixture.tasks
    examples = [store.examples(task, "train") for task in tasks]
    kept = kept_items(store, tasks, [len(some) for some in examples], removed)
    sizes = tuple(len(items) for items in kept)

    def texts(stage: Stage) -> Iterator[str]:
        numbers = [n for n, task in enumerate(tasks) if stage.weights.get(task, 0) > 0]
        table = Table(Mixture(stages=(stage,)), tuple(sizes[n] for n in numbers), seed)
        for n in range(2 * sum(sizes)):
            place = table[n]
            task = numbers[place.task]
            yield from texts_of([examples[task][int(kept[task][place.item])]])

    total = sum(stage.share for stage in mixture.stages)
    return [
        text
        for stage in mixture.stages
        for text in sample(
            texts(stage), bytes_max=round(bytes_max * stage.share / total)
        )
    ]


def kept_items(
    store: Examples,
    tasks: Sequence[str],
    counts: Sequence[int],
    removed: Mapping[str, Sequence[int]] | None = None,
) -> list[np.ndarray]:
    """Returns the items of each task that are shown, in order; `counts` has how many
    each task has. Raises: UsageError or Corrupt, as removal.removed()."""
    if removed is None:
        removed = removal.removed(store)
    return [
        np.setdiff1d(np.arange(count), list(removed.get(task, ())))
        for task, count in zip(tasks, counts, strict=True)
    ]


class Batches:
    """A sequence of batches; any of them is made from its number alone."""

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        shape: BatchShape,
        tower: TowerConfig,
        tasks: Sequence[str],
        rows: slice = slice(None),
    ) -> None:
        self._prepared = prepared
        self.plan = plan
        self._shape = shape
        self._tower = tower
        self._tasks = tuple(tasks)
        self._rows = range(shape.rows)[rows]

    def __len__(self) -> int:
        return (len(self.plan.row_end) - 1) // self._shape.rows

    def size(self, example: int) -> int:
        """Tokens of an example of the plan."""
        return self._prepared.size(example).tokens

    def fill(self) -> Fill:
        """How full the rows of all batches are."""
        return fill_of(self.plan, self._prepared, self._shape, self._tasks)

    def __getitem__(self, index: int) -> Packed:
        """Returns this process's rows of that batch. Raises: IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of a plan of {len(self)}")
        shape = BatchShape(
            rows=len(self._rows),
            tokens=self._shape.tokens,
            images=self._shape.images,
            audio=self._shape.audio,
        )
        batch = empty(shape, self._tower)
        for at, row in enumerate(self._rows):
            self._fill_row(batch, at, index * self._shape.rows + row)
        _count_slots(batch, shape)
        return batch

    def _fill_row(self, batch: Packed, at: int, row: int) -> None:
        plan, prepared, flat = self.plan, self._prepared, self._prepared.flat
        position = image = audio = images = sounds = 0
        for number, entry in enumerate(
            range(plan.row_end[row], plan.row_end[row + 1]), start=1
        ):
            example = int(plan.example[entry])
            start, stop = int(plan.start[entry]), int(plan.stop[entry])
            first = prepared.token_end[example]
            source = slice(first + start, first + stop)
            span = slice(position, position + stop - start)
            batch.token[at, span] = flat.token[source]
            batch.weight[at, span] = flat.weight[source]
            batch.weight[at, position] = 0.0
            batch.block[at, span] = flat.block[source]
            if start:
                batch.block[at, span] -= flat.block[first + start]
            batch.segment[at, span] = number
            batch.position[at, span] = np.arange(stop - start)
            position = span.stop
            source = slice(prepared.image_end[example], prepared.image_end[example + 1])
            if size := source.stop - source.start:
                span = slice(image, image + size)
                batch.patch[at, span] = flat.patch[source]
                batch.patch_at[at, span] = flat.patch_at[source]
                batch.patch_doc[at, span] = flat.patch_doc[source] + images
                image, images = span.stop, int(batch.patch_doc[at, span.stop - 1])
            source = slice(prepared.audio_end[example], prepared.audio_end[example + 1])
            if size := source.stop - source.start:
                span = slice(audio, audio + size)
                batch.frame[at, span] = flat.frame[source]
                batch.frame_at[at, span] = flat.frame_at[source]
                batch.frame_doc[at, span] = flat.frame_doc[source] + sounds
                audio, sounds = span.stop, int(batch.frame_doc[at, span.stop - 1])


def _count_slots(batch: Packed, shape: BatchShape) -> None:
    """Soft tokens take the slots of their row in order."""
    for symbol, first in ((IMAGE, 0), (AUDIO, shape.images)):
        soft = np.asarray(batch.token) == symbol
        order = np.cumsum(soft, axis=1, dtype=np.int32) + (first - 1)
        np.copyto(np.asarray(batch.slot), order, where=soft)
