"""A run is a folder; what each stage leaves there is where the next one looks.

RUN/run.toml         settings (recipe.py)
RUN/data             examples with their manifest         twinstep decoder data
RUN/tokenizer.model                                       ... tokenizer
RUN/ledger.jsonl     where the time went                  ... train
RUN/metrics.jsonl    what each step measured
RUN/board            TensorBoard's events, where wanted
RUN/cache            compiled steps, so that a restart compiles nothing
RUN/stop_at          may appear: the number of the last step
RUN/model            the weights at the end, and their digest
RUN/eval.json, answers.png, answers.html                  ... eval
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from twinstep.decoder.recipe import Recipe, from_toml, to_toml
from twinstep.errors import UsageError


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
        return self._require(self.model / "model.safetensors", "train").parent

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

    def forget_training(self) -> None:
        """The next training begins anew: nothing is left of an earlier one but what it
        compiled."""
        for path in (self.ledger, self.metrics, self.stop_at):
            path.unlink(missing_ok=True)
        for folder in (self.board, self.model):
            for path in sorted(folder.glob("*")):
                path.unlink()


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
