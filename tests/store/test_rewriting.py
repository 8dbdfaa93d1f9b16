"""A step in one form becomes the same step in another, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.stepfiles import made
from tests.store.trees import Cut, write_tree
from twinstep.stepfiles.checking import check_step
from twinstep.stepfiles.where import where
from twinstep.store.contents import Contents, folder_name
from twinstep.store.places import Disk
from twinstep.store.reading import StoredFiles, open_step
from twinstep.store.rewriting import rewrite


def stored_bytes(step: StoredFiles) -> dict[tuple[Any, ...], bytes]:
    found: dict[tuple[Any, ...], bytes] = {}
    for box in step.contents.boxes:
        data = bytearray(box.data_bytes)
        step.read(box, memoryview(data))
        found[box.name, box.owner, box.offsets] = bytes(data)
    return found


def plain_bytes(storage: Path) -> dict[Any, bytes]:
    found: dict[Any, bytes] = {}
    for item in open_step(Disk(storage), 12).contents.plain:
        data = (storage / folder_name(12) / item.file).read_bytes()
        found[item.path] = data[item.at : item.at + item.size]
    return found


def rewritten(storage: Path, out: Path, form: Any) -> Contents:
    contents = rewrite(open_step(Disk(storage), 12), Disk(out), form=form)
    report = check_step(where(str(out / folder_name(12)), {}), tick=lambda _: None)
    assert report.faults == []
    return contents


def test_what_was_written_for_torch_is_read_by_orbax(tmp_path: Path) -> None:
    made.write_step(tmp_path / "dcp")
    contents = rewritten(tmp_path / "dcp", tmp_path / "orbax", "orbax")
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "orbax" / folder_name(12))
    assert np.array_equal(found["model"]["split"], np.array(made.SPLIT, np.float32))
    assert np.array_equal(found["model"]["gain"], made.GAIN)
    assert found["seen"]["total"].tolist() == [7, 8]  # rank 0's
    assert found["scheduler"] == {"last_epoch": 3, "note": "x" * 40}
    assert float(found["optimizer"]["state"]["split"]["step"]) == 12.0
    # Uneven shards are one run of rows now.
    described = (
        tmp_path / "orbax" / folder_name(12) / contents.files[0].name
    ).read_bytes()
    assert np.array(made.SPLIT, "<f4").tobytes() in described


def test_there_and_back_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As values of an older version, whose groups name no parameters."""
    optimizer = {"state": {}, "groups": [{"lr": 0.1}]}
    values = made.VALUES | {"optimizers": {"optimizer": optimizer}}
    monkeypatch.setattr(made, "VALUES", values)
    made.write_step(tmp_path / "dcp")
    rewritten(tmp_path / "dcp", tmp_path / "orbax", "orbax")
    rewritten(tmp_path / "orbax", tmp_path / "again", "dcp")
    first, *others = (
        open_step(Disk(tmp_path / n), 12) for n in ("dcp", "orbax", "again")
    )
    for other in others:
        assert stored_bytes(other) == stored_bytes(first)
        assert [other.values(rank) for rank in (0, 1)] == [
            first.values(rank) for rank in (0, 1)
        ]
    assert plain_bytes(tmp_path / "again") == plain_bytes(tmp_path / "dcp")


def test_torch_reads_what_was_written_for_orbax(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    arrays: dict[str, tuple[np.ndarray, Cut]] = {
        "state/w/0": (whole, (2, 1)),
        "state/w/1": (whole[0], (1,)),
    }
    write_tree(tmp_path / "orbax", arrays, ranks=2, plain={"state/rate": 0.5})
    rewritten(tmp_path / "orbax", tmp_path / "dcp", "dcp")
    state: dict[str, Any] = {
        "state": {"w": [torch.zeros(4, 3), torch.zeros(3)], "rate": 0.0}
    }
    dcp.load(state, checkpoint_id=tmp_path / "dcp" / folder_name(12))
    assert state["state"]["w"][0].tolist() == whole.tolist()
    assert state["state"]["w"][1].tolist() == whole[0].tolist()
    assert state["state"]["rate"] == 0.5
