"""Rows hold what fits, every token is predicted once, and the plan can be trusted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.decoder.data.memory_store import memory_store, of, small_tokenizer
from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.mixture import Mixture, Stage, Table, uniform
from twinstep.decoder.data.packing import Plan, fill_of, fitting, pack, plan_for
from twinstep.decoder.data.prepared import Prepared, prepare
from twinstep.decoder.model.segments import BatchShape
from twinstep.errors import Corrupt, UsageError

TOWER = TowerConfig()
SHAPE = BatchShape(rows=4, tokens=160, images=32, audio=10)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    store = memory_store(tmp_path_factory.mktemp("store"))
    return prepare(store, store.tasks(), small_tokenizer(), TOWER)


TASKS = memory_store(Path("/nowhere"), count=1).tasks()
MIXTURE = uniform(TASKS)


def all_items(prepared: Prepared) -> list[np.ndarray]:
    return [np.arange(prepared.count(number)) for number in range(len(TASKS))]


def planned(prepared: Prepared, shape: BatchShape = SHAPE, steps: int = 60) -> Plan:
    kept = all_items(prepared)
    return pack(prepared, kept, MIXTURE, shape, steps=steps, seed=1)


def test_no_row_is_over_any_of_its_budgets(prepared: Prepared) -> None:
    plan = planned(prepared)
    plan.check(prepared, SHAPE.rows)
    assert len(plan.row_end) - 1 == 60 * SHAPE.rows
    for row in range(len(plan.row_end) - 1):
        tokens = images = audio = 0
        for entry in range(plan.row_end[row], plan.row_end[row + 1]):
            size = prepared.size(plan.example[entry])
            part = plan.stop[entry] - plan.start[entry]
            tokens += part
            if part == size.tokens:
                images, audio = images + size.images, audio + size.audio
        assert tokens <= SHAPE.tokens
        assert images <= SHAPE.images
        assert audio <= SHAPE.audio


def test_rows_are_nearly_full(prepared: Prepared) -> None:
    fill = fill_of(planned(prepared), prepared, SHAPE, TASKS)
    assert fill.tokens > 0.9
    assert fill.images <= 1
    assert sum(fill.by_task.values()) == pytest.approx(1)
    assert sum(fill.predicted_by_task.values()) == pytest.approx(1)
    assert not any(fill.too_large.values())


def test_examples_are_shown_as_the_mixture_says(prepared: Prepared) -> None:
    """All that was drawn before the last few batches lies in some row, once."""
    plan = planned(prepared)
    whole = Counter(
        int(example)
        for example, start in zip(plan.example, plan.start, strict=True)
        if start == 0
    )
    table = Table(MIXTURE, (40,) * len(TASKS), 1)
    drawn = Counter()
    shown = sum(whole.values())
    for n in range(shown - 60):
        place = table[n]
        drawn[prepared.task_end[place.task] + place.item] += 1
    late = sum((drawn - whole).values())
    assert late < 30
    assert sum((whole - drawn).values()) <= 60 + late


def test_a_long_document_is_cut_so_that_each_token_is_predicted_once(
    prepared: Prepared,
) -> None:
    plan = planned(prepared)
    document = TASKS.index("document")
    last = prepared.task_end[document + 1] - 1
    pieces = sorted(
        {
            (int(start), int(stop))
            for example, start, stop in zip(
                plan.example, plan.start, plan.stop, strict=True
            )
            if example == last
        }
    )
    assert len(pieces) > 1
    predicted = [at for start, stop in pieces for at in range(start + 1, stop)]
    assert predicted == list(range(1, prepared.size(last).tokens))


def test_the_same_inputs_give_the_same_plan_and_another_seed_another(
    prepared: Prepared,
) -> None:
    one, two = planned(prepared), planned(prepared)
    assert np.array_equal(one.example, two.example)
    kept = all_items(prepared)
    other = pack(prepared, kept, MIXTURE, SHAPE, steps=60, seed=2)
    assert not np.array_equal(one.example[:50], other.example[:50])


def test_a_longer_run_of_one_stage_begins_with_the_shorter_one(
    prepared: Prepared,
) -> None:
    short, long = planned(prepared, steps=20), planned(prepared, steps=60)
    size = len(short.example)
    assert np.array_equal(short.example, long.example[:size])
    assert np.array_equal(short.row_end, long.row_end[: len(short.row_end)])


def test_stages_change_what_is_shown(prepared: Prepared) -> None:
    early, late = {"addition": 1.0}, {"addition": 1.0, "video": 3.0}
    mixture = Mixture(stages=(Stage(weights=early), Stage(weights=late)))
    tasks = mixture.tasks
    chosen = [np.arange(40), np.arange(40)]
    ends = prepared.task_end
    addition = TASKS.index("addition")
    assert tasks == ("addition", "video")
    assert addition == 0
    two = _only(prepared, ("addition", "video"))
    plan = pack(two, chosen, mixture, SHAPE, steps=20, seed=0)
    middle = plan.row_end[10 * SHAPE.rows]
    begun = plan.row_end[12 * SHAPE.rows]
    assert np.all(plan.example[:middle] < 40)
    assert np.mean(plan.example[begun:] >= 40) > 0.6
    assert plan.begins[0] == 0
    assert plan.begins[1] % 256 == 0
    assert ends[0] == 0


def _only(prepared: Prepared, tasks: tuple[str, ...]) -> Prepared:
    store = memory_store(prepared.folder.parent.parent)
    return prepare(store, tasks, small_tokenizer(), TOWER)


def test_what_was_removed_is_not_shown(prepared: Prepared) -> None:
    kept = [np.arange(1 if task == "addition" else 40) for task in TASKS]
    plan = pack(prepared, kept, MIXTURE, SHAPE, steps=20, seed=0)
    addition = plan.example[plan.example < 40]
    assert set(addition.tolist()) == {0}


def test_an_example_too_large_is_left_out_and_counted(tmp_path: Path) -> None:
    store = memory_store(tmp_path, count=10)
    store.made["addition"][3] = of("addition", 3, "x" * 900, answer="y")
    found = prepare(store, TASKS, small_tokenizer(), TOWER)
    plan = planned(found, steps=10)
    assert plan.too_large[TASKS.index("addition")] > 0
    assert 3 not in plan.example
    store.made["addition"][:] = [of("addition", 0, "x" * 900, answer="y")] * 2
    found = prepare(
        replace(store, folder=tmp_path / "b"), TASKS, small_tokenizer(), TOWER
    )
    with pytest.raises(UsageError, match="no example of addition fits"):
        planned(found, steps=10)


def test_a_fitting_shape_holds_the_mixture(prepared: Prepared) -> None:
    kept = all_items(prepared)
    shape = fitting(prepared, kept, MIXTURE, rows=4, tokens=256)
    sizes = [prepared.size(example) for example in range(len(prepared))]
    assert shape.audio >= max(size.audio for size in sizes)
    fill = fill_of(planned(prepared, shape), prepared, shape, TASKS)
    assert fill.tokens > 0.9
    assert not any(fill.too_large.values())


def test_a_plan_is_kept_and_checked_when_it_is_read(
    prepared: Prepared, tmp_path: Path
) -> None:
    kept = all_items(prepared)

    def get(seed: int) -> Plan:
        return plan_for(tmp_path, prepared, kept, MIXTURE, SHAPE, steps=5, seed=seed)

    first = get(0)
    (path,) = tmp_path.iterdir()
    made = path.stat().st_mtime_ns
    assert np.array_equal(get(0).example, first.example)
    assert path.stat().st_mtime_ns == made
    get(1)
    assert len(list(tmp_path.iterdir())) == 2

    arrays = dict(np.load(path))
    arrays["stop"][7] += 10_000
    np.savez(path, **arrays)
    with pytest.raises(Corrupt, match="does not fit"):
        get(0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match="no pack plan"):
        get(0)
