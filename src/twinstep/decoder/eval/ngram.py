"""Bits per byte of an n-gram model of bytes: what counting alone predicts.

Witten and Bell's interpolation, orders 0 to 5 over 256 equal bytes: after a context h
that was seen N(h) times with T(h) different bytes after it,

    p(c | h) = (n(h, c) + T(h) p(c | h without its first byte)) / (N(h) + T(h))

Six bytes fit one 64-bit number, so that counting is one sort and looking up a binary
search, for all positions at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ORDER = 5
START = b"\0" * ORDER
"""Before each text: its first bytes know that it begins, and nothing before."""
BYTES_MAX = 2_000_000
"""Of the training text that is counted: the first ones."""


def bits_per_byte(train: Sequence[str], held_out: Sequence[str]) -> list[float]:
    """Returns the bits (not yet by byte) that each held-out text takes after `train`.
    Texts begin anew: nothing is known of the text before."""
    counted = _joined(train)[:BYTES_MAX]
    asked = _joined(held_out)
    chance = np.full(len(asked), 1 / 256)
    for order in range(ORDER + 1):
        known, unknown = _grams(counted, order + 1), _grams(asked, order + 1)
        grams, counts = np.unique(known, return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        kinds = np.diff(np.append(first, len(grams)))
        totals = np.add.reduceat(counts, first)
        n = _at(unknown, grams, counts)
        t = _at(unknown >> 8, contexts, kinds)
        total = _at(unknown >> 8, contexts, totals)
        seen = total > 0
        mixed = (n + t * chance) / np.maximum(total + t, 1)
        chance = np.where(seen, mixed, chance)
    bits = -np.log2(chance)
    lengths = [len(text.encode()) for text in held_out]
    ends = np.cumsum([length + len(START) for length in lengths])
    return [
        float(bits[end - length : end].sum())
        for end, length in zip(ends, lengths, strict=True)
    ]


def _joined(texts: Sequence[str]) -> np.ndarray:
    joined = b"".join(START + text.encode() for text in texts)
    return np.frombuffer(joined, np.uint8).astype(np.uint64)


def _grams(data: np.ndarray, length: int) -> np.ndarray:
    """Each position's byte and the `length` - 1 before it, as one number."""
    grams = np.zeros(len(data), np.uint64)
    for back in range(length):
        grams[back:] |= data[: len(data) - back] << np.uint64(8 * back)
    return grams


def _at(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
