"""A training by transformers that ends early and starts again ends with the same bits.

The reference is the same training without twinstep. The whole job, with a killed rank,
is for `make test-integrations`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import twinstep
from tests.adapters.own_memory import Killed, OwnMemory
from tests.adapters.whole_jobs import comes_back, takes_integrations
from tests.trial import Trial, trial
from tests.workloads.kills import Kills
from tests.workloads.transformers_tiny import trained
from twinstep.adapters import transformers as subject
from twinstep.adapters.transformers import TwinstepCallback
from twinstep.errors import OrderError, StateError

__all__ = ["trial"]

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def reference(**settings: Any) -> str:
    return trained(Kills(), ranks=1, **settings)


def goes_on(monkeypatch: pytest.MonkeyPatch, *, step: int, **settings: Any) -> str:
    memory = OwnMemory()
    monkeypatch.setattr(twinstep, "Session", memory.session, raising=False)
    memory.dies_at = step
    with pytest.raises(Killed):
        trained(Kills(), TwinstepCallback(), ranks=1, **settings)
    memory.dies_at = 0
    found = trained(Kills(), TwinstepCallback(), ranks=1, **settings)
    assert memory.sessions[-1].closed
    return found


@pytest.mark.parametrize("step", [1, 4, 5])
def test_it_goes_on_in_an_epoch_and_between_two(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert goes_on(monkeypatch, step=step) == reference()


def test_an_order_from_the_global_generator_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"accelerator_config": {"use_seedable_sampler": False}, "max_steps": 9}
    assert goes_on(monkeypatch, step=6, **settings) == trained(
        Kills(), ranks=1, **settings
    )


def test_one_training_of_a_script_is_protected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twinstep, "Session", OwnMemory().session, raising=False)
    callback = TwinstepCallback()
    trained(Kills(), callback, ranks=1, max_steps=1)
    with pytest.raises(OrderError, match="train once in a script"):
        trained(Kills(), callback, ranks=1, max_steps=1)


def test_a_version_without_what_is_needed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "EPOCH_ARGUMENTS", {"gone"})
    with pytest.raises(StateError, match=r"transformers 5\.\S+ has no gone in Trainer"):
        trained(Kills(), TwinstepCallback(), ranks=1)


def test_what_would_not_go_on_is_refused() -> None:
    with pytest.raises(StateError, match="ignore_data_skip=True"):
        trained(Kills(), TwinstepCallback(), ranks=1, ignore_data_skip=True)


@takes_integrations
@pytest.mark.timeout(600)
@pytest.mark.parametrize("at", [13, 17])
def test_a_killed_rank_comes_back(at: int, trial: Trial) -> None:
    comes_back(trial, script="transformers_tiny.py", at=at)
