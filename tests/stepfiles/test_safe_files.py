"""Tensors put together from boxes, as the library safetensors reads them."""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
from pathlib import Path

import pytest
import safetensors
import xxhash
from safetensors import safe_open

from tests.stepfiles.made import GAIN, HALF, SPLIT, total, write_step
from twinstep.capture.manifest import ITEM_BYTES
from twinstep.errors import Corrupt, StateError, UsageError
from twinstep.stepfiles import safe_files
from twinstep.stepfiles.safe_files import file_names, write_safetensors
from twinstep.stepfiles.tensors import assemble, wholes
from twinstep.store.contents import Box, Contents, File
from twinstep.store.places import Disk
from twinstep.store.reading import StoredFiles, open_step


def written(tmp_path: Path, *, bytes_max: int = 1 << 30) -> tuple[Path, list[str]]:
    storage, out = tmp_path / "storage", tmp_path / "out"
    write_step(storage)
    out.mkdir()
    step = open_step(Disk(storage), 12)
    names = write_safetensors(step, out, tick=lambda _: None, file_bytes_max=bytes_max)
    assert sorted(names) == sorted(path.name for path in out.iterdir())
    return out, names


def raw(path: Path) -> dict[str, dict]:
    return dict(safetensors.deserialize(path.read_bytes()))


def test_tensors_are_whole_by_object_and_key(tmp_path: Path) -> None:
    out, _ = written(tmp_path)
    model = raw(out / "model.safetensors")
    assert set(model) == {"split", "none", "gain", "half"}
    numbers = list(itertools.chain(*SPLIT))
    assert bytes(model["split"]["data"]) == struct.pack("<15f", *numbers)
    assert model["split"]["shape"] == [5, 3]
    assert bytes(model["gain"]["data"]) == struct.pack("<2d", *GAIN)
    assert (model["half"]["dtype"], bytes(model["half"]["data"])) == ("BF16", HALF)
    assert (model["none"]["shape"], bytes(model["none"]["data"])) == ([0, 4], b"")
    step = raw(out / "optimizer.safetensors")
    assert list(step) == ["state.split.step"]
    assert bytes(step["state.split.step"]["data"]) == struct.pack("<f", 12.0)
    with safe_open(out / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt", "step": "12"}
    umask = os.umask(0)
    os.umask(umask)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_of_what_each_rank_has_it_is_the_lowest_s(tmp_path: Path) -> None:
    out, _ = written(tmp_path)
    seen = raw(out / "seen.safetensors")
    assert bytes(seen["total"]["data"]) == total(0)


def test_large_objects_are_cut_into_files_with_an_index(tmp_path: Path) -> None:
    out, names = written(tmp_path, bytes_max=30)
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert set(parts) < set(names) and "model.safetensors" not in names
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 60 + 16 + 8}
    found = {key: part for part in parts for key in raw(out / part)}
    assert index["weight_map"] == found and found["split"] != found["gain"]


def test_a_damaged_box_is_not_exported(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    box = next(box for box in contents.boxes if box.name == "model.gain")
    data = bytearray((folder / box.file).read_bytes())
    data[box.data_at] ^= 1
    (folder / box.file).write_bytes(data)
    step = StoredFiles(Disk(tmp_path), contents)
    (tmp_path / "out").mkdir()
    with pytest.raises(Corrupt, match="model.gain"):
        write_safetensors(step, tmp_path / "out", tick=lambda _: None)


class InMemory:
    """A step of boxes with their bytes. Satisfies StoredStep."""

    def __init__(self, *boxes: tuple[Box, bytes]) -> None:
        self.data = {id(box): data for box, data in boxes}
        self.reads = 0
        self.contents = Contents(
            step=3,
            captured_in=1,
            machines=1,
            ranks_per_machine=1,
            written_s=0.0,
            files=[File(name="f", size=0)],
            boxes=[box for box, _ in boxes],
            values=[],
            plain=[],
        )

    def read(self, box: Box, into: memoryview) -> None:
        self.reads += 1
        into[:] = self.data[id(box)]

    def values(self, rank: int) -> bytes:
        raise NotImplementedError


def of(name: str, dtype: str, whole, at, shape, data: bytes, *, owner: int = 0):
    box = Box(
        name=name,
        dtype=dtype,
        global_shape=whole,
        offsets=at,
        shape=shape,
        owner=owner,
        file="f",
        at=0,
        size=0,
        data_at=0,
        data_bytes=len(data),
        digest=xxhash.xxh3_128_digest(data),
    )
    return box, data


def test_boxes_of_two_dims_go_where_they_belong() -> None:
    left = of("m.w", "uint8", (2, 4), (0, 0), (2, 1), b"ae")
    right = of("m.w", "uint8", (2, 4), (0, 1), (2, 3), b"bcdfgh", owner=1)
    step = InMemory(right, left)
    (whole,) = wholes(step)
    target = bytearray(8)
    assemble(step, whole, memoryview(target))
    assert bytes(target) == b"abcdefgh" and step.reads == 2


def test_a_hole_is_not_exported() -> None:
    step = InMemory(of("m.w", "uint8", (2, 4), (0, 0), (2, 1), b"ae"))
    with pytest.raises(Corrupt, match="m.w: 1 parts of"):
        list(wholes(step))


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_every_dtype_is_written_or_refused_by_name(tmp_path: Path, dtype: str) -> None:
    data = bytes(range(1, 2 * ITEM_BYTES[dtype] + 1))
    data = b"\1\0" if dtype == "bool" else data
    step = InMemory(of("m.w", dtype, (2,), (0,), (2,), data))
    if dtype in ("complex32", "complex128"):
        with pytest.raises(StateError, match=f"m.w is {dtype}"):
            write_safetensors(step, tmp_path, tick=lambda _: None)
        return
    write_safetensors(step, tmp_path, tick=lambda _: None)
    assert bytes(raw(tmp_path / "m.safetensors")["w"]["data"]) == data


def test_without_the_library_the_way_out_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match="pip install"):
        safe_files.library()


def test_files_have_safe_names_no_two_alike() -> None:
    assert file_names(["model", "../a", "__\N{BULLET}a", "..", ""]) == [
        "model",
        "___a",
        "___a_2",
        "__",
        "_",
    ]
