"""Whatever is done to a stored step is found, and named by file and tensor."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from tests.stepfiles.made import entry, write_step
from twinstep.capture.manifest import Entry
from twinstep.stepfiles.checking import Fault, check_step, label
from twinstep.stepfiles.where import where
from twinstep.store import contents as stored
from twinstep.store.contents import Box, Contents


def faults(folder: Path) -> list[Fault]:
    return check_step(where(str(folder), {}), tick=lambda _: None).faults


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def box(contents: Contents, name: str, owner: int) -> Box:
    return next(b for b in contents.boxes if (b.name, b.owner) == (name, owner))


def test_a_whole_step_has_no_fault_and_every_byte_is_read(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    read = 0

    def tick(count: int) -> None:
        nonlocal read
        read += count

    report = check_step(where(str(folder), {}), tick=tick)
    assert report.faults == []
    assert read == report.bytes == contents.size
    assert (report.step, report.files, report.tensors) == (12, 2, 6)


def test_a_step_is_checked_under_any_name(tmp_path: Path) -> None:
    folder, _ = write_step(tmp_path)
    assert faults(folder.rename(tmp_path / "out")) == []


@pytest.mark.parametrize("where_in", ["before", "data", "last", "after"])
@pytest.mark.parametrize("owner", [0, 1])
def test_a_flipped_bit_of_a_tensor_is_found(
    tmp_path: Path, where_in: str, owner: int
) -> None:
    folder, contents = write_step(tmp_path)
    one = box(contents, "model.split", owner)
    at = {
        "before": one.at + 70,
        "data": one.data_at,
        "last": one.data_at + one.data_bytes - 1,
        "after": one.at + one.size - 1,
    }[where_in]
    flip(folder / one.file, at)
    (fault,) = faults(folder)
    assert (fault.file, fault.tensor) == (one.file, label(one))
    assert "model.split [" in fault.tensor
    assert ("checksum" in fault.what) == (where_in in ("data", "last"))


def test_bytes_all_over_the_data_files_count(tmp_path: Path) -> None:
    """But for padding in archives of small values, which no reader looks at."""
    folder, contents = write_step(tmp_path)
    plain = [(item.file, item.at, item.at + item.size) for item in contents.plain]
    for file in contents.files:
        for at in range(0, file.size, 499):
            if any(n == file.name and a <= at < b for n, a, b in plain):
                continue
            flip(folder / file.name, at)
            assert faults(folder), f"byte {at} of {file.name}"
            flip(folder / file.name, at)


def test_flipped_values_are_found(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    for values in contents.values:
        flip(folder / values.file, values.at + values.size // 2)
    found = faults(folder)
    assert [one.tensor for one in found] == ["values of rank 0", "values of rank 1"]
    assert all("checksum" in one.what for one in found)


def test_a_flipped_small_value_is_found(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    note = next(item for item in contents.plain if item.path[-1] == "note")
    at = (folder / note.file).read_bytes().index(b"xxxx", note.at)
    flip(folder / note.file, at)
    (fault,) = faults(folder)
    assert fault.tensor == "scheduler.note" and "CRC" in fault.what


@pytest.mark.parametrize("at", [0, 300, -1])
def test_a_flipped_bit_of_the_metadata_is_found(tmp_path: Path, at: int) -> None:
    folder, _ = write_step(tmp_path)
    flip(folder / stored.METADATA, at)
    (fault,) = faults(folder)
    assert fault.file == stored.METADATA and "differs at byte" in fault.what


def test_a_table_that_makes_no_sense_is_a_fault(tmp_path: Path) -> None:
    folder, _ = write_step(tmp_path)
    flip(folder / stored.CONTENTS, 0)
    (fault,) = faults(folder)
    assert fault.file == stored.CONTENTS


def test_a_missing_file_is_named_with_what_was_in_it(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    (folder / contents.files[1].name).unlink()
    (fault,) = faults(folder)
    assert fault.file == contents.files[1].name
    assert "missing; it had values of rank 1, model.split [3:5, 0:3]" in fault.what


def test_a_step_without_metadata_is_not_finished(tmp_path: Path) -> None:
    folder, _ = write_step(tmp_path)
    (folder / stored.METADATA).unlink()
    (fault,) = faults(folder)
    assert fault.file == stored.METADATA and "never finished" in fault.what


def test_a_file_that_was_cut_names_all_that_is_lost(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    one = box(contents, "seen.total", 1)
    os.truncate(folder / one.file, one.data_at + 3)
    found = faults(folder)
    assert "bytes, not" in found[0].what and found[0].tensor == ""
    assert found[1].tensor == "seen.total" and "cut off" in found[1].what
    lost = [b.name for b in contents.boxes if b.file == one.file and b.at >= one.at]
    assert [fault.tensor for fault in found[1:]] == lost


def test_bytes_that_are_nobody_s_are_found(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    one = contents.files[0]
    with (folder / one.name).open("ab") as file:
        file.write(b"more")
    (fault,) = faults(folder)
    assert f"has {one.size + 4} bytes, not {one.size}" in fault.what


def without_last_row(rank: int, entries: list[Entry]) -> list[Entry]:
    """Rank 1 has only the first of its two rows."""
    if rank == 0:
        return entries
    changed = msgspec.structs.replace(entries[0], box_shape=(1, 3), size=12)
    return [changed, *entries[1:]]


def test_a_hole_in_a_tensor_is_found(tmp_path: Path) -> None:
    folder, _ = write_step(tmp_path, changed=without_last_row)
    (fault,) = faults(folder)
    assert fault.tensor == "model.split"
    assert fault.what == "of (5, 3): [4:5, 0:3] is in no file"


def test_a_list_without_a_rank_is_found(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    fewer = msgspec.structs.replace(contents, values=contents.values[:1])
    (folder / stored.CONTENTS).write_bytes(stored.encode(fewer))
    found = faults(folder)
    assert found[0].tensor == "values of rank 1" and found[0].what == "lost"
    assert any("belong to nothing" in fault.what for fault in found)


def test_a_box_that_is_listed_twice_is_found(tmp_path: Path) -> None:
    folder, contents = write_step(tmp_path)
    more = msgspec.structs.replace(contents, boxes=[*contents.boxes, contents.boxes[0]])
    (folder / stored.CONTENTS).write_bytes(stored.encode(more))
    whats = [fault.what for fault in faults(folder)]
    assert any("rank 0 has [0:3, 0:3] twice" in what for what in whats)
    assert any("overlap" in what for what in whats)


def test_a_tensor_that_only_one_rank_has_is_whole(tmp_path: Path) -> None:
    def only_rank_0(rank: int, entries: list[Entry]) -> list[Entry]:
        more = entry("seen.first", "uint8", (16,), at=2048 + 80, size=16)
        return [*entries, more] if rank == 0 else entries

    folder, _ = write_step(tmp_path, changed=only_rank_0)
    assert faults(folder) == []
