"""Asks a model the tasks through lm-eval, and keeps each item beside its answer.

lm-eval's evaluate() is called, and not simple_evaluate() around it: that loads torch
and describes the machine for five seconds, at each call. Both work (a test uses the
other). Nothing is fetched: the index of lm-eval's own tasks is left out, and the task
files of this folder read the run's store.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from twinstep.decoder.data.example import Example
from twinstep.decoder.eval.items import BY_NAME, ExamplesOf, Task

PREFIX = "twinstep_"
"""Of the names in the task files, so that none is one of lm-eval's own."""
FOLDER = Path(__file__).parent / "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example as it was answered. `answer` is the text written, or the choice that
    was likeliest, or empty for a document. `score` is 1.0 or 0.0 for a task with right
    answers, and the log-probability in nats of a document."""

    example: Example
    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one task came to: lm-eval's metrics by name, and the items."""

    task: Task
    metrics: dict[str, float]
    items: tuple[Item, ...]


def measure(
    model: LM, tasks: Iterable[str], *, examples: ExamplesOf, limit: int
) -> dict[str, Outcome]:
    """Returns what each task came to, on at most `limit` held-out examples each."""
    names = [PREFIX + task for task in tasks]
    if not names:
        return {}
    with quiet():
        tasks_of = task_manager(examples, limit=limit)
        results = evaluate(model, tasks_of.load(names), bootstrap_iters=0)
    assert results is not None, "lm-eval returns nothing on ranks but the first"
    return outcomes(results)


def task_manager(examples: ExamplesOf | Path, *, limit: int) -> TaskManager:
    """Returns lm-eval's view of the task files, over these examples or a store."""
    store = str(examples) if isinstance(examples, Path) else examples
    metadata: dict[str, Any] = {"store": store, "limit": limit}
    return TaskManager(include_path=FOLDER, include_defaults=False, metadata=metadata)


def outcomes(results: Any) -> dict[str, Outcome]:
    """Returns the outcomes of what lm-eval's evaluate() or simple_evaluate() gave."""
    return {
        name.removeprefix(PREFIX): _outcome(
            BY_NAME[name.removeprefix(PREFIX)], metrics, results["samples"][name]
        )
        for name, metrics in results["results"].items()
    }


def _outcome(
    task: Task, metrics: dict[str, Any], samples: list[dict[str, Any]]
) -> Outcome:
    numbers = {
        name.split(",")[0]: float(value)
        for name, value in metrics.items()
        if "," in name and "_stderr" not in name
    }
    items = tuple(_item(task, s) for s in sorted(samples, key=lambda s: s["doc_id"]))
    return Outcome(task=task, metrics=numbers, items=items)


def _item(task: Task, sample: dict[str, Any]) -> Item:
    example: Example = sample["doc"]["example"].value
    responses = sample["filtered_resps"]
    match task.metric:
        case "acc":
            nats = [nats for nats, _ in responses]
            answer = example.choices[nats.index(max(nats))]
            return Item(example=example, answer=answer, score=float(sample["acc"]))
        case "bits_per_byte":
            return Item(example=example, answer="", score=float(responses[0]))
        case "exact_match" | "chrf":
            right = float(sample["exact_match"])
            return Item(example=example, answer=responses[0], score=right)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's bars and hints do not reach the console; errors are raised anyway."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
