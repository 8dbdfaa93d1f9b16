"""A word in a picture: what it says. The picture is as wide as the word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Example, Picture, Split
from twinstep.decoder.data.origin import STANDARD_LIBRARY, Origin, Pools, installed
from twinstep.decoder.data.tasks.task import Task

FONT = Origin(
    name="the font that Pillow brings (Aileron Regular)",
    licence="CC0 (font); MIT-CMU (Pillow)",
    edition=installed("pillow"),
)
WORDS = 1500
SIZES = (11, 18)
HEIGHTS = (16, 24)


@cache
def known_words() -> tuple[str, ...]:
    """The most frequent words of two to six letters in Python's own manual."""
    from pydoc_data.topics import topics

    counts = Counter(
        word for text in topics.values() for word in re.findall(r"\b[a-z]{2,6}\b", text)
    )
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return tuple(sorted(order[:WORDS]))


def written(word: str, random: np.random.Generator) -> Picture:
    """Returns the word in bright ink on dark, in a size, place and shades as drawn."""
    from PIL import Image, ImageDraw

    font = _font(int(random.integers(*SIZES)))
    left, top, right, bottom = (int(edge) for edge in font.getbbox(word))
    fitting = [height for height in HEIGHTS if height >= bottom - top + 2]
    height = fitting[random.integers(len(fitting))]
    width = -(-(right - left + 4) // 8) * 8
    paper, ink = int(random.integers(0, 60)), int(random.integers(160, 256))
    image = Image.new("L", (width, height), paper)
    at = (
        int(random.integers(1, width - (right - left))) - left,
        int(random.integers(1, height - (bottom - top))) - top,
    )
    ImageDraw.Draw(image).text(at, word, fill=ink, font=font)
    return Picture(np.asarray(image, np.uint8)[..., None])


@cache
def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def drawn_words(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    pool = [word for word in known_words() if side(f"word {word}") == split]
    order = random.permutation(len(pool))
    for number in range(count):
        word = pool[order[number % len(pool)]]
        yield Example(
            task="ocr_word",
            entity=f"word {word}",
            prompt=(written(word, random), "reads?"),
            answer=word,
        )


def without_font(pools: Pools) -> str | None:
    try:
        from PIL import features
    except ImportError:
        return "Pillow is not installed: pip install pillow"
    if features.check("freetype2"):
        return None
    return "this Pillow is built without FreeType, which draws fonts of any size"


TASKS = (
    Task(
        name="ocr_word",
        asks="which word is drawn in a picture",
        make=drawn_words,
        entity_rule="the word: 25 in 100 are held out",
        chance=0.0,
        origins=(FONT, STANDARD_LIBRARY),
        train=8000,
        held_out=1000,
        absent=without_font,
    ),
)
