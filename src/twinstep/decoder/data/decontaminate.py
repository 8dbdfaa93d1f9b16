"""Which training examples hold something of an evaluation, and what.

The Gemini 1.0 report (section 4): "we search for and remove any evaluation data that
may have been in our training corpus before using data for training". How, it does not
say; 13 words in a row are GPT-3's measure (Brown et al. 2020, appendix C).

    text alone      13 words in a row of an item; all of it, where it has fewer
    image, clip     the same pixels, or nearly: hashes of 64 bits that differ little,
                    then pixels that correlate
    sound           the same samples

Where an item has media, they decide and its text does not: "digit?" and "seven" are
said of every image. For the same reason 13 words that more than ten items share are
the task's words and not an item's. A text of fewer than five words ("failed fr? échec")
is found only where it is the whole example: in others it stands by chance.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from twinstep.decoder.data.example import Clip, Example, Picture, Said, Sound
from twinstep.decoder.data.quality_media import average_hash, thumbnail

GRAM = 13
SHARED_MAX = 10
CONTAINED_WORDS_MIN = 5
HASH_BITS_MAX = 6
CORRELATION_MIN = 0.99
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Match:
    """What of which evaluation item was found."""

    kind: str
    item: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.item}"


def _text(example: Example) -> str:
    """All that the example says, on one line, in small letters."""
    parts = [
        part.text if isinstance(part, Said) else part
        for part in (*example.prompt, example.answer)
        if isinstance(part, str | Said)
    ]
    return " ".join(" ".join(parts).casefold().split())


def _has_media(example: Example) -> bool:
    return any(isinstance(part, Picture | Clip | Sound) for part in example.prompt)


def _grams(words: Sequence[str], size: int) -> list[int]:
    return [
        xxhash.xxh3_64_intdigest(" ".join(words[at : at + size]).encode())
        for at in range(len(words) - size + 1)
    ]


class EvaluationIndex:
    """All items of an evaluation; find() says whether an example holds one."""

    def __init__(self, items: Iterable[Example]) -> None:
        self._grams: dict[int, str] = {}
        self._short: dict[int, dict[int, list[tuple[str, str]]]] = defaultdict(dict)
        self._whole: dict[str, str] = {}
        self._exact: dict[int, Match] = {}
        pictures: list[np.ndarray] = []
        self._names: list[str] = []
        counts: Counter[int] = Counter()
        numbers: Counter[str] = Counter()
        for item in items:
            name = f"{item.task} {numbers[item.task]} ({item.entity})"
            numbers[item.task] += 1
            if _has_media(item):
                pictures += self._add_media(item, name)
            else:
                counts.update(self._add_text(item, name))
        for gram, count in counts.items():
            if count > SHARED_MAX:
                del self._grams[gram]
        hashes = [average_hash(small) for small in pictures]
        self._hashes = np.array(hashes, np.uint64)
        self._thumbnails = np.array([small.ravel() for small in pictures])
        self._known: dict[int, Match | None] = {}

    def find(self, example: Example) -> Match | None:
        """Returns what the example holds of an evaluation, or None."""
        for part in example.prompt:
            if isinstance(part, Picture | Clip | Sound):
                found = self._find_medium(part)
                if found is not None:
                    return found
        return self._find_text(_text(example))

    def _find_medium(self, part: Picture | Clip | Sound) -> Match | None:
        """Media come again and again; what was found is kept."""
        digest = _digest(part)
        if digest in self._exact:
            return self._exact[digest]
        if isinstance(part, Sound):
            return None
        if digest not in self._known:
            self._known[digest] = self._near(part)
        return self._known[digest]

    def _add_text(self, item: Example, name: str) -> set[int]:
        text = _text(item)
        words = WORD.findall(text)
        if len(words) >= GRAM:
            grams = set(_grams(words, GRAM))
            for gram in grams:
                self._grams.setdefault(gram, name)
            return grams
        if len(words) >= CONTAINED_WORDS_MIN:
            (gram,) = _grams(words, len(words))
            self._short[len(words)].setdefault(gram, []).append((text, name))
        elif text:
            self._whole[text] = name
        return set()

    def _add_media(self, item: Example, name: str) -> list[np.ndarray]:
        pictures: list[np.ndarray] = []
        for part in item.prompt:
            if isinstance(part, str | Said):
                continue
            kind = type(part).__name__.lower()
            self._exact[_digest(part)] = Match(kind, name)
            if not isinstance(part, Sound):
                pictures.append(thumbnail(_flattened(part)))
                self._names.append(name)
        return pictures

    def _near(self, part: Picture | Clip) -> Match | None:
        if not len(self._hashes):
            return None
        small = thumbnail(_flattened(part))
        apart = np.bitwise_count(self._hashes ^ np.uint64(average_hash(small)))
        close = np.flatnonzero(apart <= HASH_BITS_MAX)
        if not close.size:
            return None
        alike = self._thumbnails[close] @ small.ravel()
        best = int(np.argmax(alike))
        if alike[best] < CORRELATION_MIN:
            return None
        kind = f"{type(part).__name__.lower()} like one"
        return Match(kind, self._names[close[best]])

    def _find_text(self, text: str) -> Match | None:
        if text in self._whole:
            return Match("text", self._whole[text])
        words = WORD.findall(text)
        for gram in _grams(words, GRAM):
            if gram in self._grams:
                return Match(f"{GRAM} words", self._grams[gram])
        for size, items in self._short.items():
            for gram in _grams(words, size):
                for whole, name in items.get(gram, ()):
                    if whole in text:
                        return Match("text", name)
        return None


def _digest(part: Picture | Clip | Sound) -> int:
    if isinstance(part, Sound):
        # As they are stored: 16 bits a sample.
        array = np.round(np.clip(part.samples, -1, 1) * 32767).astype("<i2")
    else:
        array = part.pixels
    plain = np.ascontiguousarray(array)
    return xxhash.xxh3_64_intdigest(f"{plain.shape}".encode() + plain.tobytes())


def _flattened(part: Picture | Clip) -> np.ndarray:
    """One image [height, width] of a picture, or of at most 16 frames side by side."""
    if isinstance(part, Picture):
        return part.pixels.mean(axis=2)
    frames = part.pixels[:16].mean(axis=3)
    return frames.transpose(1, 0, 2).reshape(frames.shape[1], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What became of items that were planted among training examples."""

    planted: int
    missed: tuple[int, ...]
    """Numbers of planted examples that were not found."""
    others: int
    false: int
    """Of the other examples, those that were said to hold an item."""


def canary(
    others: Sequence[Example], planted: Sequence[Example], items: Sequence[Example]
) -> Canary:
    """Returns how well items are found: `planted` hold one each, `others` none."""
    index = EvaluationIndex(items)
    missed = [n for n, example in enumerate(planted) if index.find(example) is None]
    false = sum(index.find(example) is not None for example in others)
    return Canary(
        planted=len(planted), missed=tuple(missed), others=len(others), false=false
    )
