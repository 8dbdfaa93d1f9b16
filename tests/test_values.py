"""Ranks, machines and shards keep their numbers."""

from __future__ import annotations

import pytest

from twinstep.errors import ConfigError
from twinstep.values import Grid, chunk_count


def test_own_shards_are_numbered_as_ranks_and_shared_ones_after_them() -> None:
    grid = Grid(machines=3, ranks_per_machine=2)
    assert list(grid.shards) == list(range(8))
    assert [s for s in grid.shards if grid.is_shared(s)] == [6, 7]
    assert grid.captured_by(1) == [2, 3, 6, 7]
    assert [grid.machine_rank(rank) for rank in range(6)] == [0, 0, 1, 1, 2, 2]
    assert grid.shared_shard(1) == 7


@pytest.mark.parametrize(("machines", "ranks"), [(0, 1), (1, 0)])
def test_a_grid_has_a_machine_and_a_rank(machines: int, ranks: int) -> None:
    with pytest.raises(ConfigError, match=r"machines \(\d\) and ranks_per_machine"):
        Grid(machines=machines, ranks_per_machine=ranks)


def test_a_last_chunk_may_be_short() -> None:
    assert [chunk_count(size, 10) for size in (0, 1, 10, 11)] == [0, 1, 1, 2]
