"""One example as its source made it: text and media in order, and where it belongs.

What is trained on and what is asked in an evaluation are one type, made by the same
source. Examples are split by *entity* (a voice, a digit's image, a pair of numbers, a
file), never by row: `entity` names it, and split_of() says on which side it is, from
its name alone. Text stays text here: the pipeline makes segments of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Picture:
    """uint8[height, width, 1], 0 is black."""

    pixels: np.ndarray


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: uint8[frames, height, width, 1] and how long each frame is shown."""

    pixels: np.ndarray
    seconds_per_frame: float


@dataclass(frozen=True, slots=True)
class Sound:
    """float32[samples] in -1..1 at 16,000 samples a second."""

    samples: np.ndarray


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in the middle of a prompt: text that the loss is on, as it is on
    `answer`. So one example can ask many things of one text, and each is learnt from:

        ("a 3 k 7 b 1 ?", "k", Said("7"), "a", Said("3"), "b"), answer "1"

    What comes after a Said is read knowing it. No end of sequence follows a Said."""

    text: str


Part = str | Picture | Clip | Sound | Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """`task` names what is asked, such as image_digit; `prompt` is what is given, and
    `answer` what is to be said (the loss is on it). A document without a question has
    an empty prompt, and the loss is on all of its text. `choices`: the answers that are
    possible, where they are few. `entity` may name several, joined by " + "."""

    task: str
    entity: str
    prompt: tuple[Part, ...]
    answer: str
    choices: tuple[str, ...] = ()


def split_of(entity: str, *, held_out_percent: int = 10) -> Split:
    """The side of an entity, from its name alone: the same on every machine."""
    digest = hashlib.sha256(entity.encode()).digest()
    share = int.from_bytes(digest[:8], "big") % 100
    return "held_out" if share < held_out_percent else "train"


def entities_of(example: Example) -> tuple[str, ...]:
    """All that the example is made of: it is held out only if each of these is."""
    return tuple(example.entity.split(" + "))


def texts_of(examples: Sequence[Example]) -> list[str]:
    """All text of the examples, for the tokenizer and for decontamination."""
    return [
        text
        for example in examples
        for part in (*example.prompt, example.answer)
        if (text := part.text if isinstance(part, Said) else part)
        and isinstance(text, str)
    ]
