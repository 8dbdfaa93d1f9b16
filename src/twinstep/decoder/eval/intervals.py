"""How sure a number is: the 95 % interval of each kind of metric.

Shares have Wilson's interval. Bits per byte and chrF are of the whole set and no mean
of items, so items are drawn again with replacement (a bootstrap, from a fixed seed).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from twinstep.decoder.eval.measure import Item, Outcome
from twinstep.decoder.eval.report import Measured, wilson

DRAWS = 1000
CHRF_ORDER, CHRF_BETA = 6, 2


def measured(outcome: Outcome) -> Measured:
    """Returns the task's number with its interval."""
    match outcome.task.metric:
        case "exact_match" | "acc":
            right = round(sum(item.score for item in outcome.items))
            return wilson(right, len(outcome.items))
        case "bits_per_byte":
            return bits_per_byte(outcome.items)
        case "chrf":
            answers = [item.answer for item in outcome.items]
            return chrf(answers, [item.example.answer for item in outcome.items])


def bits_per_byte(items: tuple[Item, ...]) -> Measured:
    """Returns the bits of all documents over their bytes of UTF-8."""
    bits = np.array([-item.score / math.log(2) for item in items])
    size = np.array([len(item.example.answer.encode()) for item in items])
    draws = np.random.default_rng(0).integers(0, len(items), (DRAWS, len(items)))
    low, high = np.percentile(
        bits[draws].sum(axis=1) / size[draws].sum(axis=1), (2.5, 97.5)
    )
    value = float(bits.sum() / size.sum())
    return Measured(value=value, low=float(low), high=float(high))


def chrf(answers: Sequence[str], truths: Sequence[str]) -> Measured:
    """Returns chrF, 0..100, of all answers (Popovic 2015): the F-score, recall counting
    twice, of pieces of one to six letters, averaged over the six. It is the number that
    sacrebleu gives, from counts that add up over items: so they can be drawn again."""
    counts = np.array([_pieces(*pair) for pair in zip(answers, truths, strict=True)])
    draws = np.random.default_rng(0).integers(0, len(counts), (DRAWS, len(counts)))
    scores = [_chrf(counts[draw].sum(axis=0)) for draw in draws]
    low, high = np.percentile(scores, (2.5, 97.5))
    return Measured(value=_chrf(counts.sum(axis=0)), low=float(low), high=float(high))


def _pieces(answer: str, truth: str) -> list[tuple[int, int, int]]:
    """Returns for each length how many pieces the answer has, the truth, and both."""
    written, right = ("".join(text.split()) for text in (answer, truth))
    found: list[tuple[int, int, int]] = []
    for length in range(1, CHRF_ORDER + 1):
        ours, theirs = (
            Counter(text[at : at + length] for at in range(len(text) - length + 1))
            for text in (written, right)
        )
        both = (ours & theirs).total()
        found.append((ours.total() if theirs else 0, theirs.total(), both))
    return found


def _chrf(counts: np.ndarray) -> float:
    there = counts[(counts[:, 0] > 0) & (counts[:, 1] > 0)]
    if not there[:, 2].any():
        return 0.0
    precision = (there[:, 2] / there[:, 0]).mean()
    recall = (there[:, 2] / there[:, 1]).mean()
    weight = CHRF_BETA**2
    return float(
        100 * (1 + weight) * precision * recall / (weight * precision + recall)
    )
