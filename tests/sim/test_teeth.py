"""Bugs planted into the shipped decisions: the simulator finds each within SEEDS.

FOUND says which seed was the first to find each. It is tried first, to save time; when
the simulator has changed and it finds nothing, all seeds are gone through.

    python -m tests.sim.test_teeth       # searches anew, and prints JSON
"""

from __future__ import annotations

import json

import pytest

from tests.mutations import MUTATIONS, Mutation
from twinstep.sim.explore import run

SEEDS = 1000
FOUND = {
    "the_slot_of_keep_is_handed_out": 35,
    "each_machine_chooses_its_own_keep": 35,
    "a_step_is_kept_when_one_machine_finds_it_safe": 6,
    "a_shard_is_safe_when_its_owner_has_it": 2,
    "a_copy_counts_when_it_is_sent": 2,
    "a_restored_step_is_safe_at_once": 2,
    "a_holder_ignores_the_senders_keep": 2,
    "an_older_roots_words_are_heard": 176,
    "offers_of_an_earlier_round_are_taken": 319,
    "a_deposed_root_stays_root": 534,
    "slots_are_freed_while_ranks_live": 0,
    "acknowledgements_outlive_their_round": 2,
    "what_was_kept_outlives_its_round": 6,
    "the_newest_step_is_taken_whole_or_not": 2,
    "copies_of_two_rounds_make_one_step": 237,
    "a_hang_is_never_noticed": 67,
}


def found_after(mutation: Mutation, *, hint: int = 0) -> tuple[int, str]:
    """Returns a seed that finds the bug and what it says; -1 if none does."""
    with mutation():
        for seed in (hint, *range(SEEDS)):
            found = run(seed)
            if found.invariant:
                return seed, found.what
    return -1, ""


def test_there_are_enough_of_them() -> None:
    assert len(MUTATIONS) >= 20
    assert len({mutation.__name__ for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__)
def test_the_simulator_finds_a_planted_bug(mutation: Mutation) -> None:
    name = mutation.__name__
    seed, _what = found_after(mutation, hint=FOUND.get(name, 0))
    assert seed >= 0, f"{name}: not found within {SEEDS} seeds"


if __name__ == "__main__":
    bugs = []
    for mutation in MUTATIONS:
        seed, what = found_after(mutation)
        bugs.append({"bug": mutation.__name__, "seeds": seed + 1, "what": what})
        print(json.dumps(bugs[-1]), flush=True)
