"""Batch k is ds[k]: what fill() makes of its examples, wherever and whenever."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import grain
import numpy as np
import pytest
import xxhash

from tests.decoder.data.memory_store import MemoryStore, memory_store, small_tokenizer
from twinstep.decoder.config import TINY, resized
from twinstep.decoder.data.mixture import Mixture, Stage, uniform
from twinstep.decoder.data.pipeline import Batches, batches, open_batches, sample_texts
from twinstep.decoder.data.segmenting import segments
from twinstep.decoder.model.segments import BatchShape, Packed, Text, fill
from twinstep.errors import Corrupt, UsageError

CONFIG = resized(TINY, vocabulary=400)
SHAPE = BatchShape(rows=4, tokens=160, images=32, audio=16)
STEPS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    return memory_store(tmp_path_factory.mktemp("store"))


def opened(store: MemoryStore, rows: slice = slice(None)) -> Batches:
    mixture = uniform(store.tasks())
    return open_batches(
        store, small_tokenizer(), CONFIG, SHAPE, mixture, steps=STEPS, seed=3, rows=rows
    )


def dataset(store: MemoryStore) -> grain.MapDataset[Packed]:
    return batches(
        store,
        small_tokenizer(),
        CONFIG,
        SHAPE,
        uniform(store.tasks()),
        steps=STEPS,
        seed=3,
    )


def digest(batch: Packed) -> str:
    """Of all bytes, types and shapes."""
    found = xxhash.xxh3_128()
    for f in fields(Packed):
        array = np.asarray(getattr(batch, f.name))
        found.update(f"{f.name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def test_a_batch_is_what_fill_makes_of_its_examples(store: MemoryStore) -> None:
    """fill() is the definition; here rows are copied together from files."""
    found = opened(store)
    tokenizer, plan = small_tokenizer(), found.plan
    every = [
        segments(example, tokenizer, CONFIG.tower)
        for task in store.tasks()
        for example in store.examples(task, "train")
    ]
    cut = 0
    for k in range(STEPS):
        rows = []
        for row in range(k * SHAPE.rows, (k + 1) * SHAPE.rows):
            examples = []
            for entry in range(plan.row_end[row], plan.row_end[row + 1]):
                example = every[plan.example[entry]]
                start, stop = plan.start[entry], plan.stop[entry]
                if start or stop != found.size(plan.example[entry]):
                    cut += 1
                    ids = [n for part in example for n in part.ids]  # pyright: ignore
                    example = [Text(ids[start:stop], weight=1.0)]
                examples.append(example)
            rows.append(examples)
        expected = fill(rows, SHAPE, CONFIG.tower)
        for f in fields(Packed):
            one, two = getattr(found[k], f.name), getattr(expected, f.name)
            assert one.dtype == two.dtype
            assert np.array_equal(one, two), (k, f.name)
    assert cut


def test_any_order_and_any_reader_give_the_same_batches(store: MemoryStore) -> None:
    ds = dataset(store)
    assert len(ds) == STEPS
    expected = [digest(opened(store)[k]) for k in range(STEPS)]
    assert len(set(expected)) == STEPS
    backwards = [digest(ds[k]) for k in reversed(range(STEPS))]
    assert backwards[::-1] == expected
    options = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
    read = ds.to_iter_dataset(options)
    assert [digest(batch) for batch in read] == expected


def test_an_iterator_goes_on_from_one_integer(store: MemoryStore) -> None:
    ds = dataset(store).to_iter_dataset()
    first = iter(ds)
    for _ in range(5):
        next(first)
    state = first.get_state()
    assert state == {"next_index": 5}
    expected = [digest(batch) for batch in first]
    second = iter(ds)
    second.set_state({"next_index": 5})
    assert [digest(batch) for batch in second] == expected


def test_another_process_makes_the_same_batch(store: MemoryStore) -> None:
    program = (
        "import pathlib, sys\n"
        "from tests.decoder.data.memory_store import memory_store\n"
        "from tests.decoder.data.test_pipeline import digest, opened\n"
        "store = memory_store(pathlib.Path(sys.argv[1]))\n"
        "print(digest(opened(store)[7]), digest(opened(store)[2]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(store.folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ds = opened(store)
    assert found.stdout.split() == [digest(ds[7]), digest(ds[2])]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_read_the_rows_of_one_plan(store: MemoryStore, hosts: int) -> None:
    """A changed host count changes only who reads which rows."""
    whole = opened(store)[5]
    each = SHAPE.rows // hosts
    parts = [
        opened(store, slice(host * each, (host + 1) * each))[5] for host in range(hosts)
    ]
    for f in fields(Packed):
        joined = np.concatenate([getattr(part, f.name) for part in parts])
        assert np.array_equal(joined, getattr(whole, f.name)), f.name


def test_past_the_plan_there_is_nothing(store: MemoryStore) -> None:
    for k in (STEPS, -1):
        with pytest.raises(IndexError, match=f"plan of {STEPS}"):
            opened(store)[k]


def test_another_vocabulary_is_refused(store: MemoryStore) -> None:
    with pytest.raises(UsageError, match="400 pieces and the model 1024"):
        open_batches(
            store,
            small_tokenizer(),
            TINY,
            SHAPE,
            uniform(store.tasks()),
            steps=1,
            seed=0,
        )


def test_prepared_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store = memory_store(tmp_path, count=3)
    opened(store)
    (folder,) = (tmp_path / "prepared").iterdir()
    np.save(folder / "token.npy", np.load(folder / "token.npy")[:-1])
    with pytest.raises(Corrupt, match="do not fit"):
        opened(store)


def test_a_tokenizer_s_sample_is_of_every_task_and_ends(store: MemoryStore) -> None:
    late = Stage(weights={"translation": 1.0}, share=1)
    mixture = Mixture(stages=(*uniform(store.tasks()).stages, late))
    texts = sample_texts(store, mixture, bytes_max=8000)
    for task in store.tasks():
        answers = {example.answer for example in store.examples(task, "train")}
        assert answers & set(texts), task
    assert texts == sample_texts(store, mixture, bytes_max=8000)
    only = sample_texts(store, Mixture(stages=(late,)), bytes_max=8000)
    assert set(only) == {
        text for number in range(40) for text in (f"French: {number}", f"le {number}")
    }
