"""The planner gives the numbers that the papers have printed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from twinstep.decoder import scaling
from twinstep.decoder.scaling import BESIROGLU, HOFFMANN, HOFFMANN_TEXT, LAWS
from twinstep.decoder.scaling_fit import SmallRun, fit, read_runs
from twinstep.errors import UsageError

GOPHER_FLOPS = 5.76e23


def test_besiroglu_says_chinchilla_was_right() -> None:
    """Hoffmann et al., section 4: 70B parameters and 1.4T tokens for Gopher's budget;
    Besiroglu et al. 2024 find their own constants to agree with that."""
    best = scaling.best(GOPHER_FLOPS, BESIROGLU)
    assert best.parameters == pytest.approx(70e9, rel=0.05)
    assert best.tokens == pytest.approx(1.4e12, rel=0.06)
    assert best.tokens_per_parameter == pytest.approx(20, rel=0.1)


def test_hoffmanns_third_approach_gave_a_smaller_model() -> None:
    """Hoffmann et al., section 3.3: 40B parameters for the Gopher budget; the rounded
    constants of the text miss even that (Besiroglu et al., section 3.1)."""
    assert scaling.best(GOPHER_FLOPS, HOFFMANN).parameters == pytest.approx(
        40e9, rel=0.02
    )
    rounded = scaling.best(GOPHER_FLOPS, HOFFMANN_TEXT).parameters
    assert not 36e9 < rounded < 44e9


@pytest.mark.parametrize(
    ("parameters", "flops", "tokens"),
    [
        (400e6, 1.92e19, 8.0e9),
        (1e9, 1.21e20, 20.2e9),
        (10e9, 1.23e22, 205.1e9),
        (67e9, 5.76e23, 1.5e12),
        (175e9, 3.85e24, 3.7e12),
        (280e9, 9.90e24, 5.9e12),
    ],
)
def test_the_rule_of_thumb_is_table_3(
    parameters: float, flops: float, tokens: float
) -> None:
    """Hoffmann et al., table 3 (approach 1)."""
    rule = scaling.rule_of_thumb(flops)
    assert rule.parameters == pytest.approx(parameters, rel=0.05)
    assert rule.tokens == pytest.approx(tokens, rel=0.08)
    assert rule.loss is None


def test_losses_of_chinchilla_and_gopher() -> None:
    """By equation 10: 1.94 for Chinchilla and 1.99 for Gopher (280B, 300B tokens)."""
    assert HOFFMANN_TEXT.loss(70e9, 1.4e12) == pytest.approx(1.936, abs=0.001)
    assert HOFFMANN_TEXT.loss(280e9, 300e9) == pytest.approx(1.993, abs=0.001)


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
@pytest.mark.parametrize("flops", [5e13, 1e20, 1e26])
def test_the_best_budget_is_no_worse_than_its_neighbours(
    law: scaling.Law, flops: float
) -> None:
    best = scaling.best(flops, law)
    assert best.training_flops == pytest.approx(flops)
    assert best.loss is not None
    for factor in (0.5, 0.9, 1.1, 2.0):
        other = law.loss(best.parameters * factor, best.tokens / factor)
        assert other > best.loss


def test_ten_minutes_at_home() -> None:
    """Two cores at 80 GFLOP/s for ten minutes: about 0.6M parameters, 13M tokens."""
    home = scaling.rule_of_thumb(600 * 80e9)
    assert home.parameters == pytest.approx(0.63e6, rel=0.02)
    assert home.tokens == pytest.approx(12.6e6, rel=0.02)


def test_what_is_served_makes_the_model_smaller_and_the_whole_cheaper() -> None:
    trained = scaling.best(1e21, BESIROGLU)
    assert trained.loss is not None
    alone = scaling.best_for_serving(trained.loss, 0.0, BESIROGLU)
    assert alone.parameters == pytest.approx(trained.parameters, rel=1e-4)
    assert alone.tokens == pytest.approx(trained.tokens, rel=1e-3)
    last = alone
    for served in (1e10, 1e12, 1e14):
        budget = scaling.best_for_serving(trained.loss, served, BESIROGLU)
        assert budget.loss == pytest.approx(trained.loss)
        assert budget.parameters < last.parameters and budget.tokens > last.tokens
        unchanged = 1e21 + scaling.SERVING_FLOPS * trained.parameters * served
        assert budget.flops < unchanged
        last = budget


def test_a_model_that_is_too_small_never_reaches_the_loss() -> None:
    assert scaling.tokens_for(1e3, 2.0, BESIROGLU) == math.inf
    with pytest.raises(UsageError, match="which no model betters"):
        scaling.best_for_serving(1.8, 1e9, BESIROGLU)


@pytest.mark.parametrize("flops", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(flops: float) -> None:
    with pytest.raises(UsageError, match="flops"):
        scaling.best(flops, BESIROGLU)


def test_an_unknown_law_is_answered_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="besiroglu, hoffmann, hoffmann-text"):
        scaling.law_named("kaplan")


def runs_of(law: scaling.Law, *, noise: float, seed: int = 0) -> list[SmallRun]:
    random = np.random.default_rng(seed)
    return [
        SmallRun(
            parameters=parameters,
            tokens=tokens,
            loss=law.loss(parameters, tokens) * math.exp(noise * random.normal()),
        )
        for parameters in (1e5, 3e5, 1e6, 3e6)
        for tokens in (1e6, 4e6, 2e7)
    ]


LARGER = SmallRun(parameters=3e7, tokens=3e8, loss=0.0)


def test_a_fit_finds_the_law_that_the_runs_follow() -> None:
    found = fit(runs_of(BESIROGLU, noise=0.0)).law
    assert found.alpha == pytest.approx(BESIROGLU.alpha, rel=0.02)
    assert found.beta == pytest.approx(BESIROGLU.beta, rel=0.02)
    assert found.loss(LARGER.parameters, LARGER.tokens) == pytest.approx(
        BESIROGLU.loss(LARGER.parameters, LARGER.tokens), rel=0.005
    )


def test_a_fit_of_noisy_runs_foretells_a_larger_one_with_its_interval() -> None:
    runs = runs_of(BESIROGLU, noise=0.005, seed=3)
    runs[4] = SmallRun(parameters=3e5, tokens=4e6, loss=runs[4].loss * 1.3)
    found = fit(runs, draws=6, seed=1)
    truth = BESIROGLU.loss(LARGER.parameters, LARGER.tokens)
    loss, between = found.prediction(LARGER)
    assert loss == pytest.approx(truth, rel=0.05), "one bad run must not rule"
    assert between is not None and between[0] < truth < between[1]
    assert set(found.intervals()) >= {"alpha", "beta", "irreducible"}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (runs_of(BESIROGLU, noise=0)[:5], "5 runs; at least 6"),
        ([SmallRun(parameters=1e6, tokens=t, loss=3) for t in range(1, 8)], "vary"),
        ([SmallRun(parameters=1e6, tokens=1e6, loss=-1)] * 6, "loss is -1"),
    ],
)
def test_runs_from_which_nothing_can_be_learnt_are_refused(
    runs: list[SmallRun], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        fit(runs)


def test_runs_are_read_from_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"N": 1e6, "D": 2e7, "loss": 3.1}) + "\n\n")
    assert read_runs(path) == [SmallRun(parameters=1e6, tokens=2e7, loss=3.1)]
    path.write_text('{"N": 1e6}\n')
    with pytest.raises(UsageError, match="line 1"):
        read_runs(path)
