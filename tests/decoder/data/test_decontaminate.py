"""Planted evaluation items are all found, however they came in, and little else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.decoder.data.memory_store import PROSE, MemoryStore, memory_store, of
from tests.decoder.data.test_quality import clips, pictures, sounds
from twinstep.decoder.data.decontaminate import EvaluationIndex, canary
from twinstep.decoder.data.example import Clip, Example, Picture, Said, Sound
from twinstep.decoder.data.pipeline import kept_items
from twinstep.decoder.data.removal import NAME, remove, removed
from twinstep.errors import Corrupt, UsageError

DOCUMENTS = [text for text in dict.fromkeys(PROSE) if len(text.split()) >= 30]
WORDS = ("cat", "dog", "sun", "sea", "map", "pen", "cup", "hat", "box", "key", "jar")


def items() -> list[Example]:
    """Forty items as they are asked: text long and short, images, sounds, clips."""
    found = [of("docstring", n, answer=text) for n, text in enumerate(DOCUMENTS[:10])]
    found += [
        of("translation", n, f"to be {w} fr?", answer=w) for n, w in enumerate(WORDS)
    ]
    found += [
        of("digit", n, p, "digit?", answer="six") for n, p in enumerate(pictures())
    ]
    found += [
        of("spoken", n, s, "digit?", answer="six") for n, s in enumerate(sounds())
    ]
    found += [of("video", n, c, "moves?", answer="up") for n, c in enumerate(clips())]
    return found


def planted() -> list[Example]:
    """Each item once, in some other example."""
    rng = np.random.default_rng(0)
    found: list[Example] = []
    for number, item in enumerate(items()):
        match item.prompt:
            case ():
                words = item.answer.split()
                start = number % 4
                part = "  ".join(words[start : start + 24]).upper()
                answer = f"As was said: {part} -- and more."
                found.append(replace(item, answer=answer))
            case (str(question),):
                said = (f"x? y\n{question} ", Said(item.answer), "\nz?")
                found.append(replace(item, prompt=said, answer="w"))
            case (Picture(pixels), *_):
                changed = _relit(pixels, rng) if number % 2 else pixels
                other = of("sum", number, Picture(changed), "+", answer="4")
                found.append(other)
            case (Clip(pixels, seconds), *_):
                changed = _relit(pixels, rng) if number % 2 else pixels
                found.append(of("v", number, "a", Clip(changed, seconds), answer="b"))
            case (Sound() as sound, *_):
                # As the store gives it back: 16 bits a sample.
                kept = np.round(sound.samples * 32767).astype(np.float32) / 32767
                found.append(of("match", number, "a", Sound(kept), answer="b"))
            case _:
                raise AssertionError(item)
    return found


def _relit(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darker, lighter in the dark, and a little noise."""
    noise = rng.integers(0, 4, pixels.shape)
    return (pixels * 0.7 + 20 + noise).astype(np.uint8)


def others() -> list[Example]:
    """Others of the same tasks, with the same questions and answers."""
    digits = np.kron(np.asarray(load_digits().images[200:500]), np.ones((1, 2, 2)))
    found = [
        of(
            "digit",
            n,
            Picture((d * 15).astype(np.uint8)[:, :, None]),
            "digit?",
            answer="six",
        )
        for n, d in enumerate(digits)
    ]
    found += [of("docstring", n, answer=text) for n, text in enumerate(DOCUMENTS[10:])]
    found += [of("translation", n, f"to be {n} fr?", answer=f"{n}") for n in range(50)]
    found += [of("translation", 0, "to be catfish fr?", answer="dogfish")]
    found += [
        of("spoken", n, Sound(s.samples[::-1].copy()), "digit?", answer="six")
        for n, s in enumerate(sounds())
    ]
    return found


def test_all_planted_items_are_found_and_few_others() -> None:
    found = canary(others(), planted(), items())
    assert found.planted == len(items()) >= 40
    assert found.missed == ()
    assert found.others > 370
    assert found.false / found.others < 0.01, found


def test_what_all_items_say_is_no_item() -> None:
    """Media decide where there are any, and a long question that all share is none."""
    index = EvaluationIndex(items())
    assert index.find(of("t", 0, "digit?", answer="six")) is None
    question = (
        "Which of the following words is the one that has most letters of all, of"
    )
    asked = [
        of("longest", n, f"{question} {word}?", answer=word)
        for n, word in enumerate(WORDS)
    ]
    shared = EvaluationIndex(asked)
    assert shared.find(of("longest", 99, f"{question} fig?", answer="fig")) is None
    assert shared.find(of("longest", 0, f"{question} cat?", answer="cat")) is not None


def test_a_match_says_what_was_found_of_which_item() -> None:
    index = EvaluationIndex(items())
    found = index.find(planted()[0])
    assert str(found) == "13 words of docstring 0 (docstring/0)"
    pixels = pictures()[4].pixels
    found = index.find(of("t", 0, Picture(pixels), answer="x"))
    assert str(found) == "picture of digit 4 (digit/4)"


def test_a_few_words_are_found_only_as_the_whole_example() -> None:
    index = EvaluationIndex([of("t", 0, "Failed fr?", answer="échec")])
    assert index.find(of("t", 1, "failed  FR?", answer="Échec")) is not None
    assert index.find(of("t", 1, "close failed fr?", answer="échec de")) is None


class Both(MemoryStore):
    """Whose held-out side are a few of its own training examples."""

    def examples(self, task: str, split: str) -> list[Example]:
        made = self.made[task]
        return made if split == "train" else made[:2]


def test_what_is_removed_is_written_with_reasons_and_not_shown(tmp_path: Path) -> None:
    store = Both(tmp_path, memory_store(tmp_path, count=12).made)
    store.made["docstring"] = [of("docstring", n, answer="too short") for n in range(3)]
    found = remove(store)
    assert (tmp_path / NAME).is_file()
    for task in ("digit", "video", "spoken", "addition"):
        assert set(found.reasons[task]) >= {0, 1}, task
        assert found.counts()[task]["contaminated"] == len(found.reasons[task])
    assert found.counts()["docstring"] == {"words": 3, "contaminated": 3}
    assert removed(store) == found.items()
    (digits, *_) = kept_items(store, ["digit"], [12])
    assert 0 not in digits
    assert 11 in digits


def test_a_removal_of_other_data_or_of_nonsense_is_refused(tmp_path: Path) -> None:
    store = memory_store(tmp_path, count=2)
    assert removed(store) == {}
    remove(Both(tmp_path, store.made))
    (tmp_path / NAME).write_text((tmp_path / NAME).read_text().replace("of the", "!"))
    with pytest.raises(UsageError, match="other data"):
        removed(store)
    (tmp_path / NAME).write_text('{"identity": 1}')
    with pytest.raises(Corrupt, match="makes no sense"):
        removed(store)
