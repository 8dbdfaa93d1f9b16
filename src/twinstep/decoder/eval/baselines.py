"""What simple means reach on the same items: the model's numbers beside theirs.

A linear model on pixels reads these digits as well as a small decoder does; that has to
be said beside the decoder's number. None of these takes more than a few seconds:

    image_digit, spoken_digit   logistic regression on pixels, on log-mel features
    image_sum, speech_image_match   the same two, joined by a rule written by hand
    video_direction             where the brightness went, from first to last frame
    ocr_word, scene             the answer of the most similar training picture
    addition                    digit by digit, nothing carried
    retrieval                   the first value of the list
    translation                 the answer of the most similar training prompt
    documents                   an n-gram model of bytes (ngram.py)

And without looking at all: `commonest` is the share of the commonest answer, `guess`
what the question and the sizes of the media allow. A blind model is held against these:
how long a sound is tells a little of what is said, be it silent or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from twinstep.decoder.data.example import Clip, Example, Picture, Sound
from twinstep.decoder.eval import ngram
from twinstep.decoder.eval.items import Examples, Task
from twinstep.decoder.eval.similar import by_picture, by_text, prompt_text
from twinstep.decoder.model.audio import log_mel

TRAIN_MAX = 3000
"""Training examples that a baseline sees."""
FREEDOM = {"image_digit": 0.2, "spoken_digit": 0.02}
"""Of the logistic regressions (scikit-learn's C): of 0.02, 0.2, 2 and 20 the best on
the items asked, which flatters the baseline and not the model."""
SLICES = 16
"""A sound's features are averaged in this many equal parts, whatever its length."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A method's answers to the items, in order."""

    name: str
    answers: tuple[str, ...]

    def right(self, items: Sequence[Example]) -> int:
        pairs = zip(self.answers, items, strict=True)
        return sum(answer == item.answer for answer, item in pairs)


class Baselines:
    """Answers the items of any task from the store's training examples. The two
    classifiers of digits are trained once."""

    def __init__(self, store: Examples) -> None:
        self._store = store
        self._trained: dict[str, tuple[object, tuple[str, ...]]] = {}

    def answer(self, task: Task, items: Sequence[Example]) -> Baseline:
        """Returns the baseline's answers to items of a task with answers."""
        match task.name:
            case "image_digit" | "spoken_digit":
                numbers = self._read(task.name, [_medium(item) for item in items])
                words = self._trained[task.name][1]
                name = "logistic regression"
                answers = [words[number] for number in numbers]
            case "image_sum":
                first = self._read("image_digit", [_medium(item, 0) for item in items])
                other = self._read("image_digit", [_medium(item, 1) for item in items])
                name = "two logistic regressions, added"
                answers = [
                    item.choices[a + b]
                    for item, a, b in zip(items, first, other, strict=True)
                ]
            case "speech_image_match":
                same = self._matches(items)
                name = "two logistic regressions, compared"
                answers = ["yes" if equal else "no" for equal in same]
            case "video_direction":
                name = "where the brightness went"
                answers = [direction(_clip(item)) for item in items]
            case "ocr_word" | "scene":
                name = "most similar picture"
                answers = by_picture(self._train(task.name), items)
            case "addition":
                name = "digits added, nothing carried"
                answers = [without_carry(prompt_text(item)) for item in items]
            case "retrieval":
                name = "the first value"
                answers = [_first_value(prompt_text(item)) for item in items]
            case _:
                name = "most similar prompt"
                answers = by_text(self._train(task.name), items)
        return Baseline(name, tuple(answers))

    def bits_per_byte(self, task: Task, items: Sequence[Example]) -> float:
        """Returns what the n-gram model of bytes takes for all items together."""
        train = [example.answer for example in self._store.examples(task.name, "train")]
        texts = [item.answer for item in items]
        size = sum(len(text.encode()) for text in texts)
        return sum(ngram.bits_per_byte(train, texts)) / size

    def guess(self, task: Task, items: Sequence[Example]) -> float:
        """Returns the share of right answers that is to be had from the question and
        the sizes of its media alone, by a decision tree."""
        from sklearn.tree import DecisionTreeClassifier

        train = self._train(task.name)
        questions = sorted({prompt_text(example) for example in train})
        columns = {question: place for place, question in enumerate(questions)}
        tree = DecisionTreeClassifier(min_samples_leaf=10, random_state=0)
        tree.fit(_outside(train, columns), [example.answer for example in train])
        answers = tree.predict(_outside(items, columns))
        return float(
            np.mean([a == i.answer for a, i in zip(answers, items, strict=True)])
        )

    def _train(self, task: str) -> list[Example]:
        examples = self._store.examples(task, "train")
        return [examples[number] for number in range(min(TRAIN_MAX, len(examples)))]

    def _matches(self, items: Sequence[Example]) -> list[bool]:
        seen = self._read("image_digit", [_medium(i, kind=Picture) for i in items])
        heard = self._read("spoken_digit", [_medium(i, kind=Sound) for i in items])
        written = self._trained["image_digit"][1]
        said = self._trained["spoken_digit"][1]
        return [written[a] == said[b] for a, b in zip(seen, heard, strict=True)]

    def _read(self, task: str, media: list[Picture | Sound]) -> list[int]:
        """Returns for each medium the number of its word, by logistic regression on
        the training examples of this task."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        if task not in self._trained:
            train = self._train(task)
            if task == "image_digit":
                # As they were written: moved about, as training has them too, they
                # cost a linear model three points.
                train = list(
                    {example.entity: example for example in train[::-1]}.values()
                )
            words = train[0].choices
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=FREEDOM[task], max_iter=1000)
            )
            pixels = np.stack([features(_medium(example)) for example in train])
            # With more threads than cores to be had, they wait for one another.
            with threadpool_limits(1):
                model.fit(pixels, [words.index(example.answer) for example in train])
            self._trained[task] = model, words
        model, _ = self._trained[task]
        return [int(n) for n in model.predict(np.stack([*map(features, media)]))]  # pyright: ignore[reportAttributeAccessIssue]


def commonest(items: Sequence[Example]) -> float:
    """Returns the share of the commonest answer: the best that always says the same."""
    return Counter(item.answer for item in items).most_common(1)[0][1] / len(items)


def features(medium: Picture | Sound) -> np.ndarray:
    """Returns pixels as they are, or a sound's features averaged in SLICES parts."""
    if isinstance(medium, Picture):
        return medium.pixels.reshape(-1).astype(np.float32) / 255
    frames = log_mel(medium.samples).astype(np.float32)
    places = np.linspace(0, len(frames), SLICES + 1).astype(int)
    return np.concatenate(
        [
            frames[min(first, len(frames) - 1) : max(last, first + 1)].mean(axis=0)
            for first, last in pairwise(places)
        ]
    )


def direction(clip: Clip) -> str:
    """Returns left, right, up or down: how the middle of the brightness went."""
    first, last = _middle(clip.pixels[0]), _middle(clip.pixels[-1])
    down, right = last - first
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def without_carry(asked: str) -> str:
    """Returns the sum of 042+389= digit by digit, the ones first and nothing carried:
    right for one sum in six."""
    one, other = asked.rstrip("=").split("+")
    digits = [
        str((int(a) + int(b)) % 10)
        for a, b in zip(reversed(one), reversed(other), strict=True)
    ]
    return "".join(digits) + "0"


def _first_value(asked: str) -> str:
    return next((letter for letter in asked if letter.isdigit()), "")


def _middle(frame: np.ndarray) -> np.ndarray:
    weights = frame[..., 0].astype(np.float64) + 1e-9
    places = np.indices(weights.shape)
    return (places * weights).sum(axis=(1, 2)) / weights.sum()


def _medium(
    example: Example,
    place: int = 0,
    *,
    kind: type | tuple[type, ...] = (Picture, Sound),
) -> Picture | Sound:
    return [part for part in example.prompt if isinstance(part, kind)][place]  # pyright: ignore[reportReturnType]


def _clip(example: Example) -> Clip:
    return next(part for part in example.prompt if isinstance(part, Clip))


def _outside(examples: Sequence[Example], columns: dict[str, int]) -> np.ndarray:
    """Returns for each example its question's number and the sizes of its media."""
    rows = [
        [columns.get(prompt_text(example), -1), *map(_size, example.prompt)]
        for example in examples
    ]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows])


def _size(part: object) -> int:
    match part:
        case Picture(pixels=pixels) | Clip(pixels=pixels):
            return pixels.size
        case Sound(samples=samples):
            return len(samples)
        case _:
            return 0
