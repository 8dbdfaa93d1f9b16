"""Evaluates a run: all tasks, blind, against baselines; writes what it found.

RUN/eval.json      the report (report.py)
RUN/answers.png    sampled answers, to look at
RUN/answers.html   the same, to look at and listen to
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinstep.decoder import weights
from twinstep.decoder.config import ModelConfig
from twinstep.decoder.data.example import Example
from twinstep.decoder.data.store import Store
from twinstep.decoder.data.tasks import TASKS as MADE
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.eval import page, picture, report
from twinstep.decoder.eval.baselines import Baselines, commonest
from twinstep.decoder.eval.blind import See, blank, shuffled, whole
from twinstep.decoder.eval.chosen import beginning, chosen, shown
from twinstep.decoder.eval.intervals import chrf, measured
from twinstep.decoder.eval.items import TASKS, Examples, Task, held_out_of
from twinstep.decoder.eval.measure import Outcome, measure
from twinstep.decoder.eval.model import Answers, DecoderLM, Progress, untold
from twinstep.decoder.eval.report import Report, Row
from twinstep.decoder.model.sample import Sampler
from twinstep.decoder.run import Run
from twinstep.errors import UsageError

LIMIT = 500
"""Items of a task: a share of 0.95 is then known to about two in a hundred."""
BLIND_LIMIT = 250
"""Items of a task that are asked again without media; a fall shows in fewer."""
LENGTH_MAX = 512
"""Tokens of a row of evaluation, if the model's context is not shorter."""
WRITTEN_TOKENS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated: a model that answers, and how it reads. `length_max` is the
    longest row that it was trained on."""

    name: str
    sampler: Answers
    tokenizer: Tokenizer
    config: ModelConfig
    length_max: int = LENGTH_MAX

    def lm(self, *, see: See, what: str, progress: Progress) -> DecoderLM:
        def tell(kind: str, done: int, total: int) -> None:
            progress(f"{what}{kind}", done, total)

        return DecoderLM(
            self.sampler,
            self.tokenizer,
            self.config.tower,
            length_max=min(self.length_max, self.config.context),
            see=see,
            progress=tell,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A report, and the answers behind it."""

    report: Report
    outcomes: dict[str, Outcome]
    continuations: dict[str, list[str]]

    def save(self, folder: Path) -> None:
        """Writes eval.json, answers.png and answers.html into the folder."""
        items = shown(self.outcomes, self.continuations)
        report.save(self.report, folder / "eval.json")
        picture.draw(self.report, items, folder / "answers.png")
        page.write(self.report, items, folder / "answers.html")


def judge(
    subject: Subject,
    store: Examples,
    *,
    limit: int = LIMIT,
    tasks: Sequence[str] = (),
    progress: Progress = untold,
) -> Judged:
    """Returns what the subject reaches on at most `limit` held-out items of each task
    (all that the store has, or those named).

    Raises: UsageError for a task that is not in the store, or no task at all."""
    began = time.perf_counter()
    asked = _asked(store, tasks)
    examples = held_out_of(store)
    lm = subject.lm(see=whole, what="", progress=progress)
    seen = measure(lm, [t.name for t in asked], examples=examples, limit=limit)
    again = {"limit": min(limit, BLIND_LIMIT), "examples": examples}
    with_media = [task.name for task in asked if task.has_media]
    lm_blind = subject.lm(see=blank, what="blind ", progress=progress)
    blind = measure(lm_blind, with_media, **again)
    videos = [name for name in with_media if name == "video_direction"]
    lm_shuffled = subject.lm(see=shuffled, what="shuffled ", progress=progress)
    mixed = measure(lm_shuffled, videos, **again)
    written = {
        task.name: lm.continued(
            [beginning(item) for item in chosen(seen[task.name])],
            tokens_max=WRITTEN_TOKENS,
        )
        for task in asked
        if task.metric == "bits_per_byte"
    }
    baselines = Baselines(store)
    rows: list[Row] = []
    for number, task in enumerate(asked, start=1):
        rows.append(_row(seen[task.name], blind, mixed, baselines))
        progress("baselines", number, len(asked))
    seconds = time.perf_counter() - began
    return Judged(
        report=Report(name=subject.name, rows=tuple(rows), seconds=round(seconds, 1)),
        outcomes=seen,
        continuations=written,
    )


def _asked(store: Examples, tasks: Sequence[str]) -> list[Task]:
    there = [task for task in TASKS if task.name in store.tasks()]
    wrong = sorted(set(tasks) - {task.name for task in there})
    if wrong or not there:
        names = ", ".join(task.name for task in there) or "none"
        raise UsageError(
            f"no held-out examples of {', '.join(wrong) or 'any task'}; the store has "
            f"{names}"
        )
    return [task for task in there if not tasks or task.name in tasks]


def _row(
    outcome: Outcome,
    blind: dict[str, Outcome],
    mixed: dict[str, Outcome],
    baselines: Baselines,
) -> Row:
    task, items = outcome.task, [item.example for item in outcome.items]
    chance, name, value = _beside(task, items, baselines)
    without, out_of_order = blind.get(task.name), mixed.get(task.name)
    return Row(
        task=task.name,
        family=task.family,
        metric=task.metric,
        items=len(items),
        reached=measured(outcome),
        chance=chance,
        guess=baselines.guess(task, items) if task.has_media else None,
        baseline=value,
        baseline_name=name,
        blind=measured(without) if without else None,
        shuffled=measured(out_of_order) if out_of_order else None,
        more={k: v for k, v in outcome.metrics.items() if k != task.metric},
    )


def _beside(
    task: Task, items: list[Example], baselines: Baselines
) -> tuple[float, str, float]:
    """Returns what chance reaches, and the baseline's name and value."""
    if task.metric == "bits_per_byte":
        return 8.0, "n-grams of bytes", baselines.bits_per_byte(task, items)
    found = baselines.answer(task, items)
    if task.metric == "chrf":
        answers, truths = list(found.answers), [item.answer for item in items]
        return 0.0, found.name, chrf(answers, truths).value
    made = MADE.get(task.name)
    chance = max(commonest(items), made.chance if made else 0.0)
    return chance, found.name, found.right(items) / len(items)


def evaluate(
    run_folder: Path | str,
    *,
    limit: int = LIMIT,
    tasks: Sequence[str] = (),
    progress: Progress = untold,
) -> Report:
    """Evaluates the model in RUN/model on the held-out side of RUN/data, writes
    eval.json, answers.png and answers.html into RUN, and returns the report.

    Raises: UsageError where the run has no model, tokenizer or data yet."""
    run = Run(Path(run_folder))
    store = Store.open(run.require_data())
    tokenizer = Tokenizer.load(run.require_tokenizer())
    params, config = weights.load(run.require_model())
    tokenizer.require(config.vocabulary)
    subject = Subject(
        name=config.name,
        sampler=Sampler(params, config),
        tokenizer=tokenizer,
        config=config,
        length_max=run.recipe().train.shape.tokens,
    )
    judged = judge(subject, store, limit=limit, tasks=tasks, progress=progress)
    judged.save(run.folder)
    return judged.report
