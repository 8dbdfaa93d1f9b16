"""chrF against sacrebleu; bootstraps hold their value."""

from __future__ import annotations

import math

import pytest

from tests.decoder.eval import oracle
from twinstep.decoder.eval.intervals import bits_per_byte, chrf
from twinstep.decoder.eval.measure import Item
from twinstep.decoder.eval.ngram import bits_per_byte as ngram_bits

ANSWERS = ["the cat sat", "a dog", "", "Häuser sind groß", "one"]
TRUTHS = ["the cat sat on a mat", "a dog", "nothing", "Häuser sind gross", "two"]


def test_chrf_is_what_sacrebleu_gives() -> None:
    import sacrebleu

    found = chrf(ANSWERS, TRUTHS)
    assert found.value == pytest.approx(sacrebleu.corpus_chrf(ANSWERS, [TRUTHS]).score)
    assert found.low < found.value < found.high
    assert chrf(TRUTHS, TRUTHS).low == pytest.approx(100)
    assert chrf(["x"], ["y"]).value == 0.0


def test_bits_per_byte_are_of_all_bytes_together() -> None:
    items = tuple(
        Item(example=example, answer="", score=-2 * math.log(2) * size * factor)
        for example, factor in zip(oracle.examples("code", 3), (1, 1, 2), strict=True)
        if (size := len(example.answer.encode()))
    )
    # Lengths are as 1, 2 and 3; the last costs 4 bits a byte, the others 2.
    found = bits_per_byte(items)
    assert found.value == pytest.approx((1 * 2 + 2 * 2 + 3 * 4) / 6)
    assert 1.999 < found.low < found.value < found.high < 4.001


def test_ngrams_are_a_distribution_and_learn_what_repeats() -> None:
    train = ["abcabcabc" * 3]
    # All 256 bytes that may follow "abcab" share one whole: their costs sum to it.
    total = 0.0
    for byte in range(128):
        with_byte, without = ngram_bits(train, ["abcab" + chr(byte), "abcab"])
        total += 2.0 ** (without - with_byte)
    assert 0.9 < total <= 1.0 + 1e-9
    seen, unseen = ngram_bits(train, ["abcabc", "qqqqqq"])
    assert seen < 6 < 40 < unseen
