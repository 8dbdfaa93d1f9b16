"""Which value a key had in a list: eight keys, and for training eight questions.

The report asks for a value that was given long before; this is the same at small size.
With one question an example a small model learnt nothing but to say one of the values;
with eight it learns to look. Letters and digits alternate without spaces, so that each
is one token wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Example, Part, Said, Split
from twinstep.decoder.data.origin import RULES, Pools
from twinstep.decoder.data.tasks.task import Task

PAIRS = 8
KEYS = "abcdefghijklmnopqrstuvwxyz"
VALUES = "0123456789"


def recalls(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """All keys in another order for training, one for an evaluation."""
    for _ in range(count):
        keys, values = _list(split, random)
        text = "".join(key + value for key, value in zip(keys, values, strict=True))
        order = random.permutation(PAIRS)[: PAIRS if split == "train" else 1]
        prompt: list[Part] = [text + "?"]
        for place in order:
            prompt += [keys[place], Said(values[place])]
        yield Example(
            task="retrieval",
            entity=f"recall {text}",
            prompt=tuple(prompt[:-1]),
            answer=values[order[-1]],
            choices=tuple(sorted(values)),
        )


def _list(split: Split, random: np.random.Generator) -> tuple[str, str]:
    while True:
        keys = "".join(KEYS[at] for at in random.permutation(len(KEYS))[:PAIRS])
        values = "".join(VALUES[at] for at in random.permutation(len(VALUES))[:PAIRS])
        text = "".join(key + value for key, value in zip(keys, values, strict=True))
        if side(f"recall {text}") == split:
            return keys, values


TASKS = (
    Task(
        name="retrieval",
        asks="the value that a key had in a list of eight",
        make=recalls,
        entity_rule="the whole list: 10 in 100 are held out",
        chance=1 / PAIRS,
        origins=(RULES,),
        train=6000,
        held_out=1000,
    ),
)
