"""Good images, sounds and clips made bad in a known way; see corrupt.py."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from twinstep.decoder.data.corrupt import Corruption
from twinstep.decoder.data.example import Clip, Picture, Sound


def _noise(shape: tuple[int, ...], rng: random.Random) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(63)).normal(size=shape)


def _snow(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    values = 128 + 40 * _noise(pixels.shape, rng)
    return np.clip(values, 0, 255).astype(np.uint8)


def _blank(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    return np.full_like(pixels, rng.randrange(256))


PICTURE: Mapping[str, Corruption[Picture]] = {
    "blank": lambda picture, rng: Picture(_blank(picture.pixels, rng)),
    "noise": lambda picture, rng: Picture(_snow(picture.pixels, rng)),
    "sliver": lambda picture, rng: Picture(picture.pixels[:2]),
    "stretched": lambda picture, rng: Picture(np.repeat(picture.pixels, 20, axis=1)),
}


def _too_loud(sound: Sound, rng: random.Random) -> Sound:
    top = np.abs(sound.samples).max(initial=1e-9)
    return Sound(np.clip(sound.samples * (8 / top), -1, 1).astype(np.float32))


def _noisy(sound: Sound, rng: random.Random) -> Sound:
    """As much noise as sound: 0 dB."""
    level = np.sqrt(np.mean(sound.samples**2))
    noise = _noise(sound.samples.shape, rng) * level
    return Sound((sound.samples + noise).astype(np.float32))


SOUND: Mapping[str, Corruption[Sound]] = {
    "too_loud": _too_loud,
    "noisy": _noisy,
    "silence": lambda sound, rng: Sound(sound.samples * np.float32(1e-5)),
    "fragment": lambda sound, rng: Sound(sound.samples[:800]),
}


def _some_frames(clip: Clip, rng: random.Random, spoil: object) -> Clip:
    assert callable(spoil)
    pixels = clip.pixels.copy()
    count = max(1, len(pixels) // 4)
    for number in rng.sample(range(len(pixels)), count):
        pixels[number] = spoil(pixels[number], rng)
    return Clip(pixels, clip.seconds_per_frame)


def _static(clip: Clip, rng: random.Random) -> Clip:
    still = np.repeat(clip.pixels[:1], len(clip.pixels), axis=0)
    return Clip(still, clip.seconds_per_frame)


CLIP: Mapping[str, Corruption[Clip]] = {
    "static": _static,
    "one_frame": lambda clip, rng: Clip(clip.pixels[:1], clip.seconds_per_frame),
    "blank_frames": lambda clip, rng: _some_frames(clip, rng, _blank),
    "noisy_frames": lambda clip, rng: _some_frames(clip, rng, _snow),
}
