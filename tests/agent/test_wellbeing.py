"""One bad look is a warning; several in a row are a failing machine."""

from __future__ import annotations

from twinstep.agent.wellbeing import Finding, Wellbeing, failing, warning

FULL = failing("disk full")


def test_a_machine_fails_when_a_probe_says_so_three_times_in_a_row() -> None:
    one = Wellbeing(failures_max=3)
    assert one.take("disk", FULL) and one.warnings == ["disk: disk full"]
    assert not one.take("disk", FULL), "nothing new"
    assert one.failing == ""
    assert one.take("disk", FULL)
    assert one.failing == "disk: disk full" and one.warnings == []


def test_one_good_look_in_between_begins_the_count_anew() -> None:
    one = Wellbeing(failures_max=2)
    for finding in (FULL, Finding(), FULL, warning("nearly full"), FULL):
        one.take("disk", finding)
        assert one.failing == ""


def test_who_is_well_again_is_said_to_be() -> None:
    one = Wellbeing(failures_max=1)
    assert one.take("disk", FULL) and one.failing
    assert one.take("disk", Finding())
    assert (one.failing, one.warnings) == ("", [])
    assert not one.take("disk", Finding())


def test_warnings_never_make_a_machine_fail() -> None:
    one = Wellbeing(failures_max=1)
    for _ in range(9):
        one.take("gpu", warning("95 degrees"))
    assert one.failing == "" and one.warnings == ["gpu: 95 degrees"]


def test_a_probe_that_does_not_answer_is_a_warning() -> None:
    one = Wellbeing(failures_max=1)
    assert one.late("disk", 10.0)
    assert one.warnings == ["disk: has not answered for 10 s"] and one.failing == ""


def test_probes_are_counted_apart_and_words_are_bounded() -> None:
    one = Wellbeing(failures_max=2)
    for name in ("a", "b"):
        one.take(name, failing("x" * 9999 + "\n\nnext"))
    assert one.failing == "" and len(one.warnings) == 2
    assert all(len(words) < 250 for words in one.warnings)
