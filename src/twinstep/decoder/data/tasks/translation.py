"""English and French: numbers in words, and what people translated in real programs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data import catalogues
from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Example, Split
from twinstep.decoder.data.number_words import english, french
from twinstep.decoder.data.origin import RULES, Origin, Pools
from twinstep.decoder.data.tasks.task import Task

NUMBERS = 1000
WORDS_OF_THEIR_OWN = frozenset({*range(21), *range(30, 100, 10)})
"""Numbers whose words no other tells: always on the side of training."""

CATALOGUES = Origin(
    name="gettext catalogues in /usr/share/locale/fr, else names from Babel's CLDR",
    licence="each program's own (GPL and others), Unicode-3.0 for CLDR; not shipped",
    edition=lambda _: catalogues.edition("fr"),
)


def number_side(number: int) -> Split:
    return "train" if number in WORDS_OF_THEIR_OWN else side(f"number {number}")


def numbers(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Every number of the side in both directions, in an order that `random` gives."""
    asked = [
        (number, to_french)
        for number in range(NUMBERS)
        if number_side(number) == split
        for to_french in (True, False)
    ]
    for place in random.permutation(len(asked))[:count]:
        number, to_french = asked[place]
        yield _example(
            "translation_number",
            f"number {number}",
            english(number),
            french(number),
            to_french=to_french,
        )


def texts(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """Pairs of the side, each once, in a direction that `random` gives."""
    found = catalogues.without_leaks(catalogues.pairs("fr"))
    found = [pair for pair in found if side(pair.entity) == split]
    for place in random.permutation(len(found))[:count]:
        pair = found[place]
        yield _example(
            "translation_text",
            pair.entity,
            pair.source,
            pair.target,
            to_french=bool(random.integers(2)),
        )


def _example(
    task: str, entity: str, first: str, second: str, *, to_french: bool
) -> Example:
    given, answer = (first, second) if to_french else (second, first)
    return Example(
        task=task,
        entity=entity,
        prompt=(f"{given} {'fr' if to_french else 'en'}?",),
        answer=answer,
    )


def without_texts(pools: Pools) -> str | None:
    if catalogues.available("fr"):
        return None
    return (
        "no French catalogues in /usr/share/locale (slim images strip them) and no "
        "Babel; install either: pip install babel"
    )


TASKS = (
    Task(
        name="translation_number",
        asks="a number below 1,000 in words, from English to French or back",
        make=numbers,
        entity_rule="the number: 30 in 100 are held out, but for 0 to 20 and the tens, "
        "whose words no other number tells",
        chance=0.0,
        origins=(RULES,),
        train=2000,
        held_out=1000,
    ),
    Task(
        name="translation_text",
        asks="a message of a program, from English to French or back",
        make=texts,
        entity_rule="the program: 15 in 100 are held out; what both sides say is not",
        chance=0.0,
        origins=(CATALOGUES,),
        train=10000,
        held_out=1000,
        absent=without_texts,
    ),
)
