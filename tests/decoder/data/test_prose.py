"""Documents are cut to a length, come once, and stay on their module's side."""

from __future__ import annotations

from pathlib import Path

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.prose import (
    PIECE_LETTERS,
    Module,
    code,
    cut,
    docstrings,
    library,
    science,
)

SENTENCE = "Every word of this sentence is here to make it as long as it has to be. "


def test_parts_are_joined_while_they_fit_and_cut_where_they_do_not() -> None:
    part = "def f():\n    " + "x" * 190
    inner = "    y" + "y" * 290
    text = "\n\n".join([part, part, part, "class A:\n" + inner + "\n\n" + inner])
    pieces = cut(text)
    assert pieces[:2] == [f"{part}\n\n{part}", part]
    assert [piece.count("y") for piece in pieces] == [0, 0, 291, 291]
    assert all(len(piece) in PIECE_LETTERS for piece in pieces)
    assert cut("z" * PIECE_LETTERS.stop) == [] and cut("short") == []


def test_a_text_of_both_sides_is_not_held_out(tmp_path: Path) -> None:
    names = {side(f"module m{number}"): f"m{number}" for number in range(50)}
    modules: list[Module] = []
    for split in ("held_out", "train"):
        path = tmp_path / f"{names[split]}.py"
        path.write_text(
            f'"""{SENTENCE * 2}"""\n\ndef {split}(): "{SENTENCE * 2}{split}"'
        )
        modules.append(Module(path, f"module {names[split]}"))
    everything = tuple(modules)
    assert len(list(docstrings(everything, "train"))) == 2
    assert list(docstrings(everything, "held_out")) == [
        (f"module {names['held_out']}", f"{SENTENCE * 2}held_out")
    ]


def test_files_that_are_no_code_give_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(b"\xff\xfe def (\0:\n" + SENTENCE.encode() * 3)
    module = Module(path, next(f"module {n}" for n in "abc"))
    assert list(docstrings((module,), side(module.entity))) == []
    assert len(list(code((module,), side(module.entity)))) == 1


def test_all_of_a_package_is_on_one_side() -> None:
    found = library()
    assert len({m.entity for m in found if "/json/" in m.path.as_posix()}) == 1
    assert not any("site-packages" in m.path.parts for m in found)
    assert not any({"test", "tests"} & set(m.path.parts) for m in found)
    sides = {side(module.entity) for module in science()}
    assert sides == {"train", "held_out"}
    few = library(0.01)
    assert {side(module.entity) for module in few} == {"train", "held_out"}
    assert len(few) < len(found) / 5
