"""Answers to prompts and scores of answers, the same alone as in any company.

An item's shape depends on the item alone: positions, image and audio slots are each
rounded up to the next of a few sizes, and a batch always has `rows` rows. So each shape
is compiled once, and an item's numbers are the same bits alone, among others, and in
any order (tested).

    prompts -> by shape -> batches of `rows` -> read -> say 16 -> say 16 -> ... -> ids
                                                        stop ids, stop callback
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.decode import Choice, judge, read, say
from twinstep.decoder.model.layers import Tree
from twinstep.decoder.model.segments import EOS, BatchShape, Segment, fill, size_of
from twinstep.errors import UsageError

STEPS = 16
"""Tokens said between two looks at whether all rows have stopped."""

Stop = Callable[[list[int]], bool]
"""Given the tokens said so far, whether the last of them was the last."""


@dataclass(frozen=True, slots=True)
class Scored:
    """-log p in nats of all text ids that have a weight, how many they are, and whether
    each was the most probable token (what greedy generation would have said)."""

    nats: float
    tokens: int
    greedy: bool


class Sampler:
    """Generates and scores with these parameters, `rows` items at a time. Another
    Sampler of the same config compiles nothing again."""

    def __init__(self, params: Tree, config: ModelConfig, *, rows: int = 16) -> None:
        self._params = jax.tree.map(jnp.asarray, params)
        self._config = config
        self._rows = rows

    def generate(
        self,
        prompts: Sequence[Sequence[Segment]],
        *,
        tokens_max: int,
        stop_ids: Sequence[int] = (EOS,),
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | Sequence[int] = 0,
        stop: Stop | None = None,
    ) -> list[list[int]]:
        """Returns for each prompt the ids said after it, at most `tokens_max`; a stop
        id ends them and is left out, `stop` ends them after the token it was asked of
        (strings that end an answer: decode and look).

        Temperature 0 says the most probable token; else noise is drawn from `seed` and
        the prompt's place among the prompts, or from its own of as many seeds: then a
        prompt's answer does not depend on the others.

        Raises: UsageError for an empty prompt, one that the context has no room for
            with `tokens_max` behind it, or numbers out of range."""
        config = self._config
        if tokens_max < 1 or temperature < 0:
            raise UsageError(
                f"tokens_max {tokens_max} and temperature {temperature}; at least 1 "
                "token, and a temperature of at least 0 (0: the most probable)"
            )
        if top_k is not None and not 1 <= top_k <= config.vocabulary:
            raise UsageError(f"top_k {top_k}; 1 to {config.vocabulary}, or None")
        seeds, numbers = _seeds(seed, len(prompts))
        room = _up(tokens_max, STEPS, 2)
        said: list[list[int]] = [[] for _ in prompts]
        for shape, chosen in self._batches(prompts, tokens_max):
            batch = fill([[prompts[at]] for at in chosen], shape, config.tower)
            state = read(self._params, batch, config=config, room=room)
            choice = Choice(
                jnp.asarray(self._filled(seeds, chosen)),
                jnp.asarray(self._filled(numbers, chosen)),
                jnp.float32(temperature),
            )
            open_ = set(chosen)
            for start in range(0, tokens_max, STEPS):
                tokens, state = say(
                    self._params,
                    state,
                    choice,
                    jnp.int32(start),
                    config=config,
                    steps=STEPS,
                    top_k=top_k,
                )
                for row, at in enumerate(chosen):
                    if at in open_ and _append(
                        said[at],
                        np.asarray(tokens)[row].tolist(),
                        tokens_max,
                        stop_ids,
                        stop,
                    ):
                        open_.discard(at)
                if not open_:
                    break
        return said

    def score(self, examples: Sequence[Sequence[Segment]]) -> list[Scored]:
        """Returns how probable each example's text with a weight is, given all that is
        before. The first token of an example has nothing before it and is not counted.

        Raises: UsageError for an example that is empty or longer than the context."""
        scored: list[Scored] = [Scored(0.0, 0, True)] * len(examples)
        for shape, chosen in self._batches(examples, 0):
            batch = fill([[examples[at]] for at in chosen], shape, self._config.tower)
            nats, greedy = judge(self._params, batch, config=self._config)
            nats, greedy = np.asarray(nats, np.float64), np.asarray(greedy)
            for row, at in enumerate(chosen):
                asked = np.asarray(batch.weight)[row] > 0
                scored[at] = Scored(
                    float(nats[row][asked].sum()),
                    int(asked.sum()),
                    bool(greedy[row][asked].all()),
                )
        return scored

    def _batches(
        self, examples: Sequence[Sequence[Segment]], tokens_more: int
    ) -> Iterator[tuple[BatchShape, list[int]]]:
        """Yields shapes and which examples to take there, at most `rows` at a time."""
        by_shape: dict[BatchShape, list[int]] = {}
        for at, example in enumerate(examples):
            size, context = size_of(example, self._config.tower), self._config.context
            if not 1 <= size.tokens <= context - tokens_more:
                raise UsageError(
                    f"item {at} has {size.tokens} positions; 1 to {context} fit into "
                    f"the context, {tokens_more} of them for what is to be said"
                )
            shape = BatchShape(
                rows=self._rows,
                tokens=_up(size.tokens, 32, 2),
                images=_up(size.images, 16, 4),
                audio=_up(size.audio, 16, 4),
            )
            by_shape.setdefault(shape, []).append(at)
        for shape, chosen in by_shape.items():
            for start in range(0, len(chosen), self._rows):
                yield shape, chosen[start : start + self._rows]

    def _filled(self, numbers: np.ndarray, chosen: list[int]) -> np.ndarray:
        """uint32[rows]: the chosen ones' numbers, 0 for empty rows."""
        made = np.zeros(self._rows, np.uint32)
        made[: len(chosen)] = numbers[chosen]
        return made


def _up(count: int, least: int, times: int) -> int:
    """The next of 0, least, least * times, least * times^2 ..."""
    size = least if count else 0
    while size < count:
        size *= times
    return size


def _seeds(seed: int | Sequence[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32 seed and number of each prompt."""
    if isinstance(seed, int):
        return np.full(count, seed, np.uint32), np.arange(count, dtype=np.uint32)
    if len(seed) != count:
        raise UsageError(
            f"{len(seed)} seeds for {count} prompts; give one each, or one number"
        )
    return np.asarray(seed, np.uint32), np.zeros(count, np.uint32)


def _append(
    said: list[int],
    tokens: list[int],
    tokens_max: int,
    stop_ids: Sequence[int],
    stop: Stop | None,
) -> bool:
    """Appends the tokens up to where they stop; returns whether they did."""
    for token in tokens:
        if token in stop_ids:
            return True
        said.append(token)
        if len(said) == tokens_max or (stop is not None and stop(said)):
            return True
    return False
