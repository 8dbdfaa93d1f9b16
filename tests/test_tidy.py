"""Files and functions stay short, and no name stands for "whatever belongs here"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "tests", "benchmarks", "examples")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
FORBIDDEN = {
    "manager",
    "handler",
    "helper",
    "util",
    "common",
    "base",
    "core",
    "engine",
    "wrapper",
}


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case and singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {part.lower().removesuffix("s") for part in parts}


def too_long(path: str, text: str) -> list[str]:
    wrong: list[str] = []
    lines = len(text.splitlines())
    if lines > FILE_LINES_MAX:
        wrong.append(f"{path}: {lines} lines, at most {FILE_LINES_MAX}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                wrong.append(
                    f"{path}:{node.lineno}: {node.name} has {length} lines, "
                    f"at most {FUNCTION_LINES_MAX}"
                )
    return wrong


def ill_named(path: str, text: str) -> list[str]:
    names = [(path, part.removesuffix(".py")) for part in path.split("/")[1:]]
    names += [
        (f"{path}:{node.lineno}", node.name)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    return [
        f"{where}: {name} says {', '.join(sorted(words(name) & FORBIDDEN))}"
        for where, name in names
        if words(name) & FORBIDDEN
    ]


def undescribed(path: str, text: str) -> list[str]:
    described = not text.strip() or ast.get_docstring(ast.parse(text))
    return [] if described else [f"{path}: opens with no docstring"]


CHECKS = (too_long, ill_named, undescribed)


@pytest.mark.parametrize("check", CHECKS)
def test_no_file_offends(check: object) -> None:
    assert callable(check)
    wrong: list[str] = []
    seen = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            wrong += check(str(path.relative_to(ROOT)), path.read_text())
            seen += 1
    assert seen > 10
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("lines", [FILE_LINES_MAX, FILE_LINES_MAX + 1])
def test_a_long_file_is_found(lines: int) -> None:
    assert bool(too_long("src/a.py", "x = 1\n" * lines)) == (lines > FILE_LINES_MAX)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("lines", [FUNCTION_LINES_MAX, FUNCTION_LINES_MAX + 1])
def test_a_long_function_is_found(kind: str, lines: int) -> None:
    text = f"class A:\n    {kind} f(self):\n" + "        pass\n" * (lines - 1)
    assert bool(too_long("src/a.py", text)) == (lines > FUNCTION_LINES_MAX)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/twinstep/utils.py", ""),
        ("src/twinstep/store/slot_manager.py", ""),
        ("src/twinstep/core/slots.py", ""),
        ("src/twinstep/store/slots.py", "class SlotManager: ..."),
        ("src/twinstep/store/slots.py", "class BaseSlot: ..."),
        ("src/twinstep/store/slots.py", "class Outer:\n    class IOHelpers: ..."),
    ],
)
def test_an_empty_name_is_found(path: str, text: str) -> None:
    assert ill_named(path, text)


def test_names_that_only_contain_such_a_word_are_not() -> None:
    assert ill_named("src/twinstep/database.py", "class Basement: ...") == []


def test_a_file_without_docstring_is_found() -> None:
    assert undescribed("src/a.py", "x = 1\n")
    assert undescribed("src/a.py", '"""What it decides."""\n') == []
