"""A run is a folder; what each stage leaves there is where the next one looks.

RUN/run.toml         settings (recipe.py)
RUN/data             examples with their manifest         twinstep decoder data
RUN/tokenizer.model                                       ... tokenizer
RUN/ledger.jsonl     where the time went                  ... train
RUN/metrics.jsonl    what each step measured
RUN/board            TensorBoard's events, where wanted
RUN/cache            compiled steps, so that a restart compiles nothing
RUN/stop_at          may appear: the number of the last step
RUN/steps            newest steps on disk, while training is not over
RUN/training.toml    the settings that they were trained by
RUN/model            the weights at the end, and their digest
RUN/eval.json, answers.png, answers.html                  ... eval
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from twinstep.decoder.recipe import Recipe, from_toml, to_toml
from twinstep.errors import UsageError
from twinstep.store.places import place_of
from twinstep.store.reading import look

WEIGHTS = "model.safetensors"
STEPS_MAX = 16
DEFINING = ("model", "data", "train", "mixture")
"""The settings that bits depend on, and a training must go on with."""


@dataclass(frozen=True, slots=True)
class Run:
    """The paths of a run; none need exist."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "run.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.model"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def board(self) -> Path:
        return self.folder / "board"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def stop_at(self) -> Path:
        return self.folder / "stop_at"

    @property
    def steps(self) -> Path:
        return self.folder / "steps"

    @property
    def begun_with(self) -> Path:
        return self.folder / "training.toml"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def recipe(self) -> Recipe:
        """Returns the run's settings; those by default where there is no run.toml.

        Raises: ConfigError when the file cannot be understood."""
        if not self.settings.exists():
            return Recipe()
        return from_toml(self.settings.read_text(), name=str(self.settings))

    def keep(self, recipe: Recipe) -> None:
        """The run's settings are these. Raises: UsageError when the folder cannot be
        made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(self.settings, to_toml(recipe))
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written: {error}") from error

    def require_data(self) -> Path:
        """Returns the examples' folder. Raises: UsageError where there are none."""
        return self._require(self.data / "manifest.json", "data").parent

    def require_tokenizer(self) -> Path:
        """Returns the tokenizer's file. Raises: UsageError where there is none."""
        return self._require(self.tokenizer, "tokenizer")

    def require_model(self) -> Path:
        """Returns the weights' folder. Raises: UsageError where there is none."""
        return self._require(self.model / WEIGHTS, "train").parent

    def _require(self, path: Path, stage: str) -> Path:
        if not path.exists():
            raise UsageError(
                f"there is no {path}; run `twinstep decoder {stage} --folder "
                f"{self.folder}` first"
            )
        return path

    def last_step(self, steps: int) -> int:
        """Returns the number of the last step: `steps`, or what stop_at says."""
        with contextlib.suppress(OSError, ValueError):
            return min(steps, int(self.stop_at.read_text()))
        return steps

    def newest_step(self) -> int:
        """Returns the newest step on disk of a training that is not over; 0: there is
        none. Raises: UsageError when the disk cannot be read."""
        if self.model.joinpath(WEIGHTS).exists() or not self.begun_with.exists():
            return 0
        try:
            found = list(look(place_of(str(self.steps), {}), steps_max=STEPS_MAX))
        except OSError as error:
            raise UsageError(f"{self.steps} cannot be read: {error}") from error
        return max((each.step for each in found if each.whole), default=0)

    def goes_on(self, recipe: Recipe) -> int:
        """Returns the step on disk from which training goes on; 0: it begins.

        Raises: UsageError when it was begun with other settings."""
        step = self.newest_step()
        if not step:
            return 0
        begun = from_toml(self.begun_with.read_text(), name=str(self.begun_with))
        others = [n for n in DEFINING if getattr(begun, n) != getattr(recipe, n)]
        where = f"{self.steps} has step {step} of a training"
        way_out = "pass --anew to begin again, or name another --folder"
        if others:
            raise UsageError(
                f"{where} with other settings of {', '.join(others)}: see "
                f"{self.begun_with}; set them back to go on there, {way_out}"
            )
        if not (recipe.job.machines and recipe.job.storage_every_s > 0):
            raise UsageError(
                f"{where}, which neither --machines 0 nor job.storage_every_s = 0 "
                f"reads; set them otherwise to go on there, {way_out}"
            )
        return step

    def begin_training(self, recipe: Recipe) -> None:
        """The next training begins anew, by this recipe: nothing is left of an earlier
        one but what it compiled."""
        for path in (self.ledger, self.metrics, self.begun_with):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.steps, ignore_errors=True)
        for folder in (self.board, self.model):
            for path in sorted(folder.glob("*")):
                path.unlink()
        replace_text(self.begun_with, to_toml(recipe))


def replace_text(path: Path, text: str) -> None:
    """The file has this text, and never a part of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def with_vocabulary(recipe: Recipe, vocabulary: int | None) -> Recipe:
    """Returns the recipe for another number of pieces."""
    if vocabulary is None:
        return recipe
    model = dataclasses.replace(recipe.model, vocabulary=vocabulary)
    return dataclasses.replace(recipe, model=model)
