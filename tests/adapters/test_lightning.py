"""A Lightning fit that ends early and starts again ends with the same bits.

The reference is the same fit without twinstep. The whole job, with a killed rank, is
for `make test-integrations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

pytest.importorskip("lightning")

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.utils.data import DataLoader, IterableDataset, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import twinstep
from tests.adapters.own_memory import Killed, OwnMemory
from tests.adapters.whole_jobs import comes_back, takes_integrations
from tests.trial import Trial, trial
from tests.workloads.kills import Kills
from tests.workloads.lightning_tiny import Noisy, shuffled, trained
from twinstep.adapters import lightning as subject
from twinstep.adapters.lightning import TwinstepCallback
from twinstep.errors import OrderError, StateError

__all__ = ["trial"]

pytestmark = pytest.mark.filterwarnings("ignore")
Loader = Callable[[], Any]


class Stream(IterableDataset[torch.Tensor]):
    """Gives the same in each epoch."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        noise = torch.Generator().manual_seed(8)
        for _ in range(28):
            yield torch.randn(8, generator=noise)


class Telling(Stream):
    """Goes on in the next epoch, and says where it stands."""

    def __init__(self) -> None:
        self.noise = torch.Generator().manual_seed(8)
        self.given = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        first, self.given = self.given % 28, self.given % 28
        for _ in range(first, 28):
            self.given += 1
            yield torch.randn(8, generator=self.noise)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given, "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]
        self.noise.set_state(state["noise"])


def own_generator() -> Any:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator)


def single_items() -> Any:
    items = RandomSampler(Noisy(), num_samples=7, replacement=True)
    return DataLoader(Noisy(), sampler=items, batch_size=None, collate_fn=one_batch)


def one_batch(item: torch.Tensor) -> torch.Tensor:
    return item + torch.randn(4, 8)


def workers() -> Any:
    return DataLoader(
        list(torch.randn(28, 8)), batch_size=4, shuffle=True, num_workers=1
    )


def stateful() -> Any:
    return StatefulDataLoader(Noisy(), batch_size=4, shuffle=True)


def stateful_stream() -> Any:
    return StatefulDataLoader(Telling(), batch_size=4)


def stream() -> Any:
    return DataLoader(Stream(), batch_size=4)


class Batches:
    """Not a DataLoader at all."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(7 * 32.0).reshape(7, 4, 8) / 100)

    def __len__(self) -> int:
        return 7


@cache
def reference(loader: Loader, **settings: Any) -> str:
    return trained(Kills(), nodes=1, loader=loader, **settings)


def goes_on(
    monkeypatch: pytest.MonkeyPatch, *, step: int, loader: Loader, **settings: Any
) -> str:
    memory = OwnMemory()
    monkeypatch.setattr(twinstep, "Session", memory.session, raising=False)
    memory.dies_at = step
    with pytest.raises(Killed):
        trained(Kills(), TwinstepCallback(), nodes=1, loader=loader, **settings)
    memory.dies_at = 0
    found = trained(Kills(), TwinstepCallback(), nodes=1, loader=loader, **settings)
    assert [session.closed for session in memory.sessions] == [True, True]
    return found


@pytest.mark.parametrize("step", [1, 4, 5])
def test_it_goes_on_in_an_epoch_and_between_two(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = goes_on(monkeypatch, step=step, loader=shuffled)
    assert found == reference(shuffled)


@pytest.mark.parametrize(
    "loader",
    [own_generator, single_items, workers, stateful, stateful_stream, stream, Batches],
)
def test_loaders_go_on_where_they_stood(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (4, 5):
        found = goes_on(monkeypatch, step=step, loader=loader, val_check_interval=1.0)
        assert found == reference(loader, val_check_interval=1.0), step


def test_updates_that_end_a_run_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 1}
    found = goes_on(monkeypatch, step=7, loader=shuffled, **settings)
    assert found == reference(shuffled, **settings)


def test_one_fit_of_a_script_is_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twinstep, "Session", OwnMemory().session, raising=False)
    callback = TwinstepCallback()
    trained(Kills(), callback, nodes=1, max_epochs=1)
    with pytest.raises(OrderError, match="fit once in a script"):
        trained(Kills(), callback, nodes=1, max_epochs=1)


def test_a_version_without_what_is_needed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "INTERNALS", ("fit_loop.gone",))
    with pytest.raises(
        StateError, match=r"Lightning 2\.\S+ has no trainer.fit_loop.gone"
    ):
        trained(Kills(), TwinstepCallback(), nodes=1)


def test_what_would_not_go_on_is_refused() -> None:
    with pytest.raises(StateError, match="counts from the start of a process"):
        trained(
            Kills(), TwinstepCallback(), nodes=1, reload_dataloaders_every_n_epochs=2
        )
    with pytest.raises(StateError, match="WeightAveraging keeps its average"):
        trained(Kills(), TwinstepCallback(), WeightAveraging(), nodes=1)


@takes_integrations
@pytest.mark.timeout(600)
@pytest.mark.parametrize("at", [12, 15])
def test_a_killed_rank_comes_back(at: int, trial: Trial) -> None:
    comes_back(trial, script="lightning_tiny.py", at=at)
