"""Sentences with their translations, from the programs that are installed here.

GNU programs bring .mo files: what they say in English, and what people made of it in
other languages. They are read where they lie and nothing of them is shipped. Where a
system has none (slim images strip them), Babel's names of territories and languages
take their place, if Babel is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twinstep.decoder.data.entities import side

FOLDER = Path("/usr/share/locale")
FILE_BYTES_MAX = 1 << 26
STRINGS_MAX = 1 << 20
LETTERS = range(3, 61)
PAIRS_MAX = 1500
"""Of one program: lists of country and language names would be half of all."""
MARKUP = frozenset('%<>&|{}_`$\\/=[]"@#*~^\n\t\r\0\x04')
"""What placeholders, key bindings and markup are written with."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One text and its translation, and the program (or list) that it is from."""

    entity: str
    source: str
    target: str


@cache
def pairs(language: str, folder: Path = FOLDER) -> tuple[Pair, ...]:
    """Returns what can be read here, in a fixed order; () where there is nothing."""
    found = list(_catalogued(language, folder)) or list(_named(language))
    seen: set[str] = set()
    unique: list[Pair] = []
    for pair in found:
        if pair.source.lower() not in seen:
            seen.add(pair.source.lower())
            unique.append(pair)
    return tuple(unique)


def without_leaks(found: Sequence[Pair]) -> list[Pair]:
    """Returns the pairs less those of the held-out side that have a text in common
    with the other side: two programs that say the same thing."""
    known = {
        text.lower()
        for pair in found
        if side(pair.entity) == "train"
        for text in (pair.source, pair.target)
    }
    return [
        pair
        for pair in found
        if side(pair.entity) == "train"
        or not known & {pair.source.lower(), pair.target.lower()}
    ]


def files(language: str, folder: Path = FOLDER) -> list[Path]:
    return sorted((folder / language / "LC_MESSAGES").glob("*.mo"))


def available(language: str, folder: Path = FOLDER) -> bool:
    return bool(files(language, folder)) or _has_babel()


def edition(language: str, folder: Path = FOLDER) -> str:
    """Names and sizes of the files as one short digest, or Babel's version: when it is
    another, so are the pairs."""
    found = hashlib.sha256()
    paths = files(language, folder)
    for path in paths:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
    if not paths and _has_babel():
        return f"Babel {importlib.metadata.version('babel')}"
    return f"{len(paths)} catalogues {found.hexdigest()[:16]}"


def _catalogued(language: str, folder: Path) -> Iterator[Pair]:
    for path in files(language, folder):
        if path.stat().st_size > FILE_BYTES_MAX:
            continue
        entity, count = f"catalogue {path.stem}", 0
        for text, translation in messages(path.read_bytes()):
            source, target = text.strip(), translation.strip()
            if count < PAIRS_MAX and _usable(source, target):
                count += 1
                yield Pair(entity, source, target)


def _usable(source: str, target: str) -> bool:
    return (
        len(source) in LETTERS
        and len(target) in LETTERS
        and source != target
        and not MARKUP & set(source + target)
        and any(letter.isalpha() for letter in source)
    )


def messages(plain: bytes) -> Iterator[tuple[str, str]]:
    """Yields (text, translation) of a .mo file; nothing from a file that is damaged,
    older than UTF-8 or of the other byte order. Plurals and contexts hold a NUL or an
    EOT and so are not usable."""
    if len(plain) < 28 or plain[:4] != b"\xde\x12\x04\x95":
        return
    _, _, count, sources, targets = struct.unpack_from("<5I", plain)
    table = max(sources, targets) + 8 * count
    if count > STRINGS_MAX or table > len(plain):
        return
    for number in range(count):
        pair: list[str] = []
        for start in (sources, targets):
            length, offset = struct.unpack_from("<2I", plain, start + 8 * number)
            try:
                pair.append(plain[offset : offset + length].decode())
            except UnicodeDecodeError:
                return
        yield pair[0], pair[1]


def _has_babel() -> bool:
    return importlib.util.find_spec("babel") is not None


def _named(language: str) -> Iterator[Pair]:
    if not _has_babel():
        return
    locale = importlib.import_module("babel").Locale
    here, there = locale("en"), locale(language)
    for kind in ("territories", "languages"):
        theirs = getattr(there, kind)
        for code, name in sorted(getattr(here, kind).items()):
            if code in theirs and _usable(name, theirs[code]):
                yield Pair(f"name {kind} {code}", name, theirs[code])
