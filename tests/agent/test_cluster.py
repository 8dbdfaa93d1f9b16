"""Whole clusters of shipped decisions, from a seed: nothing that is kept is lost.

In each, something is killed, cut off, paused, frozen, slowed down or corrupted, in any
phase; toy_check.py watches, and training must go on afterwards. A red seed runs again
with `explore(seed)`; to look further, raise SEEDS.
"""

from __future__ import annotations

import pytest

from tests.agent.toy import Toy
from tests.agent.toy_faults import explore

SEEDS = 160
PARTS = 8
ILL = 180


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_undisturbed_job_keeps_up(shared: bool, ranks: int) -> None:
    for seed in range(3):
        toy = Toy(seed=seed, shared=shared, ranks=ranks)
        toy.run(steps=20)
        assert toy.root is not None and toy.root.ballot.keep > 10, f"seed={seed}"
        assert toy.check.began == [0], f"seed={seed}"


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_kept_survives_whatever_is_done(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        explore(seed)


def test_machines_that_fall_ill_are_replaced_and_nothing_is_lost_by_it() -> None:
    replaced = 0
    for seed in range(ILL):
        toy = explore(seed, ill=True)
        replaced += sum("gives up its place" in line for line in toy.logs)
    assert replaced > ILL / 5, "or nothing was tried"


def test_two_machines_may_be_lost_in_a_row_once_the_copies_exist_again() -> None:
    lost = 0
    for seed in range(12):
        toy = Toy(seed=seed, machines=4, standbys=0)
        for steps in (10, 20, 30):
            toy.run(steps=steps)
            assert toy.root is not None
            kept = toy.root.ballot.keep
            rounds = len(toy.check.began)
            toy.kill_machine(toy.random.choice(sorted(toy.machines)))
            toy.run(steps=steps + 1)
            lost += 1
            assert len(toy.check.began) > rounds, f"seed={seed}"
            assert toy.check.began[rounds] >= kept > 0, f"seed={seed}"
    assert lost == 36


def test_one_seed_gives_one_run() -> None:
    first, second = explore(7), explore(7)
    assert list(first.logs) == list(second.logs)
    assert first.now_s == second.now_s
