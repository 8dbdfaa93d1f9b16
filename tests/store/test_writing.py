"""Every byte is written once, and a step is there when all of it is, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import xxhash
from hypothesis import given, settings, strategies as some

from tests.store import parts
from tests.store.parts import holding, name
from twinstep.capture.manifest import Entry
from twinstep.errors import ProtocolError, Refused
from twinstep.store import contents as stored
from twinstep.store.contents import BOX_BYTES, SHARED, folder_name
from twinstep.store.places import Disk
from twinstep.store.reading import look, open_step
from twinstep.store.writing import boxes_of, make_whole, portion, write_part


def whole_steps(place: Disk) -> list[int]:
    return [one.step for one in look(place, steps_max=100) if one.whole]


def test_all_bytes_are_there_and_each_once(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 12)
    step = open_step(place, 12)
    own = {rank: bytes(parts.own_slot(rank, 12)[parts.HEAD_BYTES :]) for rank in (0, 1)}
    shared = bytes(parts.shared_slot(12))
    expected = {
        ("own.weight", 0): own[0],
        ("own.weight", 1): own[1],
        ("model.weight", SHARED): shared[:96],
        ("model.bias", SHARED): shared[96:106],
    }
    found = {}
    for box in step.contents.boxes:
        into = bytearray(box.data_bytes)
        step.read(box, memoryview(into))
        assert (box.name, box.owner) not in found, "a box is written twice"
        found[box.name, box.owner] = bytes(into)
    assert found == expected
    assert step.values(0) != step.values(1)
    assert sorted(place.sizes(folder_name(12))) == [
        ".metadata",
        ".twinstep",
        f"{name(0)}.distcp",
        f"{name(1)}.distcp",
    ]


def test_the_digest_is_that_of_the_bytes_in_the_file(tmp_path: Path) -> None:
    part = write_part(Disk(tmp_path), holding(0), name=name(0), now_s=5.0)
    data = (tmp_path / folder_name(12) / f"{name(0)}.distcp").read_bytes()
    assert part.files[0].size == len(data)
    for box in part.boxes:
        bytes_there = data[box.data_at : box.data_at + box.data_bytes]
        assert xxhash.xxh3_128_digest(bytes_there) == box.digest


def test_a_box_that_another_rank_writes_is_left_out(tmp_path: Path) -> None:
    held = holding(1)
    (manifest, slot) = held.own[1]
    first, *others = manifest.entries
    second = msgspec.structs.replace(first, replica=1)
    again = type(manifest)(
        **{
            field: getattr(manifest, field)
            for field in manifest.__dataclass_fields__
            if field != "entries"
        },
        entries=(second, *others),
    )
    held.own[1] = (again, slot)
    part = write_part(Disk(tmp_path), held, name=name(1), now_s=5.0)
    assert [box.owner for box in part.boxes] == [SHARED] * len(part.boxes)


def test_a_step_of_which_a_part_is_missing_does_not_appear(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write(place, 12, of=[0])
    with pytest.raises(FileNotFoundError, match="m1.part"):
        make_whole(place, step=12, names=[name(0), name(1)])
    with pytest.raises(ProtocolError, match="values of 1 of 2 ranks"):
        make_whole(place, step=12, names=[name(0)])
    assert whole_steps(place) == []


def test_parts_of_two_rounds_make_no_step(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write(place, 12, round=1, of=[0])
    parts.write(place, 12, round=2, of=[1])
    with pytest.raises(ProtocolError, match="2 different steps"):
        make_whole(place, step=12, names=[name(0, round=1), name(1, round=2)])
    assert whole_steps(place) == []


def test_two_roots_that_make_one_step_whole_do_no_harm(tmp_path: Path) -> None:
    """The first may have removed the lists when the second comes."""
    place = Disk(tmp_path)
    parts.write_step(place, 12)
    with pytest.raises(FileNotFoundError):
        make_whole(place, step=12, names=[name(0), name(1)])
    assert whole_steps(place) == [12]


def test_a_step_is_written_again_over_an_older_one(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write_step(place, 12, round=1)
    parts.write_step(place, 12, round=2)
    assert open_step(place, 12).contents.captured_in == 2


def test_whoever_gives_up_leaves_nothing(tmp_path: Path) -> None:
    place, left = Disk(tmp_path), [5]

    def pace(_bytes: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Refused("the round is over")

    with pytest.raises(Refused, match="the round"):
        write_part(place, holding(0), name=name(0), now_s=5.0, pace=pace)
    assert place.sizes(folder_name(12)) == {}


def test_the_pace_is_asked_before_each_byte(tmp_path: Path) -> None:
    asked: list[int] = []
    part = write_part(
        Disk(tmp_path), holding(0), name=name(0), now_s=5.0, pace=asked.append
    )
    assert sum(asked) == part.files[0].size


class NoRoomForTheList(Disk):
    def create(self, name: str):
        if name.endswith(stored.PART):
            raise OSError(28, "No space left on device", name)
        return super().create(name)


def test_without_its_list_the_data_goes(tmp_path: Path) -> None:
    place = NoRoomForTheList(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        write_part(place, holding(0), name=name(0), now_s=5.0)
    assert place.sizes(folder_name(12)) == {}


KILLED = """
import sys
from pathlib import Path
from tests.store import parts
from twinstep.store.places import Disk
from twinstep.store.writing import write_part

left = int(sys.argv[2])
def pace(_bytes):
    global left
    left -= 1
    if not left:
        print("now", flush=True)
        sys.stdin.read()

place = Disk(Path(sys.argv[1]))
held = parts.holding(1)
write_part(place, held, name=parts.name(1), now_s=5.0, pace=pace)
"""


def test_a_step_whose_writer_was_killed_is_passed_over(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    parts.write(place, 12, of=[0])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "6"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "now\n"
        os.kill(writer.pid, signal.SIGKILL)
    (seen,) = look(place, steps_max=9)
    assert seen.reason == "it has no .metadata: it was never finished"
    assert any(file.endswith(stored.UNFINISHED) for file in place.sizes(seen.folder))
    parts.write_step(place, 12, round=2)
    assert whole_steps(place) == [12]


# How tensors are cut, and who writes what.


def entry(shape: tuple[int, ...], *, offset: int = 0) -> Entry:
    size = 4
    for extent in shape:
        size *= extent
    return Entry(
        name=f"at {offset}",
        dtype="float32",
        global_shape=shape,
        box_offsets=(0,) * len(shape),
        box_shape=shape,
        offset=offset,
        size=size,
        region="shared",
    )


SHAPES = some.lists(
    some.one_of(some.integers(0, 8), some.sampled_from([1 << 22, 3 << 23])), max_size=3
).filter(lambda shape: sum(extent > 8 for extent in shape) < 2)


@settings(max_examples=60)
@given(SHAPES)
def test_boxes_make_up_the_tensor(shape: list[int]) -> None:
    one = entry(tuple(shape), offset=64)
    at = one.offset
    rows = 0
    for box, span in boxes_of(one):
        assert (span.start, len(span)) == (at, box.size) and box.offset == at
        at = span.stop
        if shape:
            assert box.box_offsets == (rows, *(0 for _ in shape[1:]))
            assert box.box_shape[1:] == tuple(shape[1:])
            rows += box.box_shape[0]
            assert len(span) <= BOX_BYTES or box.box_shape[0] == 1
    assert at == one.offset + one.size
    assert not shape or rows == shape[0]


@settings(max_examples=60)
@given(some.lists(SHAPES, max_size=6), some.integers(1, 9))
def test_every_box_is_in_one_portion_and_portions_are_alike(
    shapes: list[list[int]], machines: int
) -> None:
    entries: list[Entry] = []
    for shape in shapes:
        at = entries[-1].offset + entries[-1].size if entries else 0
        entries.append(entry(tuple(shape), offset=at))
    own = msgspec.structs.replace(entry((3,)), region="own", name="own")
    every = [
        list(portion([own, *entries], parts=machines, index=index))
        for index in range(machines)
    ]
    written = Counter(
        (box.name, box.box_offsets) for some_of_it in every for box, _ in some_of_it
    )
    all_boxes = [(box.name, box.box_offsets) for e in entries for box, _ in boxes_of(e)]
    assert written == Counter(all_boxes)
    sizes = [sum(len(span) for _, span in some_of_it) for some_of_it in every]
    largest = max((len(span) for e in entries for _, span in boxes_of(e)), default=0)
    fair = sum(sizes) / machines
    assert all(abs(size - fair) <= largest for size in sizes), (sizes, largest)
