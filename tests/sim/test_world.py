"""A simulated cluster by itself: it keeps up, and comes back from loss after loss."""

from __future__ import annotations

from random import Random

import pytest

from twinstep.agent import ballot
from twinstep.sim.check import Violation
from twinstep.sim.world import Settings, World


def world(seed: int = 1, **settings: object) -> World:
    return World(settings=Settings(**settings), random=Random(seed))


def trained(made: World, steps: int) -> World:
    """The cluster has made so many steps in its present round."""
    made.run_to_health()
    root = made.root
    assert root is not None and root.begin is not None
    goal = root.begin.step + steps
    while root.ballot.answered < goal or root.ballot.keep < goal - 5:
        made.run_until(made.events.now_s + 1.0)
        assert made.events.now_s < 300.0
    return made


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_undisturbed_job_keeps_up(shared: bool, ranks: int) -> None:
    made = trained(world(shared=shared, ranks=ranks), 20)
    assert made.root is not None and made.root.ballot.keep > 10
    assert made.check.began == [0]


def lag(made: World, *, from_s: float, to_s: float) -> int:
    """By how many steps what is safe is behind, at the worst."""
    worst = 0
    made.run_until(from_s)
    while made.events.now_s < to_s:
        made.run_until(made.events.now_s + 0.05)
        assert made.root is not None
        worst = max(worst, made.root.ballot.reached - made.root.ballot.keep)
    return worst


def test_steps_are_kept_that_are_over_before_an_answer_can_come(monkeypatch) -> None:
    short = {"step_s": 0.02, "delay_s": 0.01, "start_s": 0.05, "chunk_s": 0.0005}
    ahead = [lag(world(seed, **short), from_s=4.0, to_s=10.0) for seed in (0, 4, 5)]
    monkeypatch.setattr(ballot, "AHEAD_MAX", 0)
    never = [lag(world(seed, **short), from_s=4.0, to_s=10.0) for seed in (0, 4, 5)]
    assert max(ahead) < 25 < min(never), (ahead, never)
    monkeypatch.undo()
    shorter = world(**{**short, "step_s": 0.005})
    shorter.run_until(3.0)
    assert shorter.root is not None
    before = shorter.root.ballot.keep
    shorter.run_until(6.0)
    assert shorter.root.ballot.keep > before + 100


def test_a_machine_that_trains_is_root_though_others_were_given_since() -> None:
    for seed in range(6):
        made = world(seed, machines=2, standbys=2, operator_s=0.1)
        for _ in range(4):
            trained(made, 10)
            (name,) = [n for n, agent in made.agents.items() if agent.rooting.root]
            assert made.agents[name].worker.machine_rank >= 0, f"seed={seed}: {name}"
            made.kill_machine(name)
            made.run_until(made.events.now_s + 3.0)


def test_two_machines_may_be_lost_in_a_row_once_the_copies_exist_again() -> None:
    for seed in range(4):
        made = world(seed, machines=4, standbys=0)
        for _ in range(3):
            trained(made, 10)
            assert made.root is not None
            kept, rounds = made.root.ballot.keep, len(made.check.began)
            made.kill_machine(made.random.choice(sorted(made.agents)))
            made.run_until(made.events.now_s + 2.0)
            trained(made, 1)
            assert made.check.began[rounds] >= kept > 0, f"seed={seed}"


def test_what_may_not_happen_is_a_violation_by_number() -> None:
    made = trained(world(), 10)
    made.check.roots[99] = "m00"
    with pytest.raises(Violation, match="2: term 99 has two roots: m00 and m01"):
        made.check.elected("m01", 99)
    kept = made.check.kept
    assert kept is not None
    name = sorted(kept.holders[0])[0]
    memory = made.agents[name].memory
    slot = next(s for s in (0, 1) if (memory.version((0, s)) or (0,))[0] == kept.step)
    with pytest.raises(Violation, match="1: .* overwrites shard 0"):
        made.check.overwrites(name, (0, slot))


def test_the_step_falls_behind_when_the_store_is_away_but_training_goes_on() -> None:
    made = trained(world(), 10)
    assert made.root is not None
    before = made.root.ballot.answered
    made.store.away = True
    made.run_until(made.events.now_s + 20.0)
    made.store.away = False
    made.run_until(made.events.now_s + 10.0)
    root = made.root
    assert root is not None and root.ballot.answered > before + 50
    assert made.check.began == [0]
