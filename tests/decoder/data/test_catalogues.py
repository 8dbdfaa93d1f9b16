"""Translations are read from .mo files with bounds, and held out by program."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from twinstep.decoder.data.catalogues import (
    PAIRS_MAX,
    messages,
    pairs,
    without_leaks,
)
from twinstep.decoder.data.entities import side

TEXTS = {
    "": "Content-Type: text/plain; charset=UTF-8\n",
    "Open": "Ouvrir",
    "Étage": "é",
}


def catalogue(texts: dict[str, str]) -> bytes:
    """A .mo file as msgfmt writes it."""
    count, at = len(texts), 28 + 16 * len(texts)
    tables, plain = [b"", b""], b""
    for number, side_texts in enumerate((texts.keys(), texts.values())):
        for text in side_texts:
            raw = text.encode()
            tables[number] += struct.pack("<2I", len(raw), at + len(plain))
            plain += raw + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, at)
    return head + tables[0] + tables[1] + plain


def test_a_catalogue_is_read() -> None:
    assert dict(messages(catalogue(TEXTS))) == TEXTS


def test_damage_is_no_other_error() -> None:
    plain = catalogue(TEXTS)
    random = np.random.default_rng(0)
    assert list(messages(b"")) == []
    assert list(messages(plain[:40])) == []
    for _ in range(2000):
        damaged = bytearray(plain[: random.integers(len(plain) + 1)])
        for place in random.integers(0, max(1, len(damaged)), 3):
            damaged[place : place + 1] = bytes(random.integers(0, 256, 1, np.uint8))
        for source, target in messages(bytes(damaged)):
            assert isinstance(source, str) and isinstance(target, str)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "fr" / "LC_MESSAGES"
    place.mkdir(parents=True)
    trained = next(n for n in "abcdefghij" if side(f"catalogue {n}") == "train")
    kept = next(f"k{n}" for n in range(99) if side(f"catalogue k{n}") == "held_out")
    (place / f"{trained}.mo").write_bytes(
        catalogue({"": "x", "Open file": "Ouvrir", "%d files": "%d fichiers"})
    )
    (place / f"{kept}.mo").write_bytes(
        catalogue({"open FILE": "Autre", "Shut it": "Fermer", "Unlock": "Ouvrir"})
    )
    return tmp_path


def test_held_out_programs_say_nothing_that_the_others_say(folder: Path) -> None:
    found = without_leaks(pairs("fr", folder))
    assert [(pair.source, pair.target) for pair in found] == [
        ("Open file", "Ouvrir"),
        ("Shut it", "Fermer"),
    ]
    assert [side(pair.entity) for pair in found] == ["train", "held_out"]


def test_no_program_is_most_of_it(tmp_path: Path) -> None:
    place = tmp_path / "fr" / "LC_MESSAGES"
    place.mkdir(parents=True)
    many = {f"text {number}": f"mot {number}" for number in range(PAIRS_MAX + 100)}
    (place / "big.mo").write_bytes(catalogue(many))
    assert len(pairs("fr", tmp_path)) == PAIRS_MAX
