"""The decoder as lm-eval asks models: likelihoods and greedy answers, with media.

    request of lm-eval                                segments
    ("What digit? <image>", {...}, {"visual": [p]})   BOS What digit? [p]   -> generate
    (context, continuation, {"audio": [s]})           BOS context [s] | continuation, 1
    (text,)                                           BOS | text, 1   in windows

A continuation is encoded by itself, as the answers of training are, and not together
with its context as lm-eval's default does; its end token is not counted, as nowhere in
lm-eval. Requests are sorted by length before they go to the sampler, which pads them to
a few compiled shapes and is batch-invariant: alone or among others, the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Example, Part
from twinstep.decoder.data.segmenting import segments
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.eval.blind import See, whole
from twinstep.decoder.eval.items import parts_of
from twinstep.decoder.model.sample import Scored
from twinstep.decoder.model.segments import BOS, EOS, Segment, Text, size_of
from twinstep.errors import UsageError

ANSWER_TOKENS_MAX = 64
"""Of an answer whose task names no bound."""


class Answers(Protocol):
    """What is needed of model/sample.py's Sampler."""

    def generate(
        self, prompts: list[list[Segment]], /, *, tokens_max: int
    ) -> list[list[int]]: ...

    def score(self, examples: list[list[Segment]], /) -> list[Scored]: ...


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def untold(what: str, done: int, total: int) -> None:
    """Progress that nobody wants to know."""


class DecoderLM(TemplateLM):
    """One model for lm-eval's evaluate(). `see` is how it sees media (blind.py);
    `length_max` tokens are the longest row it is given: a document that is longer is
    predicted in windows, a prompt that is longer is an error."""

    MULTIMODAL = True

    def __init__(
        self,
        sampler: Answers,
        tokenizer: Tokenizer,
        tower: TowerConfig,
        *,
        length_max: int,
        see: See = whole,
        batch: int = 512,
        progress: Progress = untold,
    ) -> None:
        super().__init__()
        self._sampler, self._pieces, self._tower = sampler, tokenizer, tower
        self._length_max, self._see = length_max, see
        self._batch, self._progress = batch, progress
        self._last: tuple[str, int, list[Segment]] | None = None

    @property
    def eot_token_id(self) -> int:
        return EOS

    @property
    def prefix_token_id(self) -> int:
        return BOS

    @property
    def max_length(self) -> int:
        return self._length_max

    @property
    def tokenizer_name(self) -> str:
        return "twinstep"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        ids = list(self._pieces.encode(string))
        return [BOS, *ids] if add_special_tokens else ids

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[str]:
        """Returns each request's greedy answer, cut at the first of its stop strings.

        Raises: UsageError for sampling, which this evaluation has no use for."""
        self._last = None
        rows: list[list[Segment]] = []
        groups: dict[int, list[int]] = {}
        stops: list[Sequence[str] | str] = []
        for index, request in enumerate(requests):
            context, options, media = _arguments(request)
            if options.get("do_sample") or options.get("temperature"):
                raise UsageError(
                    f"generation with {options}; answers are greedy here: do_sample "
                    "false, and no temperature"
                )
            rows.append(self._prompt(context, media))
            stops.append(options.get("until") or ())
            tokens_max = options.get("max_gen_toks", ANSWER_TOKENS_MAX)
            groups.setdefault(tokens_max, []).append(index)
        answers = [""] * len(requests)
        for tokens_max, members in groups.items():
            ids = self._sorted(
                "answers",
                [rows[index] for index in members],
                lambda batch, most=tokens_max: self._sampler.generate(
                    batch, tokens_max=most
                ),
            )
            for index, answer in zip(members, ids, strict=True):
                text = self._pieces.decode(answer)
                answers[index] = _cut(text, stops[index])
        return answers

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Returns each continuation's log-probability, in nats, and whether it is what
        the model would have written."""
        self._last = None
        rows: list[list[Segment]] = []
        for request in requests:
            context, continuation, media = _arguments(request)
            ids = self.tok_encode(continuation)
            rows.append([*self._prompt(context, media), Text(ids, 1.0)])
        return self._scores(rows)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._scores(
            [[Text(given), Text(asked, 1.0)] for _, given, asked in requests]
        )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns each whole text's log-probability, in nats. A text longer than a row
        is predicted in windows, each token once."""
        rows: list[list[Segment]] = []
        owner: list[int] = []
        for index, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, BOS, self._length_max - 1, 1)
            for given, asked in map(make_disjoint_window, windows):
                rows.append([Text(given), Text(asked, 1.0)])
                owner.append(index)
        sums = [0.0] * len(requests)
        for index, (nats, _) in zip(owner, self._scores(rows), strict=True):
            sums[index] += nats
        return sums

    def continued(self, texts: Sequence[str], *, tokens_max: int) -> list[str]:
        """Returns what the model writes after each text, which is the beginning of a
        document."""
        rows: list[list[Segment]] = [
            [Text([BOS, *self.tok_encode(text)])] for text in texts
        ]
        written = self._sampler.generate(rows, tokens_max=tokens_max)
        return [self._pieces.decode(ids) for ids in written]

    def _scores(self, rows: list[list[Segment]]) -> list[tuple[float, bool]]:
        scored = self._sorted("likelihoods", rows, self._sampler.score)
        return [(-score.nats, score.greedy) for score in scored]

    def _prompt(self, context: str, media: list[dict[str, Any]]) -> list[Segment]:
        """Returns the prompt's segments. The choices of one question, which follow
        one another and share what is beside the text, are cut once."""
        if not media:
            return self._segments(parts_of(context))
        if self._last is None or self._last[:2] != (context, id(media[0])):
            beside = media[0]
            images, sounds = _media(beside, "visual"), _media(beside, "audio")
            parts = tuple(map(self._see, parts_of(context, images, sounds)))
            self._last = (context, id(beside), self._segments(parts))
        return self._last[2]

    def _segments(self, parts: tuple[Part, ...]) -> list[Segment]:
        if not parts:
            return [Text([BOS])]
        asked = Example(task="", entity="", prompt=parts, answer="")
        return segments(asked, self._pieces, self._tower, answered=False)

    def _sorted(
        self,
        kind: str,
        rows: list[list[Segment]],
        answer: Callable[[list[list[Segment]]], Sequence[Any]],
    ) -> list[Any]:
        """Returns answer(rows) in the order of `rows`, asked in order of length."""
        sizes = [size_of(row, self._tower).tokens for row in rows]
        if rows and max(sizes) > self._length_max:
            raise UsageError(
                f"a prompt of {max(sizes)} tokens; rows hold {self._length_max}: "
                "evaluate with longer rows"
            )
        order = sorted(range(len(rows)), key=lambda index: -sizes[index])
        results: list[Any] = [None] * len(rows)
        for start in range(0, len(order), self._batch):
            members = order[start : start + self._batch]
            for index, result in zip(
                members, answer([rows[index] for index in members]), strict=True
            ):
                results[index] = result
            self._progress(kind, start + len(members), len(rows))
        return results


def _arguments(request: Instance) -> tuple[Any, ...]:
    """Returns the context, what is asked, and the media beside it, if any."""
    arguments: tuple[Any, ...] = request.arguments
    return arguments[0], arguments[1], list(arguments[2:])


def _media(beside: dict[str, Any], kind: str) -> Sequence[Part]:
    found = beside.get(kind)
    return found.value if found else ()


def _cut(text: str, stops: Sequence[str] | str) -> str:
    for stop in [stops] if isinstance(stops, str) else stops:
        if stop:
            text = text.split(stop)[0]
    return text
