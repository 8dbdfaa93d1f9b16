"""A step learns, clips, skips what is not finite, and gives the same bits again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from tests.decoder.train.double import CONFIG, SPEC, TRAIN, Batches, loss
from twinstep.decoder.train.initial import drawn, initial_state
from twinstep.decoder.train.settings import TrainConfig
from twinstep.decoder.train.step import (
    Shardings,
    learning_rate,
    make_step,
)
from twinstep.errors import UsageError


@pytest.fixture(scope="module")
def step() -> Any:
    return make_step(CONFIG, TRAIN, loss=loss, spec=SPEC)


def start(seed: int | None = None) -> dict[str, Any]:
    return initial_state(CONFIG, TRAIN, seed, spec=SPEC)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_run_learns_and_twice_gives_the_same_bits(step: Any) -> None:
    ends = []
    for _ in range(2):
        state, losses = start(), []
        for k, batch in zip(range(TRAIN.steps), Batches(), strict=True):
            assert int(state["step"]) == k
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < 0.5 * losses[0]
        assert int(metrics["tokens"]) == 4 * 12 and bool(metrics["finite"])
        ends.append(bits(state))
    assert ends[0] == ends[1]


def test_another_seed_starts_elsewhere() -> None:
    assert bits(start(1)) == bits(start(1)) != bits(start(2))
    assert bits(start()) == bits(start(TRAIN.seed))


def test_a_parameters_numbers_follow_from_its_name_and_the_seed() -> None:
    few, more = drawn(SPEC, 3), drawn(SPEC | {"another": SPEC["embed"]}, 3)
    assert all(bits(few[name]) == bits(more[name]) for name in few)
    assert bits(more["another"]) != bits(more["embed"])
    assert np.std(few["embed"]) == pytest.approx(
        SPEC["embed"].shape[0] ** -0.5, rel=0.2
    )
    assert (few["norm"] == 1).all()


def test_a_step_that_is_not_finite_changes_the_number_only(step: Any) -> None:
    state, _ = step(start(), Batches()[0])
    after, metrics = step(state, Batches(poison=1)[1])
    assert not bool(metrics["finite"])
    assert int(after["step"]) == 2
    for part in ("params", "optimizer"):
        assert bits(after[part]) == bits(state[part])
    onwards, metrics = step(after, Batches()[2])
    assert bool(metrics["finite"]) and bits(onwards["params"]) != bits(after["params"])


def test_a_long_gradient_moves_no_further_than_a_clipped_one() -> None:
    # With this epsilon Adam's first update is nearly the gradient itself.
    train = replace(TRAIN, clip=1e-3, weight_decay=0.0, epsilon=1.0)
    made = make_step(CONFIG, train, loss=loss, spec=SPEC)
    state, metrics = made(start(), Batches()[0])
    assert float(metrics["grad_norm"]) > 0.1
    moved = np.asarray(state["params"]["embed"] - start()["params"]["embed"])
    rate = float(metrics["lr"])
    assert 0.01 * rate * train.clip < np.abs(moved).max() < 1.01 * rate * train.clip


def test_norms_are_not_decayed() -> None:
    train = replace(TRAIN, weight_decay=1.0, warm_up=0)
    made = make_step(
        CONFIG, train, loss=lambda p, b: (0.0 * p["norm"].sum(), 1.0), spec=SPEC
    )
    state, _ = made(start(), Batches()[0])
    before = start()["params"]
    assert bits(state["params"]["norm"]) == bits(before["norm"])
    shrunk = np.asarray(state["params"]["embed"]) / np.asarray(before["embed"])
    assert shrunk == pytest.approx(1 - train.learning_rate, abs=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_rate_rises_stays_and_falls(schedule: str) -> None:
    train = TrainConfig(
        steps=100, learning_rate=1.0, warm_up=10, schedule=schedule, final_share=0.1
    )
    rates = np.asarray(jax.vmap(lambda s: learning_rate(train, s))(np.arange(100)))
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert (np.diff(rates[10:]) <= 1e-6).all()
    assert (rates[79] == 1.0) == (schedule == "wsd")


def test_shardings_are_kept_and_a_donated_state_is_gone() -> None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where = Shardings(state=device, batch=device, metrics=device)
    made = make_step(CONFIG, TRAIN, loss=loss, spec=SPEC, shardings=where, donate=True)
    state = jax.device_put(start(), device)
    after, _ = made(state, Batches()[0])
    assert state["params"]["embed"].is_deleted()
    assert not after["params"]["embed"].is_deleted()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "linear"}, "cosine, wsd"),
        ({"warm_up": 40}, "less than steps"),
        ({"final_share": 1.5}, "final_share is 1.5"),
        ({"clip": 0.0}, "clip is 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        replace(TRAIN, **changes)
