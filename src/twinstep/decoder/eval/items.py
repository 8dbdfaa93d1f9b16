"""What is asked: the tasks, and held-out examples as the documents lm-eval wants.

lm-eval passes a prompt as one string and media beside it, in order. So a prompt
becomes its text with <image> or <audio> where a medium is, and parts_of() is the way
back: the model then reads what it was trained on, part by part. A clip counts as one
image of the prompt; it is cut into frames where the prompt becomes segments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from twinstep.decoder.data.example import (
    Clip,
    Example,
    Part,
    Picture,
    Said,
    Sound,
    Split,
)
from twinstep.decoder.data.store import Store
from twinstep.errors import UsageError

IMAGE_MARK, AUDIO_MARK = "<image>", "<audio>"
"""lm-eval's own marks (its models hf_vlms.py and hf_audiolm.py use the same)."""
BORDER = "\x1f"
"""Between two texts that follow one another (the unit separator of ASCII): each is
tokenised by itself, as in training."""

Metric = Literal["exact_match", "acc", "chrf", "bits_per_byte"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task: the family of the Gemini 1.0 report that it is a small version of, the
    number that is reported, and which media its prompts hold."""

    name: str
    family: str
    metric: Metric = "exact_match"
    sees: bool = False
    hears: bool = False

    @property
    def has_media(self) -> bool:
        return self.sees or self.hears

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of right answers."""
        return self.metric in ("exact_match", "acc")


TASKS = (
    Task(name="image_digit", family="Image understanding (Tables 7, 8)", sees=True),
    Task(name="ocr_word", family="Image understanding (Tables 7, 8)", sees=True),
    Task(name="scene", family="Image understanding (Tables 7, 8)", sees=True),
    Task(name="image_sum", family="Multimodal reasoning (Tables 7, 8)", sees=True),
    Task(
        name="video_direction",
        family="Video understanding (Table 10)",
        metric="acc",
        sees=True,
    ),
    Task(name="spoken_digit", family="Audio understanding (Table 11)", hears=True),
    Task(
        name="speech_image_match",
        family="Modality combination (Table 13)",
        metric="acc",
        sees=True,
        hears=True,
    ),
    Task(name="translation_number", family="Multilinguality (Tables 4, 5)"),
    Task(
        name="translation_text", family="Multilinguality (Tables 4, 5)", metric="chrf"
    ),
    Task(name="addition", family="Mathematics (Table 2)"),
    Task(name="retrieval", family="Long context (5.1.5)"),
    Task(name="docstring", family="Text generation", metric="bits_per_byte"),
    Task(
        name="docstring_science",
        family="Text generation, of a domain",
        metric="bits_per_byte",
    ),
    Task(name="code", family="Code generation (Table 2)", metric="bits_per_byte"),
)
BY_NAME = {task.name: task for task in TASKS}


class Examples(Protocol):
    """What is needed of data/store.py's Store."""

    def tasks(self) -> Sequence[str]: ...

    def examples(self, task: str, split: Split, /) -> Sequence[Example]: ...


ExamplesOf = Callable[[str], Sequence[Example]]


@dataclass(frozen=True, slots=True)
class Beside:
    """Something that goes through lm-eval unread. lm-eval writes each document out to
    name it by a digest, and an array's digits would take longer than the answers; so
    this writes itself as one line. Two things with one `name` are the same to it."""

    name: str
    value: Any

    def __repr__(self) -> str:
        return f"Beside({self.name})"


class Documents(list[dict[str, Any]]):
    """A split as lm-eval reads it: it asks a data set for its `features` too."""

    @property
    def features(self) -> dict[str, Any]:
        return dict.fromkeys(self[0] if self else ())


def document(example: Example) -> dict[str, Any]:
    """Returns the fields that the task files name, and the example itself."""
    question, images, sounds = marked(example.prompt)
    return {
        "question": question,
        "answer": example.answer,
        "choices": list(example.choices),
        "images": Beside(f"{len(images)} images of {example.entity}", images),
        "sounds": Beside(f"{len(sounds)} sounds of {example.entity}", sounds),
        "example": Beside(example.entity, example),
    }


def marked(parts: Sequence[Part]) -> tuple[str, list[Part], list[Part]]:
    """Returns the text with marks, then the pictures and clips, then the sounds. What
    was Said in the prompt is given like the rest: only the answer is asked for."""
    pieces: list[str] = []
    images: list[Part] = []
    sounds: list[Part] = []
    after_text = False
    for part in parts:
        is_text = isinstance(part, str | Said)
        if is_text and after_text:
            pieces.append(BORDER)
        after_text = is_text
        match part:
            case str():
                pieces.append(part)
            case Said(text=text):
                pieces.append(text)
            case Picture() | Clip():
                pieces.append(IMAGE_MARK)
                images.append(part)
            case Sound():
                pieces.append(AUDIO_MARK)
                sounds.append(part)
    return "".join(pieces), images, sounds


def parts_of(
    text: str, images: Sequence[Part] = (), sounds: Sequence[Part] = ()
) -> tuple[Part, ...]:
    """Returns the parts of a marked text, in order. Without media, marks are text like
    any other: source code may well hold the string <image>.

    Raises: UsageError when there are not as many marks as media."""
    if not images and not sounds:
        return tuple(piece for piece in text.split(BORDER) if piece)
    left = {IMAGE_MARK: list(images), AUDIO_MARK: list(sounds)}
    for mark, media in left.items():
        if text.count(mark) != len(media):
            raise UsageError(
                f"a prompt with {text.count(mark)} times {mark} and {len(media)} of "
                "them beside it; write one mark for each, in order"
            )
    parts: list[Part] = []
    for piece in re.split(f"({IMAGE_MARK}|{AUDIO_MARK})|{BORDER}", text):
        if piece in left:
            parts.append(left[piece].pop(0))
        elif piece:
            parts.append(piece)
    return tuple(parts)


def documents(
    *, task: str, store: str | ExamplesOf, limit: int, **_: Any
) -> dict[str, Documents]:
    """The `custom_dataset` of all task files: the first `limit` held-out examples.
    `store` is a store's folder (as lm-eval's own command line can pass it), or what
    reads one.

    Raises: UsageError when the store has none of this task."""
    read = held_out_of(Store.open(Path(store))) if isinstance(store, str) else store
    examples = read(task)
    if not len(examples):
        raise UsageError(f"the store has no held-out examples of {task}")
    count = min(limit, len(examples))
    return {"test": Documents(document(examples[index]) for index in range(count))}


def held_out_of(store: Examples) -> ExamplesOf:
    """Returns what reads the held-out examples of a task. A function, for lm-eval
    copies what it is given, deeply; functions it leaves alone."""

    def read(task: str) -> Sequence[Example]:
        return store.examples(task, "held_out")

    return read
