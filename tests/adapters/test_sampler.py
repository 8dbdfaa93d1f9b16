"""Every sample of an epoch is taken once, whatever number of ranks takes them."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.data import DataLoader

from twinstep.adapters.sampler import GlobalSampler


def samplers(world: int, **changes: Any) -> list[GlobalSampler]:
    given = {"batch": 6, "seed": 5, "world": world} | changes
    return [GlobalSampler(40, rank=rank, **given) for rank in range(world)]


def train(ranks: list[GlobalSampler], updates: int, workers: int = 0) -> list[int]:
    """Returns the samples that all ranks trained on, update by update."""
    found: list[list[int]] = [[] for _ in range(updates)]
    for sampler in ranks:
        loader = DataLoader(range(40), batch_sampler=sampler, num_workers=workers)
        for update, samples in zip(
            range(updates), sampler.counted(loader), strict=False
        ):
            found[update] += samples.tolist()
    return [sample for samples in found for sample in samples]


@pytest.mark.parametrize("worlds", [(1, 1), (2, 3), (3, 2), (4, 6), (6, 1)], ids=str)
def test_no_sample_is_skipped_or_repeated(worlds: tuple[int, int]) -> None:
    alone = train(samplers(1), 6)
    assert len(set(alone)) == 36
    then, now = map(samplers, worlds)
    begun = train(then, 2)
    states = [sampler.state_dict() for sampler in then]
    for rank, sampler in enumerate(now):
        sampler.load_state_dicts(states, rank=rank, world_size=len(now))
        assert len(sampler) == 4
    assert begun + train(now, 4) == alone


def test_what_workers_read_ahead_does_not_count() -> None:
    (sampler,) = samplers(1)
    begun = train([sampler], 2, workers=1)
    assert sampler.state_dict()["consumed"] == 12
    assert begun == train(samplers(1), 2)


def test_each_epoch_has_its_own_order_and_seed() -> None:
    (sampler,) = samplers(1)
    first, second = train([sampler], 7), train([sampler], 7)
    assert (sampler.epoch, sampler.consumed) == (2, 0)
    assert first != second
    assert first != train(samplers(1, seed=6), 7)
    assert first == train(samplers(1), 7)


def test_another_order_is_refused() -> None:
    (sampler,) = samplers(1)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="the seed and the length it had"):
        samplers(1, seed=6)[0].load_state_dict(state)
    with pytest.raises(ValueError, match="through counted"):
        sampler.load_state_dicts([state, state | {"consumed": 6}], rank=0, world_size=1)


@pytest.mark.parametrize(("batch", "world"), [(3, 4), (41, 1), (0, 0)])
def test_a_batch_has_a_sample_for_each_rank(batch: int, world: int) -> None:
    with pytest.raises(ValueError, match=f"batch {batch} of 40"):
        GlobalSampler(40, batch=batch, seed=1, rank=0, world=world)
