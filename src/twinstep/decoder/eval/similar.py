"""Answers by example: that of the training example that is most like the question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinstep.decoder.data.example import Example, Picture, Said


def by_text(train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """Returns for each item the answer of the training prompt that shares most with
    it: cosine of TF-IDF over pieces of one to four letters."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    known = vectors.fit_transform([prompt_text(example) for example in train])
    asked = vectors.transform([prompt_text(item) for item in items])
    nearest = np.asarray((asked @ known.T).argmax(axis=1)).reshape(-1)
    return [train[int(number)].answer for number in nearest]


def by_picture(train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """Returns for each item the answer of the training picture with the same question
    that is nearest to it, pixel by pixel; of any picture where no question is equal."""
    height = max(_pixels(e).shape[0] for e in (*train, *items))
    width = max(_pixels(e).shape[1] for e in (*train, *items))
    known = np.stack([_canvas(example, height, width) for example in train])
    asked = np.stack([_canvas(item, height, width) for item in items])
    # Squared distances, by one product of matrices.
    distance = (known**2).sum(1) - 2 * asked @ known.T
    questions = np.array([prompt_text(example) for example in train])
    answers: list[str] = []
    for row, item in zip(distance, items, strict=True):
        same = questions == prompt_text(item)
        row = np.where(same, row, np.inf) if same.any() else row
        answers.append(train[int(row.argmin())].answer)
    return answers


def prompt_text(example: Example) -> str:
    """The text of the prompt, its parts one after the other."""
    texts = [p.text if isinstance(p, Said) else p for p in example.prompt]
    return " ".join(text for text in texts if isinstance(text, str))


def _pixels(example: Example) -> np.ndarray:
    return next(p.pixels for p in example.prompt if isinstance(p, Picture))


def _canvas(example: Example, height: int, width: int) -> np.ndarray:
    pixels = _pixels(example)
    canvas = np.zeros((height, width), np.float32)
    canvas[: pixels.shape[0], : pixels.shape[1]] = pixels[..., 0] / 255
    return canvas.reshape(-1)
