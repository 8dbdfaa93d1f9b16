"""Makes hostile inputs of valid ones: bytes that are changed, trees that are changed.

What a checksum or a decoder would stop at once is changed as a tree: one value of a
message becomes the smallest, the largest, not a number, of another kind, or very many.
"""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

NUMBERS = (
    -1, 0, 1, 2, 3, 4, 5, 255, 65_536, 10**6, 2**31, 2**32, 2**46, 2**53 - 1, 2**53,
    2**62, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63), 0.5, -1.0, 1e300, math.nan,
    math.inf, -math.inf,
)  # fmt: skip
TEXTS = ("", "m0", "m1", "s", "mad", "a\0b", "m1\n 1.0 m0 w", "é" * 40, "x" * 5000)
TYPES = ("Join", "Offer", "Report", "Begin", "Inventory", "Nothing", "")
BYTES = (b"", b"d" * 15, b"d" * 16, b"d" * 17, bytes(5000))
LENGTHS = (b"\xff" * 4, bytes(4), b"\xdd\xff\xff\xff\xff")
NESTED = (b"\x91", b"[", b"\x81\x01")
INPUT_BYTES_MAX = 1 << 16


def mutated(data: bytes, rng: random.Random, *, packed: bool) -> bytes:
    """Returns another input like `data`; `packed` is msgpack behind its first byte."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        if packed and rng.random() < 0.75:
            data = _tree(data, rng)
        else:
            data = _flipped(data, rng)
    return data[:INPUT_BYTES_MAX]


def _tree(data: bytes, rng: random.Random) -> bytes:
    first = bytes([rng.randrange(256)]) if rng.random() < 0.3 else data[:1]
    try:
        tree = msgspec.msgpack.decode(data[1:])
        return first + msgspec.msgpack.encode(_changed(tree, rng))
    except (ValueError, TypeError, RecursionError, OverflowError):
        return first + data[1:]


def _changed(tree: Any, rng: random.Random) -> Any:
    if isinstance(tree, dict) and tree and rng.random() < 0.95:
        key = rng.choice(list(tree))
        if rng.random() < 0.1:
            del tree[key]
        elif rng.random() < 0.1:
            tree[hostile(key, rng)] = tree[key]
        else:
            tree[key] = _changed(tree[key], rng)
        return tree
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        index = rng.randrange(len(tree))
        match rng.randrange(6):
            case 0:
                return tree * rng.choice((2, 3, 100))
            case 1:
                return [*tree, tree[index]]
            case 2:
                return tree[:index]
            case 3:
                rng.shuffle(tree)
                return tree
            case _:
                tree[index] = _changed(tree[index], rng)
                return tree
    return hostile(tree, rng)


def hostile(value: Any, rng: random.Random) -> Any:
    """A value in place of another one, often of the same kind."""
    kind = type(value) if rng.random() < 0.85 else rng.choice((int, str, bytes, list))
    if kind is bool:
        return not value
    if kind in (int, float):
        near = isinstance(value, int) and rng.random() < 0.4
        number = value + rng.choice((-1, 1)) if near else rng.choice(NUMBERS)
        return max(-(2**63), min(2**64 - 1, number)) if near else number
    if kind is str:
        return rng.choice(TYPES if rng.random() < 0.1 else TEXTS)
    if kind is bytes:
        return rng.choice(BYTES)
    many = dict.fromkeys(range(500), 1)
    return rng.choice(([], {}, [[[[[]]]]], {1: 2}, None, [1] * 3000, many))


def _flipped(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(7):
        case 0 if raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        case 1 if raw:
            raw[at % len(raw)] = rng.randrange(256)
        case 2:
            raw[at:at] = rng.randbytes(rng.choice((1, 4, 40)))
        case 3:
            del raw[at : at + rng.choice((1, 4, 40))]
        case 4:
            raw[at : at + 4] = rng.choice(LENGTHS)
        case 5:
            raw[at:at] = rng.choice(NESTED) * rng.choice((3, 1200))
        case _:
            other = rng.randrange(len(raw) + 1)
            raw += raw[min(at, other) : max(at, other)]
    return bytes(raw)
