"""Digits in pictures: which one it is, and the sum of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data.digits import WORDS, digits, drawn
from twinstep.decoder.data.example import Example, Split
from twinstep.decoder.data.number_words import english
from twinstep.decoder.data.origin import HANDWRITING, Pools
from twinstep.decoder.data.tasks.task import Task

SUMS = tuple(english(number) for number in range(19))
RULE = "the image: 25 in 100 of the 1,797 are held out, by number"


def image_digits(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Each image of the side as it is, then (for training) again and again moved and
    dimmed, until `count`. Held-out images are asked once and never changed."""
    pool = digits(split)
    for number in range(count if split == "train" else min(count, len(pool))):
        digit = pool[number % len(pool)]
        picture = drawn(digit, random if number >= len(pool) else None)
        yield Example(
            task="image_digit",
            entity=digit.entity,
            prompt=(picture, "digit?"),
            answer=digit.word,
            choices=WORDS,
        )


def image_sums(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Two images of the side; for training both are moved and dimmed."""
    pool = digits(split)
    augment = random if split == "train" else None
    for _ in range(count):
        one, other = (pool[place] for place in random.integers(0, len(pool), 2))
        yield Example(
            task="image_sum",
            entity=f"{one.entity} + {other.entity}",
            prompt=(drawn(one, augment), drawn(other, augment), "sum?"),
            answer=SUMS[one.label + other.label],
            choices=SUMS,
        )


TASKS = (
    Task(
        name="image_digit",
        asks="which digit a picture of real handwriting shows",
        make=image_digits,
        entity_rule=RULE,
        chance=1 / 10,
        origins=(HANDWRITING,),
        train=5400,
        held_out=500,
    ),
    Task(
        name="image_sum",
        asks="the sum of the digits on two pictures",
        make=image_sums,
        entity_rule=RULE + "; both images are of the side",
        chance=1 / 10,
        origins=(HANDWRITING,),
        train=8000,
        held_out=1000,
    ),
)
