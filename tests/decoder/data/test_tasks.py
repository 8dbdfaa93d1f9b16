"""Every task: sides that share no entity, answers that are right, chance as stated."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest

from twinstep.decoder.config import TINY
from twinstep.decoder.data.digits import WORDS, digits, drawn, moved
from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import (
    Clip,
    Example,
    Picture,
    Said,
    Sound,
    Split,
    entities_of,
    texts_of,
)
from twinstep.decoder.data.number_words import english, french
from twinstep.decoder.data.origin import Pools
from twinstep.decoder.data.speech import Tones
from twinstep.decoder.data.store import Store
from twinstep.decoder.data.tasks import TASKS
from twinstep.decoder.data.tasks.handwriting import SUMS
from twinstep.decoder.data.tasks.scene import SHAPES
from twinstep.decoder.data.tasks.translation import NUMBERS, number_side
from twinstep.decoder.model.segments import Image, size_of

SPLITS: tuple[Split, ...] = ("train", "held_out")
POOLS = Pools(seed=0, speaker=Tones())


def some(task: str, split: Split, count: int) -> list[Example]:
    random = np.random.default_rng(5)
    return list(islice(TASKS[task].make(POOLS, split, count, random), count))


def everything(store: Store, split: Split) -> list[Example]:
    return [e for task in store.tasks() for e in store.examples(task, split)]


def test_no_entity_is_on_both_sides(small: Store) -> None:
    sides: dict[Split, set[str]] = {}
    for split in SPLITS:
        examples = everything(small, split)
        assert len(examples) > 100
        sides[split] = {name for e in examples for name in entities_of(e)}
        if split == "held_out":
            assert {side(name) for name in sides[split]} == {"held_out"}
    assert not sides["train"] & sides["held_out"]


def test_no_held_out_text_is_trained_on(small: Store) -> None:
    for task in ("docstring", "code", "translation_text", "ocr_word"):
        if task in small.tasks():
            answers = [
                {e.answer.lower() for e in small.examples(task, split)}
                for split in SPLITS
            ]
            assert not answers[0] & answers[1], task


def test_answers_are_clean_and_among_the_choices(small: Store) -> None:
    for split in SPLITS:
        for example in everything(small, split):
            assert example.answer and example.answer == example.answer.rstrip()
            assert not example.choices or example.answer in example.choices
            assert all(isinstance(t, str) and t for t in texts_of([example]))
            if split == "held_out":
                assert not any(isinstance(part, Said) for part in example.prompt)


def test_media_fit_the_tower_of_tiny(small: Store) -> None:
    slots: dict[str, set[int]] = collections.defaultdict(set)
    for split in SPLITS:
        for example in everything(small, split):
            for part in example.prompt:
                match part:
                    case Picture(pixels):
                        size = size_of([Image(pixels)], TINY.tower)
                        slots[example.task].add(size.images)
                    case Clip(pixels):
                        assert len(pixels) == 8
                        sizes = [size_of([Image(p)], TINY.tower) for p in pixels]
                        slots[example.task].update(size.images for size in sizes)
                    case Sound(samples):
                        assert 0.1 < len(samples) / 16000 < 2
                        assert samples.dtype == np.float32
                        assert 0.5 < np.abs(samples).max() <= 1
                    case _:
                        pass
    for task in ("image_digit", "image_sum", "speech_image_match", "video_direction"):
        assert slots[task] == {4}, task
    assert max(slots["scene"]) <= 25 and len(slots["scene"]) > 3
    assert max(slots["ocr_word"]) <= 40 and len(slots["ocr_word"]) > 3


def question(example: Example) -> str:
    """What is asked in words, or nothing where the last text is data too."""
    last = example.prompt[-1]
    assert isinstance(last, str)
    return last if last.endswith("?") else ""


def best_fixed(examples: Sequence[Example]) -> float:
    """What the most frequent answer to each question scores."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for example in examples:
        counts[question(example)][example.answer] += 1
    best = sum(count.most_common(1)[0][1] for count in counts.values())
    return best / len(examples)


CHOSEN = (
    "image_digit",
    "image_sum",
    "spoken_digit",
    "speech_image_match",
    "video_direction",
    "retrieval",
    "scene",
)


@pytest.mark.parametrize("task", CHOSEN)
def test_chance_is_what_guessing_scores(task: str) -> None:
    examples = some(task, "held_out", 900)
    random_choice = sum(1 / len(e.choices) for e in examples) / len(examples)
    guessing = max(random_choice, best_fixed(examples))
    assert guessing == pytest.approx(TASKS[task].chance, abs=0.02)


def test_each_task_with_choices_is_judged_above() -> None:
    choosing = {name for name in TASKS if TASKS[name].chance > 0.01}
    assert choosing == set(CHOSEN)


def test_neither_voice_nor_picture_alone_tells_whether_they_match() -> None:
    examples = some("speech_image_match", "train", 2000)
    label_of = {digit.entity: digit.label for digit in digits("train")}
    same = collections.Counter()
    for example in examples:
        label = label_of[entities_of(example)[1]]
        same[label, example.answer] += 1
    assert sum(n for (_, answer), n in same.items() if answer == "yes") == 1000
    for label in range(10):
        share = same[label, "yes"] / (same[label, "yes"] + same[label, "no"])
        assert 0.35 < share < 0.65, label


def test_a_match_is_one() -> None:
    heard = {
        utterance.samples.tobytes(): utterance.word
        for utterance in POOLS.speech("held_out")
    }
    label_of = {digit.entity: digit.label for digit in digits("held_out")}
    for example in some("speech_image_match", "held_out", 200):
        sound, _, _ = example.prompt
        assert isinstance(sound, Sound)
        word = heard[np.round(sound.samples * 32767).astype(np.int16).tobytes()]
        label = label_of[entities_of(example)[1]]
        assert example.answer == ("yes" if word == label else "no")


def test_sums_are_right() -> None:
    label_of = {digit.entity: digit.label for digit in digits("train")}
    for example in some("image_sum", "train", 100):
        total = sum(label_of[name] for name in entities_of(example))
        assert example.answer == SUMS[total] == english(total)


def test_handwriting_is_real_and_a_quarter_is_held_out() -> None:
    train, held_out = digits("train"), digits("held_out")
    assert len(train) + len(held_out) == 1797
    assert 0.22 < len(held_out) / 1797 < 0.28
    assert {digit.label for digit in held_out} == set(range(10))
    examples = some("image_digit", "held_out", 2000)
    assert len({e.entity for e in examples}) == len(examples) == len(held_out)
    by_name = {digit.entity: digit for digit in held_out}
    for example in examples[:20]:
        digit = by_name[example.entity]
        assert example.answer == WORDS[digit.label]
        pixels = drawn(digit).pixels
        assert pixels.shape == (16, 16, 1) and pixels.max() > 200
        np.testing.assert_array_equal(example.prompt[0].pixels, pixels)


def test_a_picture_moves_and_leaves_black() -> None:
    pixels = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    expected = np.array([[0, 0, 0], [2, 3, 0], [5, 6, 0]])
    np.testing.assert_array_equal(moved(pixels, 1, -1), expected)
    np.testing.assert_array_equal(moved(pixels, 0, 0), pixels)


def test_a_video_goes_where_it_says() -> None:
    ways = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    for example in some("video_direction", "train", 200):
        clip, _ = example.prompt
        assert isinstance(clip, Clip)
        light = clip.pixels[..., 0].astype(float)
        assert len(set(light.sum((1, 2)))) == 1, "nothing leaves the picture"
        rows = (light.sum(2) * np.arange(16)).sum(1) / light.sum((1, 2))
        columns = (light.sum(1) * np.arange(16)).sum(1) / light.sum((1, 2))
        went = np.array([rows[-1] - rows[0], columns[-1] - columns[0]]).round(6)
        travel = np.array(ways[example.answer]) * np.abs(went).max()
        np.testing.assert_allclose(went, travel, atol=1e-6)
        assert 3 <= np.abs(went).max() <= 7


def answered(example: Example) -> list[tuple[str, str]]:
    """Each question of the example with its answer."""
    texts = [part.text if isinstance(part, Said) else part for part in example.prompt]
    texts.append(example.answer)
    assert len(texts) % 2 == 0
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_additions_are_right() -> None:
    for split, problems in (("train", 8), ("held_out", 1)):
        for example in some("addition", split, 50):
            found = answered(example)
            assert len(found) == len(entities_of(example)) == problems
            for asked, answer in found:
                one, other = asked.strip(";=").split("+")
                assert len(one) == len(other) == 3 and len(answer) == 4
                assert int(answer[::-1]) == int(one) + int(other)


def test_recalls_are_right() -> None:
    for split, questions in (("train", 8), ("held_out", 1)):
        for example in some("retrieval", split, 50):
            listed, *rest = example.prompt
            assert isinstance(listed, str)
            value = dict(zip(listed[:-1:2], listed[1::2], strict=True))
            asked = answered(
                Example(task="", entity="", prompt=tuple(rest), answer=example.answer)
            )
            assert len(asked) == len({key for key, _ in asked}) == questions
            assert all(value[key] == answer for key, answer in asked)


def test_scenes_are_answered_right() -> None:
    sizes: set[tuple[int, ...]] = set()
    for example in some("scene", "held_out", 300):
        _, asks, size, cells = example.entity.split(" ")
        picture = example.prompt[0]
        assert isinstance(picture, Picture)
        rows, columns = (int(length) for length in size.split("x"))
        assert picture.pixels.shape == (10 * rows, 10 * columns, 1)
        sizes.add((rows, columns))
        light = picture.pixels.reshape(rows, 10, columns, 10).max((1, 3)).ravel()
        assert [bool(value) for value in light] == [letter != "." for letter in cells]
        if asks == "circles?":
            assert example.answer == WORDS[cells.count("o")]
        elif asks == "more?":
            more = cells.count("o") > cells.count("#")
            assert example.answer == ("circles" if more else "squares")
        else:
            assert example.answer == SHAPES[cells[light.argmax()]]
    assert len(sizes) == 9


@pytest.mark.parametrize(
    ("number", "words", "mots"),
    [
        (0, "zero", "zéro"),
        (21, "twenty-one", "vingt et un"),
        (71, "seventy-one", "soixante et onze"),
        (80, "eighty", "quatre-vingts"),
        (81, "eighty-one", "quatre-vingt-un"),
        (97, "ninety-seven", "quatre-vingt-dix-sept"),
        (100, "one hundred", "cent"),
        (200, "two hundred", "deux cents"),
        (345, "three hundred forty-five", "trois cent quarante-cinq"),
        (980, "nine hundred eighty", "neuf cent quatre-vingts"),
    ],
)
def test_numbers_in_words(number: int, words: str, mots: str) -> None:
    assert (english(number), french(number)) == (words, mots)


def test_each_number_has_words_of_its_own_and_those_held_out_can_be_known() -> None:
    for language in (english, french):
        assert len({language(number) for number in range(NUMBERS)}) == NUMBERS
        known, asked = set(), set()
        for number in range(NUMBERS):
            words = language(number).replace("-", " ").split()
            (known if number_side(number) == "train" else asked).update(words)
        assert asked <= known
    assert len(some("translation_number", "held_out", 9999)) >= 500


def test_words_are_as_wide_as_they_are_long() -> None:
    if "ocr_word" not in TASKS or TASKS["ocr_word"].absent(POOLS):
        pytest.skip(str(TASKS["ocr_word"].absent(POOLS)))
    widths = collections.defaultdict(list)
    for example in some("ocr_word", "train", 400):
        picture = example.prompt[0]
        assert isinstance(picture, Picture)
        height, width, _ = picture.pixels.shape
        assert height in (16, 24) and width % 8 == 0
        assert int(picture.pixels.max()) - int(picture.pixels.min()) > 90
        ink = picture.pixels[..., 0] > (int(picture.pixels.max()) + 60) // 2
        assert not ink[0].any() and not ink[-1].any(), "nothing is cut off"
        widths[len(example.answer)].append(width)
    assert np.mean(widths[6]) > 1.5 * np.mean(widths[2])
