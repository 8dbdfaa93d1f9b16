"""A store of a few examples of every kind, held in memory."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from twinstep.decoder.data.example import Clip, Example, Picture, Said, Sound, Split
from twinstep.decoder.data.tokenizer import Tokenizer

PROSE = [
    *textwrap.__doc__.splitlines(),
    *(str(function.__doc__) for function in vars(textwrap.TextWrapper).values()),
    *(str(function.__doc__) for function in vars(random.Random).values()),
    *(str(function.__doc__) for function in vars(str).values()),
    *(str(function.__doc__) for function in vars(Path).values()),
]
"""A few kilobytes of English that every Python has."""


@dataclass(frozen=True)
class Identity:
    identity: str = "of the tests"


@dataclass(frozen=True)
class MemoryStore:
    folder: Path
    made: dict[str, list[Example]]
    manifest: Identity = Identity()

    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(self.made))

    def examples(self, task: str, split: Split) -> Sequence[Example]:
        assert split == "train"
        return self.made[task]


def of(task: str, number: int, *prompt: object, answer: str) -> Example:
    return Example(
        task=task,
        entity=f"{task}/{number}",
        prompt=prompt,  # pyright: ignore[reportArgumentType]
        answer=answer,
    )


def picture(rng: np.random.Generator, height: int, width: int) -> Picture:
    return Picture(rng.integers(0, 256, (height, width, 1), dtype=np.uint8))


def sound(rng: np.random.Generator, samples: int) -> Sound:
    return Sound(rng.uniform(-0.5, 0.5, samples).astype(np.float32))


def memory_store(folder: Path, *, count: int = 40, seed: int = 0) -> MemoryStore:
    """`count` examples of each of seven tasks, all different."""
    rng = np.random.default_rng(seed)
    made: dict[str, list[Example]] = {}
    for number in range(count):
        clip = Clip(
            rng.integers(0, 256, (int(rng.integers(1, 21)), 8, 8, 1), dtype=np.uint8),
            0.25,
        )
        size = [int(n) for n in rng.integers(1, 20, 2)]
        text = "\n".join(PROSE[number % len(PROSE) :])[: 30 * number]
        examples = (
            of("digit", number, picture(rng, 8, 8), "digit?", answer=f"{number}"),
            of(
                "sum",
                number,
                picture(rng, *size),
                "+",
                picture(rng, 8, 16),
                "?",
                answer=f"the sum {number}",
            ),
            of("video", number, clip, "where to?", answer="left"),
            of(
                "spoken",
                number,
                sound(rng, int(rng.integers(800, 8000))),
                picture(rng, 8, 8),
                "the same?",
                sound(rng, 1600),
                answer="no",
            ),
            of(
                "addition",
                number,
                f"{number}+1=",
                Said(f"{number + 1}"),
                f" {number}+2=",
                answer=f"{number + 2}",
            ),
            of("translation", number, f"French: {number}", answer=f"le {number}"),
            of("document", number, answer=text),
        )
        for example in examples:
            made.setdefault(example.task, []).append(example)
    return MemoryStore(folder, made)


@cache
def small_tokenizer() -> Tokenizer:
    return Tokenizer.train(PROSE, vocabulary=400)
