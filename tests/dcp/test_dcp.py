"""dcp.save and dcp.load by hand, with an agent, and in the process after."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.planner import SavePlanner

from tests.dcp.served import Served
from tests.sessions import no_session_is_left
from twinstep.dcp import TwinstepReader, TwinstepWriter, memory
from twinstep.dcp.stored import MARK, Stored, mark, stored
from twinstep.errors import ConfigError
from twinstep.session import Session

__all__ = ["no_session_is_left"]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Serve = Callable[..., Served]


@pytest.fixture
def serve(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Each call is a process that begins: the one before has ended."""
    served: list[Served] = []

    def start(
        says: Callable[[int], bool | None] = lambda _: True, **state: Any
    ) -> Served:
        for one in served:
            one.close()
        folder = tmp_path_factory.mktemp("a")
        served.append(Served(folder, monkeypatch, says, **state))
        return served[-1]

    yield start
    for one in served:
        one.close()
    memory._memory.clear()


@pytest.fixture
def by_hand() -> Iterator[None]:
    yield
    for one in memory._memory:
        if one.session is not None:
            one.session.close()
    memory._memory.clear()


def state(fill: float = 1.0) -> dict[str, Any]:
    return {"model": {"w": torch.full((30, 5), fill), "b": torch.ones(3)}, "epoch": 4}


def empty() -> dict[str, Any]:
    return {"model": {"w": torch.zeros(30, 5), "b": torch.zeros(3)}, "epoch": 0}


def save(folder: Path, fill: float, step: int, **more: Any) -> None:
    writer = TwinstepWriter(folder, step=step, **more)
    dcp.save(state(fill), storage_writer=writer)


def load(folder: Path, **more: Any) -> tuple[float, TwinstepReader]:
    """Returns what the tensor is full of that was loaded, and the reader."""
    reader, target = TwinstepReader(folder, **more), empty()
    dcp.load(target, storage_reader=reader)
    fill = float(target["model"]["w"][0, 0])
    assert torch.equal(target["model"]["w"], torch.full((30, 5), fill))
    assert torch.equal(target["model"]["b"], torch.ones(3)) and target["epoch"] == 4
    return fill, reader


@pytest.mark.usefixtures("by_hand")
def test_by_hand_it_is_dcps_own_files_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not TwinstepReader(tmp_path).found
    for number in (1, 2):
        save(tmp_path, 2.0 * number, step=number, storage_every=7)
    target = empty()
    dcp.load(target, checkpoint_id=tmp_path)  # plain torch
    assert torch.equal(target["model"]["w"], torch.full((30, 5), 4.0))
    reader = TwinstepReader(tmp_path)
    assert (reader.found, reader.step, reader.source) == (True, 2, "")
    assert load(tmp_path)[1].source == "files"
    assert capsys.readouterr().err.count("twinstep") == 2  # one line, which names it


@pytest.mark.usefixtures("by_hand")
def test_plain_files_of_before_are_read(tmp_path: Path) -> None:
    dcp.save(state(3.0), checkpoint_id=tmp_path)
    fill, reader = load(tmp_path)
    assert (fill, reader.source, reader.step) == (3.0, "files", None)


def test_a_save_is_in_memory_when_it_returns_and_the_next_process_has_it(
    tmp_path: Path, serve: Serve
) -> None:
    first, folder = serve(), tmp_path / "saved"
    live = state(5.0)
    for step in (100, 110):
        live["model"]["w"].fill_(step)
        writer = TwinstepWriter(folder, step=step, storage_every=4)
        dcp.save(live, storage_writer=writer)
        live["model"]["w"].zero_()  # as an update does
    assert not folder.exists()
    copy, number = first.newest()
    assert first.captured == [1, 2]
    serve(copy=copy, step=number)
    assert TwinstepReader(folder).step == 110
    fill, reader = load(folder)
    assert (fill, reader.source, reader.step) == (110.0, "memory", 110)
    assert reader.loaded_id == str(folder)
    save(folder, 7.0, step=120, storage_every=4)
    assert not TwinstepReader(folder).found, "what was restored is history now"
    save(folder, 8.0, step=130, storage_every=4)  # the fourth of this run
    on_disk = stored(folder)
    assert on_disk is not None and on_disk.step == 130


def test_the_newer_of_the_two_is_loaded(tmp_path: Path, serve: Serve) -> None:
    first = serve(lambda number: number < 2)
    save(tmp_path, 1.0, step=1)
    old = first.newest()
    serve(copy=old[0], step=old[1])
    assert load(tmp_path)[1].source == "memory"  # the same save is in both
    assert load(tmp_path, only_step=2)[1].source == "files"
    save(tmp_path, 2.0, step=2)
    assert load(tmp_path)[0] == 2.0, "after a save, memory is not read again"
    serve(copy=old[0], step=old[1])
    fill, reader = load(tmp_path)
    assert (fill, reader.source, reader.step) == (2.0, "files", 2)


def test_a_save_that_is_not_in_memory_goes_to_files(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(lambda number: {1: True, 2: False}.get(number))
    folder = tmp_path / "saved"
    more: dict[str, Any] = {"storage_every": 100, "wait_s_max": 0.2}
    save(folder, 1.0, step=1, **more)
    save(folder, 2.0, step=2, **more)
    assert not folder.exists()
    said = capsys.readouterr().err
    assert "step 2 is not in memory: the agents left it out" in said
    save(folder, 3.0, step=3, **more)
    assert stored(folder) is not None
    assert (
        "did not call for it within 0.2 s; it goes to files" in capsys.readouterr().err
    )
    assert load(folder)[0] == 3.0


def test_what_memory_lacks_is_loaded_from_files(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    first = serve()
    save(tmp_path, 1.0, step=1)
    for _ in range(2):  # the first of another shape is not kept
        writer = TwinstepWriter(tmp_path / "other")
        dcp.save({"other": torch.ones(2)}, storage_writer=writer)
    copy, number = first.newest()
    serve(copy=copy, step=number)
    fill, reader = load(tmp_path)
    assert (fill, reader.source, reader.step) == (1.0, "files", 1)
    said = capsys.readouterr().err
    assert f"memory's save is not loaded, but {tmp_path}: rank 0: epoch of what" in said


def test_another_shape_of_state_costs_one_save_in_memory(
    tmp_path: Path, serve: Serve
) -> None:
    served, folder = serve(), tmp_path / "saved"
    for step in range(1, 5):
        wide = {"w": torch.zeros(3 if step < 3 else 300)}
        writer = TwinstepWriter(folder, step=step, storage_every=100, wait_s_max=0.3)
        dcp.save(wide, storage_writer=writer)
        assert folder.exists() == (step >= 3)
    served.close()
    assert served.captured == [1, 2, 4]


def test_a_plan_that_dcp_has_cached_is_kept_whole(tmp_path: Path, serve: Serve) -> None:
    served = serve()
    try:
        for fill in (1.0, 2.0, 3.0):
            dcp.save(
                state(fill),
                storage_writer=TwinstepWriter(tmp_path / "s", storage_every=100),
                planner=dcp.DefaultSavePlanner(enable_plan_caching=True),
            )
    finally:
        for name in dir(SavePlanner):
            if name.startswith("_cached"):
                getattr(SavePlanner, name).clear()
    copy, number = served.newest()
    serve(copy=copy, step=number)
    assert load(tmp_path / "s")[0] == 3.0


def test_async_save_goes_into_memory_too(tmp_path: Path, serve: Serve) -> None:
    served = serve()
    live = state(1.0)
    writer = TwinstepWriter(tmp_path / "s", storage_every=100)
    done = dcp.async_save(live, storage_writer=writer, no_dist=True)
    live["model"]["w"].zero_()
    done.result()  # type: ignore[union-attr]
    copy, number = served.newest()
    serve(copy=copy, step=number)
    assert load(tmp_path / "s")[0] == 1.0


@pytest.mark.usefixtures("by_hand")
def test_a_session_of_the_users_own_keeps_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Session(model=torch.nn.Linear(2, 2)):
        save(tmp_path, 2.0, step=1, storage_every=9)
    assert load(tmp_path)[0] == 2.0
    assert capsys.readouterr().err.count("has a Session of its own") == 1


def test_a_directory_that_something_else_has_written_is_as_old_as_it_looks(
    tmp_path: Path,
) -> None:
    assert stored(tmp_path) is None
    metadata = tmp_path / ".metadata"
    metadata.write_bytes(b"one")
    os.utime(metadata, (50.0, 50.0))
    mark(tmp_path, Stored(saved_s=40.0, step=3))
    assert stored(tmp_path) == Stored(saved_s=40.0, step=3)
    os.utime(metadata, (60.0, 60.0))
    assert stored(tmp_path) == Stored(saved_s=60.0)
    (tmp_path / MARK).write_bytes(b"{")
    assert stored(tmp_path) == Stored(saved_s=60.0)


@pytest.mark.parametrize("bad", [{"storage_every": 0}, {"wait_s_max": 0.0}])
def test_arguments_out_of_bounds_are_named(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TwinstepWriter(tmp_path, **bad)
