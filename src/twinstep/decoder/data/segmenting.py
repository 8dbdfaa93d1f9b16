"""An example becomes segments: ids, pixels and sound features, in order.

    BOS  prompt...  Said (weight 1)  prompt...  answer (weight 1)  EOS (weight 1)

Each text is tokenised by itself, so that no piece reaches over the border of prompt and
answer: what an evaluation asks of a model, token by token, is what it was trained on.
A clip is its frames as images with a short time stamp before each, at most 16 of them,
equally spaced (the number is the Gemini 1.0 report's; the time stamp is our own).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Clip, Example, Picture, Said, Sound
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.model.audio import log_mel
from twinstep.decoder.model.segments import BOS, EOS, Audio, Image, Segment, Text

FRAMES_MAX = 16


def segments(
    example: Example,
    tokenizer: Tokenizer,
    tower: TowerConfig,
    *,
    answered: bool = True,
    features: Callable[[Sound], Audio] | None = None,
) -> list[Segment]:
    """Returns the segments of an example; without its answer and the end when
    `answered` is false: what a model is to go on from. `features` gives those of a
    sound, where they are kept."""
    if features is None:
        features = partial(sound_features, tower=tower)
    found: list[Segment] = [Text([BOS])]
    for part in example.prompt:
        match part:
            case str():
                if part:
                    found.append(Text(tokenizer.encode(part)))
            case Said():
                found.append(Text(tokenizer.encode(part.text), weight=1.0))
            case Picture():
                found.append(Image(part.pixels))
            case Sound():
                found.append(features(part))
            case Clip():
                found += clip_segments(part, tokenizer)
    if answered:
        found.append(Text([*tokenizer.encode(example.answer), EOS], weight=1.0))
    return found


def sound_features(sound: Sound, tower: TowerConfig) -> Audio:
    """Returns the log-mel features of a sound."""
    return Audio(log_mel(sound.samples, mel=tower.mel))


def clip_segments(clip: Clip, tokenizer: Tokenizer) -> list[Segment]:
    """Returns a time stamp in seconds and an image for each frame."""
    found: list[Segment] = []
    for number in chosen_frames(len(clip.pixels)):
        stamp = f"{number * clip.seconds_per_frame:.2f}".rstrip("0").rstrip(".")
        found.append(Text(tokenizer.encode(f" {stamp}s ")))
        found.append(Image(clip.pixels[number]))
    return found


def chosen_frames(count: int, frames_max: int = FRAMES_MAX) -> list[int]:
    """Returns the numbers of at most `frames_max` frames, the first and the last among
    them, equally spaced."""
    if count <= frames_max:
        return list(range(count))
    return [int(at) for at in np.linspace(0, count - 1, frames_max).round()]
