"""A root's storage: what it holds, steps made whole, and what is removed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.agent.test_root import new_root
from tests.store import parts
from twinstep.agent import actions as do
from twinstep.agent.depot import NOTES_MAX, Depot, looked, made, tidied
from twinstep.agent.root import Root
from twinstep.config import Storage
from twinstep.store.contents import folder_name
from twinstep.store.places import Disk

WAIT_S_MAX = 30.0


def storage(path: Path, **settings: Any) -> Storage:
    return Storage(path=str(path), **settings)


def whole(step: int, *, round: int = 1) -> do.MakeWhole:
    names = tuple(parts.name(rank, round=round) for rank in (0, 1))
    return do.MakeWhole(step=step, parts=names)


def test_what_the_storage_holds_is_told_and_what_is_passed_over(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 12)
    parts.write(place, 13)
    seen = looked(storage(tmp_path))
    assert seen.steps is not None
    assert [(one.step, one.machines, one.captured_in) for one in seen.steps] == [
        (12, 2, 1)
    ]
    (note,) = seen.notes
    assert note.startswith("step-00000013 is passed over: it has no .metadata")
    for step in range(100, 200):
        (tmp_path / folder_name(step)).mkdir()
    assert len(looked(storage(tmp_path)).notes) == NOTES_MAX + 1


def test_a_storage_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    seen = looked(storage(tmp_path / "run"))
    assert seen.steps is None
    assert "NotADirectoryError" in seen.trouble
    assert f"{tmp_path}/run" in seen.trouble
    seen = looked(Storage(path="nowhere://x", options={"key": "hush"}))
    assert seen.steps is None
    assert "ConfigError" in seen.trouble
    assert "hush" not in seen.trouble


def test_parts_become_a_step_and_old_ones_go(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    for step in (10, 20, 25, 30):
        parts.write_step(place, step)
    parts.write(place, 35, of=[1])  # given up
    parts.write(place, 40)
    done = made(storage(tmp_path, keep_last=2, keep_every=20), whole(40))
    assert done.whole is not None
    assert (done.whole.step, done.gone) == (40, [10, 25])
    assert place.folders() == [folder_name(step) for step in (20, 30, 40)]


def test_what_others_keep_beside_steps_stays(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 10)
    theirs = [
        tmp_path / folder_name(10) / "README.md",
        tmp_path / folder_name(11) / "model.safetensors",
        tmp_path / folder_name(12) / ".metadata",
        tmp_path / folder_name(12) / "__0_0.distcp",
        tmp_path / "step-13" / "r1-t1-m0.distcp",
    ]
    for file in theirs:
        file.parent.mkdir(exist_ok=True)
        file.write_text("theirs")
    parts.write(place, 40)
    assert made(storage(tmp_path, keep_last=1), whole(40)).gone == [10]
    assert all(file.read_text() == "theirs" for file in theirs)
    assert list(place.sizes(folder_name(10))) == ["README.md"]


def test_a_step_that_cannot_be_made_whole_is_said_in_words(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 12)
    parts.write(place, 13, of=[0])
    done = made(storage(tmp_path), whole(13))
    assert done.whole is None
    assert "FileNotFoundError" in done.trouble and "m1.part" in done.trouble
    seen = looked(storage(tmp_path))
    assert [one.step for one in seen.steps or []] == [12]


def test_a_step_that_was_given_up_makes_room(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 12)
    parts.write(place, 13, of=[0])
    parts.write(place, 14, of=[0])
    assert tidied(storage(tmp_path), newest=13) == []
    assert place.folders() == [folder_name(12), folder_name(14)]


def test_steps_that_the_run_went_back_before_stay(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    for step in (12, 50):
        parts.write_step(place, step)
    parts.write(place, 60, of=[0])
    parts.write(place, 13)
    assert made(storage(tmp_path, keep_last=1), whole(13)).gone == [12]
    assert place.folders() == [folder_name(step) for step in (13, 50, 60)]


class Loop:
    """Where a root decides."""

    def __init__(self, settings: Storage) -> None:
        self.decided: Queue[tuple[Root, Callable[[Root], Any]]] = Queue()
        self.depot = Depot(
            settings, lambda root, decide: self.decided.put((root, decide))
        )

    def hears(self) -> Root:
        root, decide = self.decided.get(timeout=WAIT_S_MAX)
        decide(root)
        return root


def test_a_root_hears_of_what_it_wanted(tmp_path: Path) -> None:
    settings = storage(tmp_path)
    loop, root = Loop(settings), new_root(storage=settings)
    loop.depot.serve(do.LookInStorage(), root)
    assert loop.hears().draining.known
    parts.write(Disk(tmp_path), 12)
    root.draining.step, root.draining.making = 12, True
    loop.depot.serve(whole(12), root)
    assert list(loop.hears().draining.stored) == [12]


def test_of_calls_that_hang_there_is_one_of_a_kind() -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    goes_on = threading.Event()

    class Silent(MemoryFileSystem):
        protocol = "silent"

        def ls(self, *arguments: Any, **named: Any) -> Any:
            assert goes_on.wait(WAIT_S_MAX)
            return super().ls(*arguments, **named)

    fsspec.register_implementation("silent", Silent, clobber=True)
    settings = Storage(path="silent://run")
    loop, root = Loop(settings), new_root(storage=settings)
    try:
        for _ in range(3):
            loop.depot.serve(do.LookInStorage(), root)
        threads = [t for t in threading.enumerate() if t.name == "twinstep-depot"]
        assert len(threads) == 1
        loop.hears()
        assert (
            root.draining.trouble == "silent://run has not answered an earlier call yet"
        )
    finally:
        goes_on.set()
    loop.hears()
    assert loop.hears().draining.known
