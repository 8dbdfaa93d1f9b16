"""All settings of a run of the decoder, with their defaults, in one place.

A run's folder has them as run.toml, which its first command writes and every other one
reads; arguments win over it. What a setting means is said where it is used: sizes in
config.py, training in train/settings.py, the mixture in data/mixture.py.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from twinstep.decoder.config import TINY, ModelConfig, TowerConfig
from twinstep.decoder.model.segments import BatchShape
from twinstep.decoder.train.settings import TrainConfig
from twinstep.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """What examples are made: all tasks by default; `amount` is a share of the full
    number of each, above 0 and at most 1."""

    tasks: tuple[str, ...] = ()
    amount: float = 1.0
    seed: int = 0
    filtered: bool = True
    """Whether what the quality rules refuse, and what held-out examples ask, is passed
    over (data/removal.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSettings:
    """A part of the training: its share of the steps, and weights by task."""

    share: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """The machines that train, on this computer; 0: this process alone, unprotected.

    By default two, each with a rank: they share the two cores that the whole is meant
    for, and each holds a copy of the other's state."""

    machines: int = 2
    ranks_per_machine: int = 1
    standbys: int = 0
    threads: int = 1
    """Of each rank's computing; bits depend on it."""
    storage_every_s: float = 30.0
    """At least so long lies between steps that go to disk (RUN/steps), from which
    training goes on when the whole job was lost; 0: none does."""
    seconds_max: float = 0.0
    """After so long training ends early; 0: never. Bits then depend on speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How many held-out items of each task are asked, and of which tasks (all)."""

    limit: int = 500
    tasks: tuple[str, ...] = ()


WEIGHTS: dict[str, float] = {
    "image_digit": 3.0,
    "image_sum": 3.0,
    "spoken_digit": 1.5,
    "speech_image_match": 5.0,
    "video_direction": 1.0,
    "translation_number": 1.0,
    "translation_text": 0.3,
    "addition": 0.4,
    "retrieval": 0.3,
    "ocr_word": 0.5,
    "scene": 0.7,
    "docstring": 0.3,
    "code": 0.15,
}
"""Of the default mixture. A store may lack a task, and then the others are trained."""
FULL = TrainConfig(
    steps=1200,
    shape=BatchShape(rows=8, tokens=256, images=96, audio=64),
    learning_rate=4e-3,
    warm_up=60,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole run. Invariant: the tokenizer has `model.vocabulary` pieces."""

    model: ModelConfig = TINY
    data: DataSettings = DataSettings()
    train: TrainConfig = FULL
    mixture: tuple[StageSettings, ...] = (StageSettings(weights=WEIGHTS),)
    job: JobSettings = JobSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tensorboard: bool = False
    """Whether TensorBoard's events are written. Its library imports torch where that
    is installed: seconds at every start."""


def to_toml(recipe: Recipe) -> str:
    """Returns the recipe as TOML that from_toml() reads back."""
    values = msgspec.to_builtins(recipe)
    return "\n".join(_table((), values)).lstrip() + "\n"


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    plain, inner = list[str](), list[str]()
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, dict):
            inner += ["", f"[{'.'.join(here)}]", *_table(here, value)]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for each in value:
                inner += ["", f"[[{'.'.join(here)}]]", *_table(here, each)]
        elif value is not None:
            plain.append(f"{name} = {_value(value)}")
    return [*plain, *inner]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(each) for each in value)}]"
    return json.dumps(value)  # strings, numbers and booleans are the same in TOML


def from_toml(text: str, *, name: str = "run.toml") -> Recipe:
    """Returns the recipe of a TOML text; what it does not say is as by default.

    Raises: ConfigError naming the setting and what is allowed."""
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is no TOML: {error}") from error
    unknown = list(_unknown(values, Recipe, ""))
    if unknown:
        raise ConfigError(f"{name} has unknown setting(s): {', '.join(unknown)}")
    whole = _merged(msgspec.to_builtins(Recipe()), values)
    try:
        return msgspec.convert(whole, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from error


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Returns the recipe with settings changed by their dotted names, as in
    {"train.steps": 100}; None leaves a setting as it is.

    Raises: ConfigError naming a setting that there is not, or its value."""
    values = msgspec.to_builtins(recipe)
    for name, value in changes.items():
        if value is None:
            continue
        *path, last = name.split(".")
        inner = values
        for part in path:
            inner = inner.get(part, {}) if isinstance(inner, dict) else {}
        if not isinstance(inner, dict) or last not in inner:
            raise ConfigError(f"no setting {name!r}; see the run's run.toml")
        inner[last] = value
    try:
        return msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{', '.join(changes)}: {error}") from error


def _merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    merged = dict(under)
    for name, value in over.items():
        # A mixture that is given is the whole mixture, weights are not added to it.
        whole = name not in under or name == "weights"
        merged[name] = value if whole else _merged(under[name], value)
    return merged


INNER: dict[tuple[type, str], type] = {
    (Recipe, "model"): ModelConfig,
    (Recipe, "data"): DataSettings,
    (Recipe, "train"): TrainConfig,
    (Recipe, "mixture"): StageSettings,
    (Recipe, "job"): JobSettings,
    (Recipe, "evaluation"): EvaluationSettings,
    (ModelConfig, "tower"): TowerConfig,
    (TrainConfig, "shape"): BatchShape,
}


def _unknown(values: Any, kind: type, path: str) -> list[str]:
    """Dotted names of settings that `kind` does not have."""
    found: list[str] = []
    for each in values if isinstance(values, list) else [values]:
        if not isinstance(each, dict):
            continue  # of a wrong type, as the conversion says
        known = {entry.name for entry in dataclasses.fields(kind)}
        for name, value in each.items():
            if name not in known:
                found.append(f"{path}{name}")
            elif (kind, name) in INNER:
                found += _unknown(value, INNER[kind, name], f"{path}{name}.")
    return found
