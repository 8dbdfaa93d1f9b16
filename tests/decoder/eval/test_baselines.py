"""Baselines on questions whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.decoder.eval import oracle
from twinstep.decoder.data.example import Example, Split
from twinstep.decoder.eval.baselines import Baselines, commonest, without_carry
from twinstep.decoder.eval.items import BY_NAME

WORDS = oracle.WORDS


class Shelf:
    """A store of 60 examples of each task on both sides."""

    def tasks(self) -> Sequence[str]:
        return tuple(BY_NAME)

    def examples(self, task: str, split: Split, /) -> Sequence[Example]:
        return oracle.examples(task, 60)


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    return Baselines(Shelf())


@pytest.mark.parametrize(
    "task",
    [
        "image_digit",
        "spoken_digit",
        "speech_image_match",
        "video_direction",
    ],
)
def test_simple_questions_are_answered(baselines: Baselines, task: str) -> None:
    items = oracle.examples(task, 24)
    found = baselines.answer(BY_NAME[task], items)
    assert found.right(items) == 24
    wrong = oracle.examples(task, 25)[1:]
    assert found.right(wrong) < 24, "answers go with their items"


def test_the_most_similar_picture_has_the_same_question(baselines: Baselines) -> None:
    items = oracle.examples("scene", 12)
    found = baselines.answer(BY_NAME["scene"], items)
    assert found.right(items) == 12


def test_rules_for_sums_and_lists(baselines: Baselines) -> None:
    # 0 to 23, and one: nothing is carried but at 9 and 19.
    found = baselines.answer(BY_NAME["addition"], oracle.examples("addition", 24))
    assert found.right(oracle.examples("addition", 24)) == 22
    assert without_carry("359+594=") == "3480"
    asked = replace(oracle.examples("addition", 1)[0], prompt=("k7a3?", "a"))
    assert baselines.answer(BY_NAME["retrieval"], [asked]).answers == ("7",)


def test_what_is_to_be_had_without_looking(baselines: Baselines) -> None:
    """Sizes of pictures tell nothing here; the length of a sound may."""
    items = oracle.examples("image_digit", 24)
    assert baselines.guess(BY_NAME["image_digit"], items) == pytest.approx(1 / 6)
    assert commonest(items) == pytest.approx(1 / 6)
    told = [_long(number) for number in range(24)]

    class Telling(Shelf):
        def examples(self, task: str, split: Split, /) -> Sequence[Example]:
            return told * 4

    assert Baselines(Telling()).guess(BY_NAME["spoken_digit"], told) == 1.0


def test_a_text_that_repeats_costs_little(baselines: Baselines) -> None:
    assert baselines.bits_per_byte(BY_NAME["code"], oracle.examples("code", 5)) < 0.2


def _long(number: int) -> Example:
    """A sound whose length is its word's."""
    digit = number % 6
    sound = oracle.Sound(oracle.sound(0).samples[: 400 + 100 * digit])
    return Example(
        task="spoken_digit",
        entity=f"long/{number}",
        prompt=(sound, "said?"),
        answer=WORDS[digit],
        choices=WORDS,
    )
