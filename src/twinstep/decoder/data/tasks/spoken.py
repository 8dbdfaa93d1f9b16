"""Spoken digits: which one is said, and whether it is the one that is written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data.digits import WORDS, by_label, drawn
from twinstep.decoder.data.example import Example, Sound, Split
from twinstep.decoder.data.origin import HANDWRITING, SPEECH, Pools
from twinstep.decoder.data.speech import Espeak, missing
from twinstep.decoder.data.tasks.task import Task

RULE = "the family of voices: 25 in 100 are held out, by name"


def without_speech(pools: Pools) -> str | None:
    return missing() if isinstance(pools.speaker, Espeak) else None


def sound(samples: np.ndarray) -> Sound:
    return Sound(samples.astype(np.float32) / 32767)


def spoken_digits(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Every word of every voice of the side, in an order that `random` gives."""
    pool = pools.speech(split)
    for place in random.permutation(len(pool))[:count]:
        utterance = pool[place]
        yield Example(
            task="spoken_digit",
            entity=utterance.entity,
            prompt=(sound(utterance.samples), "said?"),
            answer=WORDS[utterance.word],
            choices=WORDS,
        )


def matches(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """A voice and a picture. Every second pair is of one digit, and words, pictures
    and answers are independent, so that neither alone tells anything."""
    pool, written = pools.speech(split), by_label(split)
    augment = random if split == "train" else None
    for number in range(count):
        utterance = pool[random.integers(len(pool))]
        same = number % 2 == 0
        step = 0 if same else int(random.integers(1, 10))
        images = written[(utterance.word + step) % 10]
        digit = images[random.integers(len(images))]
        yield Example(
            task="speech_image_match",
            entity=f"{utterance.entity} + {digit.entity}",
            prompt=(sound(utterance.samples), drawn(digit, augment), "same?"),
            answer="yes" if same else "no",
            choices=("yes", "no"),
        )


TASKS = (
    Task(
        name="spoken_digit",
        asks="which digit a voice says",
        make=spoken_digits,
        entity_rule=RULE,
        chance=1 / 10,
        origins=(SPEECH,),
        train=3000,
        held_out=1000,
        absent=without_speech,
    ),
    Task(
        name="speech_image_match",
        asks="whether a voice says the digit that a picture shows",
        make=matches,
        entity_rule=RULE + "; and the image: voice and image are both of the side",
        chance=1 / 2,
        origins=(SPEECH, HANDWRITING),
        train=12000,
        held_out=1000,
        absent=without_speech,
    ),
)
