"""Which images, sounds and clips are not worth training on, and why.

Nothing of this is in the Gemini 1.0 report but that there are such filters. As in
quality.py a rule measures one thing and brings its number. The bounds are wide: images
of 8 x 8 pixels and synthetic voices are what is on this machine, and are to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Generic, TypeVar

import numpy as np

from twinstep.decoder.data.example import Clip, Picture, Sound
from twinstep.decoder.data.quality import Verdict

Medium = TypeVar("Medium", Picture, Sound, Clip)
RATE = 16_000
FRAME = 400
"""Samples of one measurement of loudness: 25 ms."""


@dataclass(frozen=True, slots=True)
class MediaRule(Generic[Medium]):
    """What is measured, and the numbers that are allowed, both ends included."""

    name: str
    measure: Callable[[Medium], float]
    low: float = -inf
    high: float = inf


def shorter_side(picture: Picture) -> float:
    return min(picture.pixels.shape[:2])


def aspect(picture: Picture) -> float:
    """Longer side by shorter side."""
    height, width = picture.pixels.shape[:2]
    return max(height, width) / max(1, min(height, width))


def entropy(picture: Picture) -> float:
    """Bits that a pixel says, of its value alone: 0 for one colour, 8 at most."""
    shares = np.bincount(picture.pixels.ravel(), minlength=256) / picture.pixels.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def roughness(picture: Picture) -> float:
    """Mean difference of neighbours by standard deviation: 1.13 for noise in which
    neighbours know nothing of each other, less for whatever has a shape."""
    pixels = picture.pixels.astype(np.float64)
    steps = np.concatenate(
        [np.abs(np.diff(pixels, axis=axis)).ravel() for axis in (0, 1)]
    )
    spread = pixels.std()
    return float(steps.mean() / spread) if spread and steps.size else 0.0


PICTURE: tuple[MediaRule[Picture], ...] = (
    MediaRule("shorter_side", shorter_side, low=8),
    MediaRule("aspect", aspect, high=12),
    MediaRule("entropy", entropy, low=0.1),
    MediaRule("roughness", roughness, high=1.0),
)


def seconds(sound: Sound) -> float:
    return len(sound.samples) / RATE


def clipped(sound: Sound) -> float:
    """Share of samples at the loudest value, where that is near full scale."""
    loud = np.abs(sound.samples)
    top = loud.max(initial=0.0)
    return float(np.mean(loud >= 0.999 * top)) if top >= 0.5 else 0.0


def _levels(sound: Sound) -> np.ndarray:
    """Loudness of each 25 ms in dB of full scale, never under -100."""
    count = max(1, len(sound.samples) // FRAME)
    padded = np.zeros(count * FRAME)
    some = sound.samples[: count * FRAME]
    padded[: len(some)] = some
    power = (padded.reshape(count, FRAME) ** 2).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 1e-10))


def silent(sound: Sound) -> float:
    """Share of the time under -60 dB."""
    return float(np.mean(_levels(sound) < -60))


def loud_to_soft(sound: Sound) -> float:
    """Signal to noise in dB, as the tenth of the time that is loudest against the
    softest tenth: speech has pauses, and in them what remains is noise."""
    levels = np.sort(_levels(sound))
    tenth = max(1, len(levels) // 10)
    return float(levels[-tenth:].mean() - levels[:tenth].mean())


SOUND: tuple[MediaRule[Sound], ...] = (
    MediaRule("seconds", seconds, 0.1, 30),
    MediaRule("clipped", clipped, high=0.02),
    MediaRule("silent", silent, high=0.9),
    MediaRule("loud_to_soft", loud_to_soft, low=10),
)


def frames(clip: Clip) -> float:
    return len(clip.pixels)


def moving(clip: Clip) -> float:
    """Share of steps from frame to frame in which something changes."""
    if len(clip.pixels) < 2:
        return 0.0
    same = (clip.pixels[1:] == clip.pixels[:-1]).reshape(len(clip.pixels) - 1, -1)
    return float(1 - same.all(axis=1).mean())


def broken(clip: Clip) -> float:
    """Share of frames of one colour, or of noise, where another is neither."""
    bad = [bool(judge_media(Picture(frame), FRAME_RULES)) for frame in clip.pixels]
    return sum(bad) / max(1, len(bad))


FRAME_RULES = PICTURE[2:]
CLIP: tuple[MediaRule[Clip], ...] = (
    MediaRule("frames", frames, 2, 4096),
    MediaRule("moving", moving, low=0.2),
    MediaRule("broken", broken, high=0.1),
)


def judge_media(medium: Medium, rules: Iterable[MediaRule[Medium]]) -> list[Verdict]:
    """Returns a verdict for each rule that the medium fails; none: it is kept."""
    found: list[Verdict] = []
    for rule in rules:
        value = rule.measure(medium)
        if not rule.low <= value <= rule.high:
            found.append(Verdict(rule.name, value, rule.low, rule.high))
    return found


THUMBNAIL_SIDE = 16


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """float32[16, 16] of an image [height, width]: means over equal areas, then mean 0
    and length 1. The product of two is how much two images correlate, whatever their
    size, brightness and contrast."""
    down, across = (_areas(size, THUMBNAIL_SIDE) for size in pixels.shape)
    small = down @ pixels.astype(np.float32) @ across.T
    small -= small.mean()
    return small / max(1e-6, float(np.linalg.norm(small)))


def average_hash(small: np.ndarray) -> int:
    """64 bits of a thumbnail: which of 8 x 8 parts are lighter than the mean. Size,
    brightness and a little noise change few of them."""
    parts = small.reshape(8, 2, 8, 2).sum(axis=(1, 3))
    return int.from_bytes(np.packbits(parts > parts.mean()).tobytes(), "big")


@cache
def _areas(size: int, parts: int) -> np.ndarray:
    """float32[parts, size]: how much of each pixel lies in each of `parts` equal parts
    of `size` pixels; rows sum to 1."""
    edges = np.arange(parts + 1)[:, None] * (size / parts)
    pixel = np.arange(size)
    ends = np.minimum(edges[1:], pixel + 1)
    starts = np.maximum(edges[:-1], pixel)
    return (np.maximum(0, ends - starts) * (parts / size)).astype(np.float32)


def near_duplicates(pictures: Sequence[Picture], *, bits: int = 2) -> list[int]:
    """Returns the numbers of pictures whose hash differs by `bits` or fewer from that
    of one before them that is kept. Of blank pictures all hashes are the same: apply
    the rules first. Quadratic: for thousands, not millions."""
    kept: list[int] = []
    found: list[int] = []
    for number, picture in enumerate(pictures):
        hashed = average_hash(thumbnail(picture.pixels.mean(axis=2)))
        if any((hashed ^ other).bit_count() <= bits for other in kept):
            found.append(number)
        else:
            kept.append(hashed)
    return found
