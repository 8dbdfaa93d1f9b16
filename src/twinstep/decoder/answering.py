"""A question from files and words, and what a run's model says to it.

Sounds, images and clips come first and the text behind them, as in the examples that
the model was trained on. Images are made grey, and no larger than the tower has
positions for.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from twinstep.decoder import weights
from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Clip, Example, Part, Picture, Sound
from twinstep.decoder.data.segmenting import segments
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.model.audio import resample
from twinstep.decoder.model.sample import Sampler
from twinstep.decoder.model.segments import BatchShape
from twinstep.decoder.run import Run
from twinstep.errors import UsageError

HERTZ = 16_000
FRAMES_READ_MAX = 1000
PIXELS_MAX = 64_000_000
ALONE = BatchShape(rows=1, tokens=32, images=0, audio=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Files, and the text that is asked of them."""

    text: str = ""
    sounds: Sequence[Path] = ()
    images: Sequence[Path] = ()
    clips: Sequence[Path] = ()

    def parts(self, tower: TowerConfig) -> tuple[Part, ...]:
        """Raises: UsageError for a file that is not what it should be."""
        found: list[Part] = [read_sound(path) for path in self.sounds]
        found += [read_image(path, tower) for path in self.images]
        found += [read_clip(path, tower) for path in self.clips]
        return (*found, self.text) if self.text else tuple(found)


def answer(
    run: Run,
    question: Question,
    *,
    tokens_max: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """Returns what the run's model says to the question.

    Raises: UsageError when a stage is missing, a file cannot be read, or the question
        is longer than the model's context."""
    params, config = weights.load(run.require_model())
    tokenizer = Tokenizer.load(run.require_tokenizer())
    tokenizer.require(config.vocabulary)
    example = Example(
        task="", entity="", prompt=question.parts(config.tower), answer=""
    )
    prompt = segments(example, tokenizer, config.tower, answered=False)
    sampler = Sampler(params, config, least=ALONE)
    said = sampler.generate(
        [prompt], tokens_max=tokens_max, temperature=temperature, seed=seed
    )
    return tokenizer.decode(said[0])


def read_image(path: Path, tower: TowerConfig) -> Picture:
    """Raises: UsageError where the file holds no image."""
    with _opened(path) as image:
        return Picture(_pixels(image, tower))


def read_clip(path: Path, tower: TowerConfig) -> Clip:
    """Returns the frames of an animated GIF, WebP or PNG.

    Raises: UsageError where the file holds none."""
    with _opened(path) as image:
        shown_ms = image.info.get("duration") or 100
        frames = [
            _pixels(frame, tower)
            for _, frame in zip(
                range(FRAMES_READ_MAX), ImageSequence.Iterator(image), strict=False
            )
        ]
    return Clip(np.stack(frames), shown_ms / 1000)


def read_sound(path: Path) -> Sound:
    """Returns a WAV file's sound, its channels as one, at 16,000 samples a second.

    Raises: UsageError where the file holds none."""
    try:
        with wave.open(str(path), "rb") as file:
            width, rate = file.getsampwidth(), file.getframerate()
            channels = file.getnchannels()
            raw = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(f"{path} cannot be read as WAV: {error}") from error
    if width not in (1, 2, 4):
        raise UsageError(
            f"{path} has samples of {width * 8} bits; 8, 16 and 32 can be read"
        )
    kind = {1: np.uint8, 2: np.dtype("<i2"), 4: np.dtype("<i4")}[width]
    whole = len(raw) // (width * channels) * channels
    numbers = np.frombuffer(raw, kind, count=whole).reshape(-1, channels)
    middle, largest = (128, 128) if width == 1 else (0, 1 << (8 * width - 1))
    samples = ((numbers.astype(np.float64) - middle) / largest).mean(axis=1)
    samples = samples.astype(np.float32)
    return Sound(samples if rate == HERTZ else resample(samples, rate))


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
    if image.width * image.height > PIXELS_MAX:
        raise UsageError(
            f"{path} has {image.width} x {image.height} pixels; at most {PIXELS_MAX}"
        )
    return image


def _pixels(image: Image.Image, tower: TowerConfig) -> np.ndarray:
    """uint8[height, width, 1], smaller where the tower has too few positions."""
    side = tower.grid * tower.patch
    grey = image.convert("L")
    grey.thumbnail((side, side))
    return np.asarray(grey, np.uint8)[..., None]
