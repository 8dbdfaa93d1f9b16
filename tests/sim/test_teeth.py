"""Bugs planted into the shipped decisions: the simulator finds each within SEEDS.

FOUND says which seed was the first to find each. It is tried first, to save time; when
the simulator has changed and it finds nothing, all seeds are gone through.

    python -m tests.sim.test_teeth --json teeth.json    # searches anew
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.fewer_mutations import MUTATIONS
from tests.mutations import Mutation
from twinstep.sim.explore import run

SEEDS = 1000
FOUND = {
    "the_slot_of_keep_is_handed_out": 0,
    "each_machine_chooses_its_own_keep": 0,
    "a_step_is_kept_when_one_machine_finds_it_safe": 0,
    "a_shard_is_safe_when_its_owner_has_it": 0,
    "a_copy_counts_when_it_is_sent": 0,
    "a_restored_step_is_safe_at_once": 2,
    "a_holder_ignores_the_senders_keep": 0,
    "a_late_answer_for_a_skipped_step_is_acted_on": 51,
    "a_rank_captures_before_it_stands_at_the_step": 17,
    "a_capture_is_ordered_while_another_lies_ahead": 17,
    "a_holder_acknowledges_before_it_has_verified": 9,
    "a_holder_does_not_verify": 9,
    "twins_that_are_missing_are_not_made_again": 120,
    "a_slot_changes_its_writer_while_the_former_lives": 2,
    "a_half_written_copy_is_listed": 13,
    "a_copy_is_loaded_unseen": 70,
    "answers_of_an_earlier_round_are_accepted": 328,
    "an_older_roots_words_are_heard": 33,
    "offers_of_an_earlier_round_are_taken": 729,
    "a_deposed_root_stays_root": 33,
    "a_root_acts_though_its_lease_may_be_over": 5,
    "the_plan_is_saved_after_begin_is_sent": 24,
    "the_plan_is_not_saved": 0,
    "slots_are_freed_while_ranks_live": 1,
    "acknowledgements_outlive_their_round": 2,
    "what_was_kept_outlives_its_round": 1,
    "the_newest_step_is_taken_whole_or_not": 0,
    "copies_of_two_rounds_make_one_step": 359,
    "a_hang_is_never_noticed": 56,
    "no_machine_is_asked_for": 2,
    "a_machine_that_comes_back_is_not_told_of_the_round": 2,
    "a_failed_send_is_not_tried_again": 2,
    "the_loss_of_a_machine_while_ranks_stop_is_ignored": 0,
    "the_gate_does_not_look_whether_training_is_busy": 0,
    "the_gate_forgets_what_is_on_its_way": 21,
    "a_copy_is_held_back_for_ever": 2,
    "a_span_is_charged_with_the_rest_of_the_copy": 62,
    "a_profile_is_never_made_anew": 12,
    "the_budget_withholds_two_captures_in_a_row": 0,
    "a_capture_once_withheld_is_withheld_for_ever": 0,
    "what_a_slower_machine_needs_is_overwritten": 21,
    "a_pinned_slot_is_handed_out": 2,
    "a_step_is_made_whole_when_one_part_is_missing": 0,
    "a_job_starts_at_step_0_before_the_storage_has_answered": 3,
    "the_storage_is_never_gone_back_to": 0,
    "a_part_that_failed_is_said_to_be_there": 245,
    "slots_are_given_up_before_the_step_is_in_storage": 0,
    "copies_of_another_number_of_machines_count": 0,
    "slots_of_another_number_of_machines_stay": 93,
    "what_a_lost_machine_owned_is_not_written": 0,
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
    assert len(MUTATIONS) >= 26
    assert set(FOUND) <= {mutation.__name__ for mutation in MUTATIONS}
    assert len({mutation.__name__ for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.__name__)
def test_the_simulator_finds_a_planted_bug(mutation: Mutation) -> None:
    name = mutation.__name__
    seed, _what = found_after(mutation, hint=FOUND.get(name, 0))
    assert seed >= 0, f"{name}: not found within {SEEDS} seeds"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Search for each planted bug.")
    parser.add_argument("--json", type=Path, help="Write the result to this file.")
    chosen = parser.parse_args()
    bugs = []
    for mutation in MUTATIONS:
        seed, what = found_after(mutation)
        bugs.append({"bug": mutation.__name__, "seeds": seed + 1, "what": what})
        print(json.dumps(bugs[-1]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(bugs, indent=1))
