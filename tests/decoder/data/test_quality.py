"""Each kind of bad text and medium is found by a rule that says why; good ones pass."""

from __future__ import annotations

import inspect
import random
import statistics

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.decoder.data.memory_store import PROSE, of
from twinstep.decoder.data import corrupt, corrupt_media, quality, quality_media
from twinstep.decoder.data.corrupt import Row, lines, table
from twinstep.decoder.data.example import Clip, Picture, Sound
from twinstep.decoder.data.quality import judge, judge_example, pair_rules
from twinstep.decoder.data.quality_media import judge_media, near_duplicates

GOOD_PROSE = [text for text in PROSE if len(text.split()) >= 20]
GOOD_CODE = [
    inspect.getsource(function)
    for function in vars(statistics).values()
    if inspect.isfunction(function) and function.__module__ == "statistics"
]
GOOD_PAIRS = [
    ("Cannot open the file %s for reading", "Impossible d'ouvrir le fichier %s"),
    ("The password must differ from the last", "Le mot de passe doit changer"),
    (
        "Delete {count} files from the folder?",
        "Supprimer {count} fichiers du dossier ?",
    ),
    ("Show the version of this program", "Afficher la version de ce programme"),
]


def pictures() -> list[Picture]:
    images = np.asarray(load_digits().images[:30])
    grown = np.kron(images, np.ones((1, 2, 2)))
    return [Picture((image * 15).astype(np.uint8)[:, :, None]) for image in grown]


def sounds() -> list[Sound]:
    """Vowel-like tones with pauses, and a little noise."""
    time = np.arange(12_000) / 16_000
    return [
        Sound(
            (
                0.3 * np.sin(2 * np.pi * (110 + 9 * n) * time) * (np.sin(9 * time) > 0)
                + 1e-4 * np.random.default_rng(n).normal(size=12_000)
            ).astype(np.float32)
        )
        for n in range(12)
    ]


def clips() -> list[Clip]:
    return [
        Clip(np.stack([np.roll(p.pixels, step, axis=1) for step in range(8)]), 0.25)
        for p in pictures()[:10]
    ]


def rows_of(name: str) -> list[Row]:
    match name:
        case "prose":
            return table(GOOD_PROSE, corrupt.PROSE, lambda t: judge(t, quality.PROSE))
        case "code":
            return table(GOOD_CODE, corrupt.CODE, lambda t: judge(t, quality.CODE))
        case "pair":
            return table(
                GOOD_PAIRS, corrupt.PAIR, lambda p: judge(p[0], pair_rules(*p))
            )
        case "picture":
            rules = quality_media.PICTURE
            kinds = corrupt_media.PICTURE
            return table(pictures(), kinds, lambda p: judge_media(p, rules))
        case "sound":
            heard = quality_media.SOUND
            return table(sounds(), corrupt_media.SOUND, lambda s: judge_media(s, heard))
        case _:
            seen = quality_media.CLIP
            return table(clips(), corrupt_media.CLIP, lambda c: judge_media(c, seen))


UNSEEN = {"prose": {"shuffled"}, "pair": {"backwards"}}
"""Words in a wrong order: no rule here can tell."""


@pytest.mark.parametrize("name", ["prose", "code", "pair", "picture", "sound", "clip"])
def test_bad_is_found_and_good_is_kept(name: str) -> None:
    every, *single = rows_of(name)
    said = "\n".join(lines([every, *single]))
    assert every.good <= 0.1, said
    assert every.precision > 0.85, said
    for kind, share in every.by_kind.items():
        if kind not in UNSEEN.get(name, ()):
            assert share > 0.6, f"{kind}\n{said}"
    assert all(row.precision > 0.5 for row in single), said


def test_a_verdict_says_rule_and_numbers() -> None:
    (verdict, *_) = judge("one two", quality.PROSE)
    assert verdict.rule == "words"
    assert (verdict.value, verdict.low) == (2, 5)
    assert str(verdict) == "words 2, allowed 5 to 100000"


def test_each_text_source_has_its_rules_and_other_tasks_none() -> None:
    assert judge_example(of("docstring", 0, answer="too short"))
    assert judge_example(of("code", 0, answer="def f(:\n  pass (\n  x = y"))
    assert not judge_example(of("code", 0, answer="def f(x):\n    return x + 1"))
    lost = of("translation_text", 0, "File %s not found fr?", answer="Fichier absent")
    assert [verdict.rule for verdict in judge_example(lost)] == ["placeholders"]
    assert not judge_example(of("image_digit", 0, "x", answer="y"))


def test_pieces_of_code_are_no_errors() -> None:
    assert quality.parses("    def f(self):\n        return 1") == 1
    assert quality.parses("        return 1\n\n    def g(self): pass") == 0.5
    assert quality.parses("x = {'a': (1,") == 0
    assert quality.parses('text"""\ndef f(): pass') == 0


def test_near_duplicates_are_found_whatever_their_size_and_light() -> None:
    some = pictures()[:10]
    larger = Picture(np.kron(some[3].pixels, np.ones((2, 2, 1))).astype(np.uint8))
    darker = Picture((some[5].pixels // 2).astype(np.uint8))
    rng = np.random.default_rng(0)
    noisy = some[7].pixels + rng.integers(0, 5, some[7].pixels.shape)
    found = near_duplicates([*some, larger, darker, Picture(noisy.astype(np.uint8))])
    assert found == [10, 11, 12]


def test_corruptions_are_the_same_each_time() -> None:
    for kind, corruption in corrupt.PROSE.items():
        one, two = (corruption(GOOD_PROSE[0], random.Random(1)) for _ in range(2))
        assert one == two != GOOD_PROSE[0], kind
