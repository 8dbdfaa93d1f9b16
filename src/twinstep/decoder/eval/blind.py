"""What a model sees of a medium: all of it, nothing, or frames out of order.

A model that answers as well without the picture has not looked at it. So each task
with media is asked a second time with blanks of the same size (black pictures, silence,
black frames), where it must fall to what guessing gives; and videos a third time with
their frames shuffled, where a question about motion must fall too. Size, number and
place of the media stay: only what is in them goes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from twinstep.decoder.data.example import Clip, Part, Picture, Said, Sound

See = Callable[[Part], Part]
"""Returns the part as the model is to see it."""


def whole(part: Part) -> Part:
    return part


def blank(part: Part) -> Part:
    """Returns black or silence of the same size; text stays."""
    match part:
        case str() | Said():
            return part
        case Picture(pixels=pixels):
            return Picture(np.zeros_like(pixels))
        case Clip(pixels=pixels, seconds_per_frame=seconds):
            return Clip(np.zeros_like(pixels), seconds)
        case Sound(samples=samples):
            return Sound(np.zeros_like(samples))


def shuffled(part: Part) -> Part:
    """Returns a clip with its frames in another order, the same one for the same clip;
    all else stays. Two frames are exchanged; one is left alone."""
    if not isinstance(part, Clip):
        return part
    frames = len(part.pixels)
    seed = zlib.crc32(part.pixels.tobytes())
    order = np.random.default_rng(seed).permutation(frames)
    if frames > 1 and (order == np.arange(frames)).all():
        order = np.roll(order, 1)
    return Clip(part.pixels[order], part.seconds_per_frame)
