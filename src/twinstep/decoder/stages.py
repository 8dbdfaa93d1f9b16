"""The stages of a run, each from what the one before has left in the run's folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from twinstep import config as job_config, launcher
from twinstep.clock import wall_s
from twinstep.decoder.data import removal
from twinstep.decoder.data.mixture import Mixture, Stage
from twinstep.decoder.data.pipeline import Batches, open_batches, sample_texts
from twinstep.decoder.data.store import Store
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.recipe import Recipe
from twinstep.decoder.run import Run, replace_text
from twinstep.decoder.train import ledger_view
from twinstep.decoder.train.ledger import Bar, summarise
from twinstep.errors import TwinstepError, UsageError

RANK = Path(__file__).parent / "train" / "rank.py"
PRELOAD = (
    "jax",
    "jax.experimental.compilation_cache.compilation_cache",
    "jax.experimental.multihost_utils",
    "twinstep.adapters.jax",
    "twinstep.decoder.stages",
    "twinstep.decoder.train.initial",
    "twinstep.decoder.train.loop",
    "twinstep.decoder.train.ranks",
    "twinstep.decoder.weights",
    "twinstep.session",
)
"""What a rank imports, done in the process that it is forked from."""


class Speech:
    """Says what is done: whole lines that stay, and one that is drawn over."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def line(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def now(self) -> Generator[Callable[[str], None]]:
        """What the body is at, where there is a terminal to see it."""
        if self._console is None or not self._console.is_terminal:
            yield lambda text: None
            return
        with self._console.status("") as status:
            yield status.update


def make_data(run: Run, recipe: Recipe, speech: Speech) -> Store:
    """The run has its examples: what was there already stays.

    Raises: UsageError for a task that there is not."""
    began_s = time.monotonic()
    settings = recipe.data
    with speech.now() as now:
        store = Store.make(
            run.data,
            settings.tasks or None,
            settings.seed,
            lambda task, split, made: now(f"{task}: {made} examples ({split})"),
            amount=settings.amount,
        )
        removed = _removed(store, now) if settings.filtered else {}
    for task, entry in store.manifest.tasks.items():
        why = ", ".join(f"{n} {rule}" for rule, n in removed.get(task, {}).items())
        speech.line(
            f"  {task}: {entry.train.examples} examples, {entry.held_out.examples} "
            f"held out{'; passed over: ' if why else ''}{why}"
        )
    for task, reason in store.manifest.absent.items():
        speech.line(f"  {task} is left out: {reason}")
    seconds = time.monotonic() - began_s
    speech.line(f"data: {len(store.tasks())} tasks, {seconds:.0f} s")
    return store


def _removed(
    store: Store, now: Callable[[str], None]
) -> Mapping[str, Mapping[str, int]]:
    """Notes what is not to be trained on; returns by task how many, and by what."""
    found = removal.remove(
        store, progress=lambda task, done, total: now(f"{task}: {done}/{total} judged")
    )
    return found.counts()


def mixture_of(recipe: Recipe, store: Store) -> Mixture:
    """Returns the recipe's mixture of those tasks that the store has.

    Raises: UsageError when a stage has none of them."""
    there = set(store.tasks())
    stages: list[Stage] = []
    for number, stage in enumerate(recipe.mixture):
        weights = {t: w for t, w in stage.weights.items() if t in there and w > 0}
        if not weights:
            raise UsageError(
                f"stage {number} of the mixture has none of the store's tasks: "
                f"{', '.join(sorted(there)) or 'there are none'}"
            )
        stages.append(Stage(weights=weights, share=stage.share))
    return Mixture(stages=tuple(stages))


def make_tokenizer(run: Run, recipe: Recipe, speech: Speech) -> Tokenizer:
    """The run has its tokenizer, trained on texts of its mixture.

    Raises: UsageError without data, or with too little of it."""
    began_s = time.monotonic()
    store = Store.open(run.require_data())
    texts = sample_texts(store, mixture_of(recipe, store), seed=recipe.train.seed)
    made = Tokenizer.train(
        texts, vocabulary=recipe.model.vocabulary, path=run.tokenizer
    )
    size, seconds = sum(len(text) for text in texts), time.monotonic() - began_s
    speech.line(
        f"tokenizer: {made.vocabulary} pieces of {size} letters, {seconds:.1f} s"
    )
    return made


def open_batches_of(
    run: Run,
    recipe: Recipe,
    *,
    rows: slice = slice(None),
    now: Callable[[str], None] = lambda text: None,
) -> Batches:
    """Returns the run's batches, after preparing them where nobody has.

    Raises: UsageError when data or tokenizer are missing, or do not fit."""
    store = Store.open(run.require_data())
    return open_batches(
        store,
        Tokenizer.load(run.require_tokenizer()),
        recipe.model,
        recipe.train.shape,
        mixture_of(recipe, store),
        steps=recipe.train.steps,
        seed=recipe.train.seed,
        rows=rows,
        progress=lambda task, done, total: now(f"{task}: {done}/{total} prepared"),
    )


def train(run: Run, recipe: Recipe, speech: Speech, *, anew: bool = False) -> None:
    """The run's model is trained: on machines of this computer, protected at every
    step; or in this process where the recipe has 0 machines. A training whose whole job
    was lost goes on from its newest step on disk, unless it is to begin `anew`.

    Raises: UsageError when a stage is missing, or the training was begun with other
    settings; TwinstepError when the job failed."""
    began_s = wall_s()
    step = 0 if anew else run.goes_on(recipe)
    run.stop_at.unlink(missing_ok=True)
    if step:
        speech.line(f"training goes on from step {step} in {run.steps}")
    else:
        run.begin_training(recipe)
    run.keep(recipe)
    with speech.now() as now:
        batches = open_batches_of(run, recipe, now=now)
    fill = batches.fill()
    speech.line(
        f"batches: {len(batches)}, of whose positions {fill.tokens:.0%} are filled and "
        f"{fill.predicted:.0%} predicted; soft tokens: {fill.images:.0%} of images, "
        f"{fill.audio:.0%} of sound"
    )
    if not recipe.job.machines:
        from twinstep.decoder.train.rank import train_rank

        train_rank(run.folder, began_wall_s=began_s)
        return
    arguments = [str(run.folder.absolute()), "--began", repr(began_s)]
    status = launcher.run(job_of(run, recipe), RANK, arguments)
    if status:
        raise TwinstepError(f"training ended with status {status}; see above why")


def job_of(run: Run, recipe: Recipe) -> job_config.Job:
    """Returns the job that trains the recipe: copies at once and of every step, for a
    few processors carry the copies too, and no link is shared with training. Now and
    then a step goes to disk as well, in case that all machines are lost."""
    settings = recipe.job
    stored = settings.storage_every_s > 0
    job: Any = job_config.load(
        None,
        machines=settings.machines,
        ranks_per_machine=settings.ranks_per_machine,
        standbys=settings.standbys,
        preload=PRELOAD,
        schedule={"mode": "off", "every_max": 1, "withhold_every": 0},
        storage=str(run.steps) if stored else None,
    )
    storage = dataclasses.replace(job.storage, every_s=settings.storage_every_s)
    return dataclasses.replace(job, storage=storage)


def show_goodput(
    run: Run,
    console: Console,
    *,
    png: Path | None = None,
    json_file: Path | None = None,
) -> None:
    """Prints what the run's time went to, and draws or writes it where asked.

    Raises: UsageError where the run has no ledger."""
    bars: list[Bar] = []
    try:
        summary = summarise(run.ledger, bars=bars)
    except OSError as error:
        raise UsageError(
            f"there is no {run.ledger}; run `twinstep decoder train --folder "
            f"{run.folder}` first"
        ) from error
    console.print(ledger_view.table({run.folder.name: summary}))
    if png is not None:
        ledger_view.draw({run.folder.name: bars}, png)
    if json_file is not None:
        raw = msgspec.json.encode(ledger_view.record(summary))
        replace_text(json_file, msgspec.json.format(raw).decode() + "\n")


def evaluate(run: Run, recipe: Recipe, speech: Speech, console: Console) -> None:
    """Prints what the run's model reaches on held-out items, and leaves a page of its
    answers. Raises: UsageError when a stage is missing."""
    run.require_model()
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "evaluation needs lm-eval, which is not installed: pip install "
            "'twinstep[decoder]'; in a checkout, `make decoder` installs it"
        )
    from twinstep.decoder.eval import report, run as evaluation
    from twinstep.decoder.train.ranks import keep_compiled

    keep_compiled(run.cache)
    began_s = time.monotonic()
    settings = recipe.evaluation
    with speech.now() as now:
        found = evaluation.evaluate(
            run.folder,
            limit=settings.limit,
            tasks=settings.tasks,
            progress=lambda what, done, total: now(f"{what}: {done}/{total}"),
        )
    console.print(report.table(found, width=console.width))
    for text in report.short_of(found):
        speech.line(f"  short of: {text}")
    speech.line(f"evaluation: {time.monotonic() - began_s:.0f} s")
    speech.line(f"answers: {run.folder / 'answers.png'}, {run.folder / 'answers.html'}")
