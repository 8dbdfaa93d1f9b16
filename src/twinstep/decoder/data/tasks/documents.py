"""Texts without a question: docstrings and code of installed Python modules."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twinstep.decoder.data import prose
from twinstep.decoder.data.example import Example, Split
from twinstep.decoder.data.origin import STANDARD_LIBRARY, Origin, Pools
from twinstep.decoder.data.tasks.task import Task

PACKAGES = Origin(
    name="docstrings of flax, grain, jax, numpy, optax, scipy and sklearn as installed",
    licence="BSD-3-Clause and Apache-2.0; read here, not shipped",
    edition=lambda _: prose.editions(),
)


def docstrings(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    texts = prose.docstrings(prose.library(pools.amount), split)
    return _documents("docstring", texts, count, random)


def code(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    return _documents(
        "code", prose.code(prose.library(pools.amount), split), count, random
    )


def science(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    texts = prose.docstrings(prose.science(pools.amount), split)
    return _documents("docstring_science", texts, count, random)


def _documents(
    task: str,
    texts: Iterator[tuple[str, str]],
    count: int,
    random: np.random.Generator,
) -> Iterator[Example]:
    found = list(texts)
    for place in random.permutation(len(found))[:count]:
        entity, text = found[place]
        yield Example(task=task, entity=entity, prompt=(), answer=text)


RULE = "the top-level module: 20 in 100 are held out, by name"
TASKS = (
    Task(
        name="docstring",
        asks="English: docstrings of the standard library, up to 480 letters each",
        make=docstrings,
        entity_rule=RULE,
        chance=0.0,
        origins=(STANDARD_LIBRARY,),
        train=6000,
        held_out=600,
    ),
    Task(
        name="code",
        asks="Python: code of the standard library, up to 480 letters each",
        make=code,
        entity_rule=RULE,
        chance=0.0,
        origins=(STANDARD_LIBRARY,),
        train=6000,
        held_out=600,
    ),
    Task(
        name="docstring_science",
        asks="English of a domain, for the end of training: docstrings about numbers",
        make=science,
        entity_rule="a package's part, such as numpy.linalg: 10 in 100 are held out",
        chance=0.0,
        origins=(PACKAGES,),
        train=6000,
        held_out=600,
        default=False,
    ),
)
