"""English prose and Python code, from the library that every Python brings.

Modules are read as text, never imported. Docstrings come out of the syntax tree; code
is cut at blank lines. Pieces are short enough for the smallest model's rows.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Split

PIECE_LETTERS = range(80, 481)
"""Shorter docstrings say little. 480 letters are some 200 tokens of a vocabulary of
1,024."""
FILE_BYTES_MAX = 1 << 20
# fmt: off
LEFT_OUT = frozenset((
    "test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip",
    "encodings", "pydoc_data", "__pycache__", "conftest.py",
))
# fmt: on
"""Folders with tests, tables and what is not prose."""
SCIENCE = ("flax", "grain", "jax", "numpy", "optax", "scipy", "sklearn")


@dataclass(frozen=True, slots=True)
class Module:
    """One file, and the entity that it belongs to: "module json" has all of json."""

    path: Path
    entity: str


@cache
def library(share: float = 1.0) -> tuple[Module, ...]:
    """Returns the files of the standard library, or of a share of its modules."""
    root = Path(sysconfig.get_paths()["stdlib"])
    named = ((f"module {_top(path, root)}", path) for path in _files(root))
    return _share(named, share)


@cache
def science(share: float = 1.0) -> tuple[Module, ...]:
    """Returns the files of the numerical packages that are installed here."""
    named: list[tuple[str, Path]] = []
    for package in SCIENCE:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            root = Path(spec.submodule_search_locations[0])
            named += [
                (f"package {package}.{_top(path, root)}", path) for path in _files(root)
            ]
    return _share(iter(named), share)


def docstrings(modules: tuple[Module, ...], split: Split) -> Iterator[tuple[str, str]]:
    """Yields (entity, text) of the side. A text that the other side has too is left
    out of the held-out one, and no text comes twice."""
    return _of_side(modules, split, _documented)


def code(modules: tuple[Module, ...], split: Split) -> Iterator[tuple[str, str]]:
    """Yields (entity, text): whole blocks between blank lines, as docstrings()."""
    return _of_side(modules, split, _blocks)


def _of_side(
    modules: tuple[Module, ...],
    split: Split,
    pieces: Callable[[Path], tuple[str, ...]],
) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for turn in ("train", "held_out"):
        for module in modules:
            if side(module.entity) != turn:
                continue
            for piece in pieces(module.path):
                if piece not in seen:
                    seen.add(piece)
                    if turn == split:
                        yield module.entity, piece
        if turn == split:
            return


@cache
def _documented(path: Path) -> tuple[str, ...]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(_text(path))
    except (SyntaxError, ValueError, RecursionError):
        return ()
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            found += cut(text)
    return tuple(found)


@cache
def _blocks(path: Path) -> tuple[str, ...]:
    return tuple(cut(_text(path)))


def cut(text: str) -> list[str]:
    """Returns pieces of allowed length: parts that begin at the margin after a blank
    line, joined while they fit. A part that is too long alone is cut at its own blank
    lines; what is too long or too short even so is left out."""
    pieces: list[str] = []
    for part in _joined(re.split(r"\n\s*\n(?=\S)", text)):
        whole = len(part) < PIECE_LETTERS.stop
        pieces += [part] if whole else _joined(re.split(r"\n\s*\n", part))
    return [piece for piece in pieces if len(piece) in PIECE_LETTERS]


def _joined(parts: list[str]) -> list[str]:
    found: list[str] = []
    for part in (part.rstrip() for part in parts):
        if found and len(found[-1]) + 2 + len(part) < PIECE_LETTERS.stop:
            found[-1] = f"{found[-1]}\n\n{part}"
        else:
            found.append(part)
    return found


def _text(path: Path) -> str:
    if path.stat().st_size > FILE_BYTES_MAX:
        return ""
    return path.read_bytes().decode("utf-8", errors="ignore").replace("\r\n", "\n")


def _files(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, inside, names in os.walk(root):
        inside[:] = set(inside) - LEFT_OUT
        kept = [name for name in names if name.endswith(".py")]
        found += [Path(folder, name) for name in set(kept) - LEFT_OUT]
    return sorted(found)


def _top(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def _share(named: Iterator[tuple[str, Path]], share: float) -> tuple[Module, ...]:
    """The files, or those of so many of each side's entities: a choice that depends on
    names alone."""
    modules = [Module(path, entity) for entity, path in named]
    if share >= 1:
        return tuple(modules)
    kept: set[str] = set()
    for split in ("train", "held_out"):
        names = {module.entity for module in modules if side(module.entity) == split}
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        kept.update(order[: max(3, round(share * len(order)))])
    return tuple(module for module in modules if module.entity in kept)


def editions() -> str:
    """The numerical packages that are installed here, with their versions."""
    names = {"sklearn": "scikit-learn"}
    found = [
        f"{package} {importlib.metadata.version(names.get(package, package))}"
        for package in SCIENCE
        if importlib.util.find_spec(package) is not None
    ]
    return ", ".join(found)
