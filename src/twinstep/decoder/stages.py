"""The stages of a run, each from what the one before has left in the run's folder."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twinstep import config as job_config, launcher
from twinstep.clock import wall_s
from twinstep.decoder.data.mixture import Mixture, Stage
from twinstep.decoder.data.pipeline import Batches, open_batches, sample_texts
from twinstep.decoder.data.store import Store
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.recipe import Recipe
from twinstep.decoder.run import Run
from twinstep.errors import TwinstepError, UsageError

Tell = Callable[[str], None]
"""Is told what is done, a line at a time."""
RANK = Path(__file__).parent / "train" / "rank.py"
PRELOAD = ("jax", "optax", "grain", "twinstep.adapters.jax")
"""What a rank imports, in the process it is forked from: those that start no thread."""


def make_data(run: Run, recipe: Recipe, tell: Tell) -> Store:
    """The run has its examples: what was there already stays.

    Raises: UsageError for a task that there is not."""
    began_s = time.monotonic()

    def progress(task: str, split: str, made: int) -> None:
        tell(f"{task}: {made} examples ({split})")

    settings = recipe.data
    store = Store.make(
        run.data,
        settings.tasks or None,
        settings.seed,
        progress,
        amount=settings.amount,
    )
    for task, reason in store.manifest.absent.items():
        tell(f"{task} is left out: {reason}")
    tell(f"data: {len(store.tasks())} tasks, {time.monotonic() - began_s:.0f} s")
    return store


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


def make_tokenizer(run: Run, recipe: Recipe, tell: Tell) -> Tokenizer:
    """The run has its tokenizer, trained on texts of its mixture.

    Raises: UsageError without data, or with too little of it."""
    began_s = time.monotonic()
    store = Store.open(run.require_data())
    texts = sample_texts(store, mixture_of(recipe, store), seed=recipe.train.seed)
    made = Tokenizer.train(
        texts, vocabulary=recipe.model.vocabulary, path=run.tokenizer
    )
    size, seconds = sum(len(text) for text in texts), time.monotonic() - began_s
    tell(f"tokenizer: {made.vocabulary} pieces of {size} letters, {seconds:.1f} s")
    return made


def open_batches_of(
    run: Run,
    recipe: Recipe,
    *,
    rows: slice = slice(None),
    tell: Tell = lambda text: None,
) -> Batches:
    """Returns the run's batches, after preparing them where nobody has.

    Raises: UsageError when data or tokenizer are missing, or do not fit."""
    store = Store.open(run.require_data())

    def progress(task: str, done: int, total: int) -> None:
        if done == total:
            tell(f"{task}: {total} examples are prepared")

    return open_batches(
        store,
        Tokenizer.load(run.require_tokenizer()),
        recipe.model,
        recipe.train.shape,
        mixture_of(recipe, store),
        steps=recipe.train.steps,
        seed=recipe.train.seed,
        rows=rows,
        progress=progress,
    )


def train(run: Run, recipe: Recipe, tell: Tell, *, anew: bool = True) -> None:
    """The run's model is trained: on machines of this computer, protected at every
    step; or in this process where the recipe has 0 machines.

    Raises: UsageError when a stage is missing; TwinstepError when the job failed."""
    began_s = wall_s()
    if anew:
        run.forget_training()
    run.keep(recipe)
    batches = open_batches_of(run, recipe, tell=tell)
    fill = batches.fill()
    tell(f"batches: {len(batches)}, {fill.tokens:.0%} of their positions are filled")
    if not recipe.job.machines:
        from twinstep.decoder.train.rank import train_rank

        train_rank(run.folder, began_wall_s=began_s)
        return
    arguments = [str(run.folder.absolute()), "--began", repr(began_s)]
    status = launcher.run(job_of(recipe), RANK, arguments)
    if status:
        raise TwinstepError(f"training ended with status {status}; see above why")


def job_of(recipe: Recipe) -> job_config.Job:
    """Returns the job that trains the recipe: copies at once and of every step, for a
    few processors carry the copies too, and no link is shared with training."""
    settings = recipe.job
    modules = [name for name in PRELOAD if importlib.util.find_spec(name.split(".")[0])]
    job: Any = job_config.load(
        None,
        machines=settings.machines,
        ranks_per_machine=settings.ranks_per_machine,
        standbys=settings.standbys,
        preload=tuple(modules),
        schedule={"mode": "off", "every_max": 1, "withhold_every": 0},
    )
    return job
