"""Sums of two numbers, many to an example, the answer from its last digit on.

A small model learns to add only from many answers: with one problem an example it was
right in 11 of 100 after 12,000 of them. So a training example has eight problems, each
with a loss. Numbers have three digits (042) and the answer four, the ones first: the
carry is then known when a digit is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Example, Part, Said, Split
from twinstep.decoder.data.origin import RULES, Pools
from twinstep.decoder.data.tasks.task import Task

PROBLEMS = 8
LIMIT = 1000


def entity(one: int, other: int) -> str:
    low, high = sorted((one, other))
    return f"add {low} {high}"


def asked(one: int, other: int) -> str:
    return f"{one:03}+{other:03}="


def answered(one: int, other: int) -> str:
    """Returns the sum's four digits, the ones first: 9530 for 359."""
    return f"{one + other:04}"[::-1]


def additions(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Eight problems an example for training, one for an evaluation."""
    problems = PROBLEMS if split == "train" else 1
    for _ in range(count):
        pairs = [_pair(split, random) for _ in range(problems)]
        prompt: list[Part] = []
        for number, pair in enumerate(pairs):
            if number:
                prompt += [Said(answered(*pairs[number - 1])), ";" + asked(*pair)]
            else:
                prompt.append(asked(*pair))
        yield Example(
            task="addition",
            entity=" + ".join(entity(*pair) for pair in pairs),
            prompt=tuple(prompt),
            answer=answered(*pairs[-1]),
        )


def _pair(split: Split, random: np.random.Generator) -> tuple[int, int]:
    while True:
        one, other = (int(number) for number in random.integers(0, LIMIT, 2))
        if side(entity(one, other)) == split:
            return one, other


TASKS = (
    Task(
        name="addition",
        asks="the sum of two numbers below 1,000, four digits, the ones first",
        make=additions,
        entity_rule="the two numbers, in either order: 10 in 100 pairs are held out",
        chance=0.001,
        origins=(RULES,),
        train=10000,
        held_out=1000,
    ),
)
