"""A handwritten digit that moves: which way it goes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data.digits import SIDE, Digit, digits
from twinstep.decoder.data.example import Clip, Example, Split
from twinstep.decoder.data.origin import HANDWRITING, Pools
from twinstep.decoder.data.tasks.task import Task

WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
CANVAS = 16
FRAMES = 8
SECONDS_PER_FRAME = 1.0
TRAVEL = (3, 8)
"""Pixels from the first to the last frame, the second not included. Less than the
room there is (8), so that the first frame does not tell where it will go."""


def clip(digit: Digit, way: str, random: np.random.Generator) -> Clip:
    """The digit at its own size moves evenly, from a place and as far as drawn."""
    room = CANVAS - SIDE
    travel = int(random.integers(*TRAVEL))
    along, across = random.integers(room - travel + 1), random.integers(room + 1)
    steps = np.round(np.linspace(0, travel, FRAMES)).astype(int) + along
    down, right = WAYS[way]
    if down + right < 0:
        steps = steps[::-1]
    frames = np.zeros((FRAMES, CANVAS, CANVAS, 1), np.uint8)
    for frame, step in zip(frames, steps, strict=True):
        row, column = (step, across) if down else (across, step)
        frame[row : row + SIDE, column : column + SIDE, 0] = digit.pixels
    return Clip(frames, SECONDS_PER_FRAME)


def directions(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """The four ways in turn, each with a digit of the side."""
    pool, ways = digits(split), tuple(WAYS)
    for number in range(count):
        digit = pool[random.integers(len(pool))]
        way = ways[number % len(ways)]
        yield Example(
            task="video_direction",
            entity=digit.entity,
            prompt=(clip(digit, way, random), "moves?"),
            answer=way,
            choices=ways,
        )


TASKS = (
    Task(
        name="video_direction",
        asks="which way a digit moves in a video of eight frames",
        make=directions,
        entity_rule="the digit's image: 25 in 100 of the 1,797 are held out, by number",
        chance=1 / 4,
        origins=(HANDWRITING,),
        train=8000,
        held_out=1000,
    ),
)
