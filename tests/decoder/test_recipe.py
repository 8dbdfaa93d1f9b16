"""A run's settings survive their file, and what is not one is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from twinstep.decoder.config import MINI
from twinstep.decoder.recipe import (
    JobSettings,
    Recipe,
    StageSettings,
    changed,
    from_toml,
    to_toml,
)
from twinstep.decoder.run import Run, with_vocabulary
from twinstep.errors import ConfigError, UsageError

STAGES = (
    StageSettings(share=0.7, weights={"image_digit": 1.5}),
    StageSettings(share=0.3, weights={"code": 1.0, "addition": 2.0}),
)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(model=replace(MINI, logit_cap=30.0), mixture=STAGES, tensorboard=True),
        Recipe(job=JobSettings(machines=0, seconds_max=12.5)),
    ],
)
def test_toml_and_back(recipe: Recipe) -> None:
    assert from_toml(to_toml(recipe)) == recipe


def test_what_a_file_does_not_say_is_as_by_default() -> None:
    recipe = from_toml("[train]\nsteps = 70\n[train.shape]\nrows = 2\n")
    assert recipe.train == replace(
        Recipe().train, steps=70, shape=replace(Recipe().train.shape, rows=2)
    )
    assert recipe.model == Recipe().model
    mixture = from_toml("[[mixture]]\nweights = {code = 1}\n").mixture
    assert mixture == (StageSettings(weights={"code": 1.0}),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train = [", "is no TOML"),
        ("[train]\nstepz = 3", "unknown setting.*: train.stepz"),
        ("[model.tower]\nsize = 3", "model.tower.size"),
        ("[[mixture]]\nshares = 3", "mixture.shares"),
        ("[train]\nsteps = 'many'", "train.steps"),
        ("[train]\nwarm_up = 1600", "less than steps"),
        ("train = 3", "train"),
    ],
)
def test_what_cannot_be_is_named(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        from_toml(text)


def test_arguments_win() -> None:
    recipe = changed(Recipe(), {"train.steps": 99, "job.machines": None})
    assert recipe.train.steps == 99 and recipe.job == Recipe().job
    assert with_vocabulary(recipe, 512).model.vocabulary == 512
    with pytest.raises(ConfigError, match="no setting 'train.stepz'"):
        changed(Recipe(), {"train.stepz": 1})
    with pytest.raises(ConfigError, match="train.steps"):
        changed(Recipe(), {"train.steps": "few"})


def test_a_run_says_which_stage_is_missing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.recipe() == Recipe()
    run.keep(changed(Recipe(), {"train.steps": 99}))
    assert run.recipe().train.steps == 99
    for require, stage in (
        (run.require_data, "data"),
        (run.require_tokenizer, "tokenizer"),
        (run.require_model, "train"),
    ):
        with pytest.raises(UsageError, match=f"run `twinstep decoder {stage}"):
            require()
    assert run.last_step(50) == 50
    run.stop_at.write_text("20")
    assert run.last_step(50) == 20 and run.last_step(10) == 10
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        Run(tmp_path / "file").keep(Recipe())
