"""Real handwriting: the 1,797 digits of 8 x 8 pixels that scikit-learn ships.

They were written by 43 people and came to the UCI repository as "Optical Recognition
of Handwritten Digits"; scikit-learn ships the 1,797 that were its test set. Who wrote
which is not known, so unseen here means an unseen image, not an unseen hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Picture, Split

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 8
SCALE = 2
"""A digit is drawn with SCALE x SCALE pixels for each of its own: 16 x 16."""


@dataclass(frozen=True, slots=True)
class Digit:
    """`number` is its place in scikit-learn's list; pixels are uint8[8, 8]."""

    number: int
    label: int
    pixels: np.ndarray

    @property
    def entity(self) -> str:
        return f"digit {self.number}"

    @property
    def word(self) -> str:
        return WORDS[self.label]


@cache
def digits(split: Split) -> tuple[Digit, ...]:
    """Returns the digits of that side, in scikit-learn's order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(images) * (255 / 16)).astype(np.uint8)
    found = (
        Digit(number, int(label), image.reshape(SIDE, SIDE))
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True))
    )
    return tuple(digit for digit in found if side(digit.entity) == split)


@cache
def by_label(split: Split) -> tuple[tuple[Digit, ...], ...]:
    """Returns the digits of that side: those of 0, those of 1, and so on."""
    return tuple(
        tuple(digit for digit in digits(split) if digit.label == label)
        for label in range(len(WORDS))
    )


def drawn(digit: Digit, random: np.random.Generator | None = None) -> Picture:
    """Returns the digit with 16 x 16 pixels. With `random`, moved by up to two pixels
    each way and between 0.75 and 1 times as bright: more training images from few."""
    pixels = digit.pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    if random is not None:
        down, right = random.integers(-SCALE, SCALE + 1, 2)
        pixels = moved(pixels, int(down), int(right))
        brightness = int(random.integers(192, 257))
        pixels = (pixels.astype(np.uint16) * brightness >> 8).astype(np.uint8)
    return Picture(pixels[..., None])


def moved(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Returns the picture moved, with black where it came from; what leaves is lost."""
    room = max(abs(down), abs(right))
    height, width = pixels.shape
    padded = np.pad(pixels, room)
    return padded[room - down :, room - right :][:height, :width]
