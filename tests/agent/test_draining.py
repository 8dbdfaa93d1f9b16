"""When a step is written to storage, and which stored step a job goes back to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent import scenes
from tests.agent.scenes import copy, inventory, join, of
from tests.agent.test_root import new_root
from twinstep.agent import actions as do, filing, messages as say
from twinstep.agent.draining import Draining, Looked, Made, StoredStep
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.config import Storage
from twinstep.recovery.choice import Choice

MEMBERS = ["m0", "m1"]
BEGIN = scenes.begin()


def stored_step(step: int) -> StoredStep:
    return StoredStep(
        step=step,
        captured_in=1,
        machines=2,
        ranks_per_machine=1,
        size=2_000_000,
        written_s=1.0,
    )


def draining(**settings: Any) -> Draining:
    """Its storage has answered that it holds nothing."""
    made = Draining(settings=Storage(path="/s", **settings))
    made.found(Looked(steps=[]), now_s=0.0)
    return made


def said(machine: str, step: int, *, failed: str = "", round: int = 1) -> say.Stored:
    return say.Stored(machine=machine, round=round, term=1, step=step, failed=failed)


def hears(one: Draining, *words: say.Stored, now_s: float = 1.0) -> list[Any]:
    return [action for word in words for action in one.hears(word, now_s=now_s)]


def write(one: Draining, step: int, *, now_s: float = 0.0) -> None:
    """The step is written, and whole."""
    assert one.order(step, now_s, BEGIN) == step
    assert hears(one, said("m0", step), said("m1", step))
    one.made(Made(whole=stored_step(step)), now_s=now_s)


def text(actions: list[Any]) -> str:
    return " / ".join(log.text for log in of(actions, do.Log))


# When a step is written.


def test_nothing_is_written_without_a_storage_or_a_safe_step() -> None:
    assert Draining(settings=Storage()).order(5, 0.0, BEGIN) == 0
    assert draining().order(0, 0.0, BEGIN) == 0


def test_a_step_is_made_whole_when_all_have_written_it_and_not_before() -> None:
    one = draining()
    assert one.order(5, 0.0, BEGIN) == 5
    assert one.order(6, 1.0, BEGIN) == 5, "all are told the same until it is written"
    assert hears(one, said("m1", 5)) == []
    assert hears(one, said("m1", 5)) == [], "the same machine twice is one"
    (make,) = hears(one, said("m0", 5))
    assert make == do.MakeWhole(step=5, parts=("r1-t1-m0", "r1-t1-m1"))
    assert one.order(7, 2.0, BEGIN) == 0, "one at a time"
    done = one.made(Made(whole=stored_step(5)), now_s=3.0)
    assert text(done) == "step 5 is in storage (2.0 MB, 3.00 s)"
    assert one.newest() == stored_step(5)
    assert one.order(5, 4.0, BEGIN) == 0
    assert one.order(6, 4.0, BEGIN) == 6


def test_words_about_another_step_are_not_counted() -> None:
    one = draining()
    one.order(5, 0.0, BEGIN)
    assert hears(one, said("m0", 4), said("m1", 4), said("m0", 5)) == []


def test_steps_are_apart_as_settings_say() -> None:
    one = draining(every_steps=10, every_s=100.0)
    write(one, 10)
    assert one.order(19, 200.0, BEGIN) == 0
    assert one.order(20, 99.0, BEGIN) == 0
    assert one.order(20, 100.0, BEGIN) == 20


def test_what_could_not_be_written_is_tried_again_with_a_newer_step() -> None:
    one = draining(every_steps=10, retry_s=30.0)
    write(one, 10)
    one.order(20, 1.0, BEGIN)
    done = hears(one, said("m1", 20, failed="no space left"), now_s=2.0)
    assert text(done) == (
        "step 20 is not written to storage: m1: no space left; tries again in 30 s"
    )
    assert of(done, do.TidyStorage) == [do.TidyStorage(newest=20)]
    assert hears(one, said("m0", 20)) == [], "it is given up"
    assert one.order(21, 31.0, BEGIN) == 0
    assert one.order(20, 32.0, BEGIN) == 0, "parts of two attempts would have one name"
    assert one.order(21, 32.0, BEGIN) == 21, (
        "every_steps counts from the last that is there"
    )


def test_what_could_not_be_made_whole_is_tried_again() -> None:
    one = draining()
    one.order(5, 0.0, BEGIN)
    hears(one, said("m0", 5), said("m1", 5))
    done = one.made(Made(whole=None, trouble="m1's part is missing"), now_s=1.0)
    assert "step 5 is not written to storage: m1's part is missing" in text(done)
    assert one.newest() is None
    assert one.order(6, 31.0, BEGIN) == 6


def test_who_holds_a_step_up_is_named() -> None:
    one = draining(write_s_max=60.0)
    one.order(5, 0.0, BEGIN)
    hears(one, said("m0", 5))
    assert one.tick(60.0) == []
    assert "m1 did not write its part within 60 s" in text(one.tick(61.0))
    assert one.tick(62.0) == []


def test_a_step_that_is_not_made_whole_is_said_once() -> None:
    one = draining(write_s_max=60.0)
    one.order(5, 0.0, BEGIN)
    hears(one, said("m0", 5), said("m1", 5))
    assert "storage /s: step 5 is not made whole within 60 s; waits for it" in text(
        one.tick(61.0)
    )
    assert one.tick(62.0) == []
    one.made(Made(whole=stored_step(5)), now_s=99.0)
    assert (one.trouble, one.order(6, 100.0, BEGIN)) == ("", 6)


def test_a_round_that_ends_gives_up_what_is_written() -> None:
    one = draining()
    one.order(5, 0.0, BEGIN)
    hears(one, said("m0", 5))
    assert text(one.begins()) == "step 5 is not written to storage: the round ended"
    assert hears(one, said("m1", 5)) == [], "parts of two rounds make no step"
    assert one.order(6, 1.0, scenes.begin(round=2)) == 6
    assert hears(one, said("m1", 6, round=2)) == []
    (make,) = hears(one, said("m0", 6, round=2))
    assert make.parts == ("r2-t1-m0", "r2-t1-m1")


def test_a_round_that_ends_later_does_not_undo_a_step() -> None:
    one = draining()
    one.order(5, 0.0, BEGIN)
    hears(one, said("m0", 5), said("m1", 5))
    assert one.begins() == []
    one.made(Made(whole=stored_step(5)), now_s=1.0)
    assert one.newest() == stored_step(5)


# What the storage holds.


def test_a_storage_is_asked_until_it_answers() -> None:
    one = Draining(settings=Storage(path="/s", look_s_max=120.0))
    assert one.look(10.0) == [do.LookInStorage()]
    assert one.look(11.0) == []
    away = Looked(steps=None, trouble="away")
    assert text(one.found(away, now_s=12.0)) == "storage /s cannot be read yet: away"
    assert one.found(away, now_s=12.5) == [], "it is said once"
    assert one.look(13.4) == []
    assert one.look(13.5) == [do.LookInStorage()]
    assert one.waits and one.refusal(0)
    done = one.found(Looked(steps=[stored_step(7)], notes=["x"]), now_s=14.0)
    assert text(done) == "storage: x / storage holds step 7"
    assert not one.waits and not one.refusal(0)
    assert one.look(500.0) == []


def test_a_storage_that_says_nothing_is_not_asked_in_vain() -> None:
    one = Draining(settings=Storage(path="/s", look_s_max=120.0))
    one.look(0.0)
    assert one.look(119.0) == []
    assert "cannot be read: no answer in 120 s" in text(one.look(121.0))
    assert not one.waits
    assert "no answer in 120 s" in one.refusal(0)
    assert "set storage.path to another folder to start anew" in one.refusal(0)
    assert one.refusal(5) == "", "a step in memory does not need it"
    assert one.look(122.0) == [do.LookInStorage()]
    assert one.look(123.0) == []


MEMORY = Choice(step=0, captured_in=0, sources={}, differing=[], reason="nothing here")


def test_the_newest_good_step_is_gone_back_to() -> None:
    one = draining()
    assert one.better(MEMORY) is None
    one.stored = {step: stored_step(step) for step in (10, 20, 30)}
    bad = say.StoredBad(
        machine="m0", round=1, term=1, step=30, corrupt=True, reason="x" * 9999
    )
    one.cannot_load(bad)
    choice = one.better(MEMORY)
    assert choice is not None
    assert choice.step == 20, "a stored step that is bad is not chosen again"
    assert "stored step 30 passed over: xxx" in choice.reason
    assert len(choice.reason) < 1000
    memory = Choice(step=20, captured_in=1, sources={}, differing=[], reason="")
    assert one.better(memory) is None, "memory is as new, and nearer"


def test_a_storage_out_of_reach_makes_no_step_bad() -> None:
    one = draining()
    one.stored = {30: stored_step(30)}
    one.cannot_load(
        say.StoredBad(
            machine="m0", round=1, term=1, step=30, corrupt=False, reason="away"
        )
    )
    assert one.newest() == stored_step(30)


def test_below_a_bad_step_steps_are_written_again() -> None:
    one = Draining(settings=Storage(path="/s"))
    one.found(Looked(steps=[stored_step(10), stored_step(30)]), now_s=0.0)
    assert one.order(20, 1.0, BEGIN) == 0
    bad = say.StoredBad(machine="m0", round=1, term=1, step=30, corrupt=True, reason="")
    one.cannot_load(bad)
    assert one.order(10, 1.0, BEGIN) == 0
    assert one.order(11, 1.0, BEGIN) == 11


def test_a_bad_step_that_was_written_again_is_good() -> None:
    one = draining()
    one.stored = {5: stored_step(5)}
    one.cannot_load(
        say.StoredBad(machine="m0", round=1, term=1, step=5, corrupt=True, reason="")
    )
    write(one, 5)
    assert one.newest() == stored_step(5)


def test_steps_that_were_removed_are_not_gone_back_to() -> None:
    one = draining()
    write(one, 5)
    one.order(6, 1.0, BEGIN)
    hears(one, said("m0", 6), said("m1", 6))
    one.made(Made(whole=stored_step(6), gone=[5]), now_s=2.0)
    assert list(one.stored) == [6]


# A root with a storage.

STORAGE = Storage(path="/s", look_s_max=30.0)


def gathered() -> tuple[Root, list[Any]]:
    """All machines are here, and hold nothing."""
    root = new_root(storage=STORAGE)
    for name in MEMBERS:
        root.joins(join(name))
    return root, [action for name in MEMBERS for action in root.hears(inventory(name))]


def test_nobody_starts_at_step_0_before_the_storage_has_answered() -> None:
    root, done = gathered()
    assert of(done, say.Begin) == []
    assert of(root.tick(), do.LookInStorage)
    assert of(root.tick(), say.Begin) == []
    filing.found(root, Looked(steps=[stored_step(7)]))
    begin = of(root.tick(), say.Begin)[0]
    assert (begin.step, begin.stored, begin.sources) == (7, True, {})


def test_an_empty_storage_is_started_from_step_0() -> None:
    root, _ = gathered()
    filing.found(root, Looked(steps=[]))
    begin = of(root.tick(), say.Begin)[0]
    assert (begin.step, begin.stored) == (0, False)


def test_a_job_whose_storage_does_not_answer_ends_in_words() -> None:
    root, _ = gathered()
    root.tick()
    filing.found(root, Looked(steps=None, trouble="PermissionError: /s"))
    root.now_s = 31.0
    (result,) = of([*root.tick(), *root.tick(), *root.tick()], do.SaveResult)
    assert result.status == 1
    assert "/s cannot be read (PermissionError: /s)" in result.reason
    assert root.phase is Phase.OVER


def test_a_new_root_starts_from_memory_and_does_not_wait_for_the_storage() -> None:
    root = new_root(storage=STORAGE)
    for name in MEMBERS:
        root.joins(join(name))
    copies = [copy(0, 4), copy(1, 4)]
    for name in MEMBERS:
        done = root.hears(inventory(name, copies))
    assert of(done, say.Begin)[0].step == 4


def test_all_are_told_to_write_what_all_keep() -> None:
    root, _ = gathered()
    filing.found(root, Looked(steps=[]))
    root.tick()
    root.layouts.sizes = {0: scenes.SIZE, 1: scenes.SIZE}
    root.layouts.shared = False
    for name in MEMBERS:
        done = root.hears(scenes.report(name, 6, safe=[5]))
    answers = of(done, say.Answer)
    assert {(one.keep, one.store) for one in answers} == {(5, 5)}
    for name in MEMBERS:
        done = root.hears(said(name, 5))
    assert of(done, do.MakeWhole)


@pytest.mark.parametrize("corrupt", [True, False])
def test_a_stored_step_that_cannot_be_loaded_ends_the_round(corrupt: bool) -> None:
    root, _ = gathered()
    filing.found(root, Looked(steps=[stored_step(6), stored_step(7)]))
    root.tick()
    word = say.StoredBad(
        machine="m1", round=1, term=1, step=7, corrupt=corrupt, reason="a checksum"
    )
    done = root.hears(word)
    assert of(done, say.Stop)
    assert root.hears(word) == [], "it is of an older round now"
    for name in MEMBERS:
        done = root.hears(inventory(name, round=2))
    assert of(done, say.Begin)[0].step == (6 if corrupt else 7)
