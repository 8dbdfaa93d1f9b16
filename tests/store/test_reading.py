"""What is not whole is passed over in words, and no bad byte is handed out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.store import parts
from twinstep.errors import Corrupt
from twinstep.store import contents as stored
from twinstep.store.contents import folder_name
from twinstep.store.places import Disk
from twinstep.store.reading import Found, look, open_step


@pytest.fixture
def place(tmp_path: Path) -> Disk:
    made = Disk(tmp_path)
    for step in (11, 12, 13):
        parts.write_step(made, step)
    return made


def seen(place: Disk, step: int) -> Found:
    (found,) = [one for one in look(place, steps_max=9) if one.step == step]
    return found


def file(place: Disk, name: str, step: int = 13) -> Path:
    return Path(place.name) / folder_name(step) / name


DATA = f"{parts.name(1)}.distcp"


def test_steps_are_found_the_newest_last(place: Disk) -> None:
    (Path(place.name) / "notes").mkdir()
    (Path(place.name) / "step-00000099").write_text("a file")
    assert [(one.step, one.whole) for one in look(place, steps_max=9)] == [
        (11, True),
        (12, True),
        (13, True),
    ]
    assert [one.step for one in look(place, steps_max=2)] == [12, 13]
    assert list(look(Disk(Path(place.name) / "nowhere"), steps_max=9)) == []


def no_metadata(place: Disk) -> str:
    file(place, ".metadata").unlink()
    return "it has no .metadata: it was never finished"


def foreign(place: Disk) -> str:
    file(place, ".twinstep").unlink()
    return "it has no .twinstep: not written by twinstep"


def torn(place: Disk) -> str:
    table = file(place, ".twinstep")
    table.write_bytes(table.read_bytes()[:-5])
    return "make no sense"


def missing(place: Disk) -> str:
    file(place, DATA).unlink()
    return f"{DATA} is missing"


def short(place: Disk) -> str:
    data = file(place, DATA)
    data.write_bytes(data.read_bytes()[:-1])
    return f"{DATA} has .* bytes, not"


def renamed(place: Disk) -> str:
    other = file(place, ".twinstep", 12).read_bytes()
    file(place, ".twinstep").write_bytes(other)
    return "its contents are of step 12"


def lacking(place: Disk) -> str:
    table = file(place, ".twinstep")
    whole = stored.decode(table.read_bytes())
    cut = msgspec.structs.replace(whole, values=whole.values[:1])
    table.write_bytes(stored.encode(cut))
    return "values of 1 of 2 ranks"


@pytest.mark.parametrize(
    "damage", [no_metadata, foreign, torn, missing, short, renamed, lacking]
)
def test_a_step_that_is_not_whole_is_passed_over_in_words(place: Disk, damage) -> None:
    reason = damage(place)
    one = seen(place, 13)
    assert not one.whole
    assert one.foreign == (damage is foreign)
    with pytest.raises(Corrupt, match=f"step-00000013.*{reason}"):
        open_step(place, 13)
    assert seen(place, 12).whole


def test_every_damaged_byte_of_data_is_found(place: Disk) -> None:
    step = open_step(place, 13)
    for box in step.contents.boxes:
        path = file(place, box.file)
        good = path.read_bytes()
        for at in (box.data_at, box.data_at + box.data_bytes - 1):
            bad = bytearray(good)
            bad[at] ^= 1
            path.write_bytes(bad)
            with pytest.raises(Corrupt, match=f"{box.file}: {box.name}.*checksum"):
                step.read(box, memoryview(bytearray(box.data_bytes)))
        path.write_bytes(good)
        step.read(box, memoryview(bytearray(box.data_bytes)))


def test_damaged_values_are_found(place: Disk) -> None:
    step = open_step(place, 13)
    at = step.contents.values[1]
    path = file(place, at.file)
    data = bytearray(path.read_bytes())
    data[at.at] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="values of rank 1"):
        step.values(1)
    step.values(0)


def test_what_goes_away_while_it_is_read_is_named(place: Disk) -> None:
    step = open_step(place, 13)
    box = step.contents.boxes[0]
    path = file(place, box.file)
    path.write_bytes(path.read_bytes()[: box.data_at + 1])
    with pytest.raises(Corrupt, match=f"{box.file} is too short"):
        step.read(box, memoryview(bytearray(box.data_bytes)))
    path.unlink()
    with pytest.raises(Corrupt, match=f"{box.file} is missing"):
        step.read(box, memoryview(bytearray(box.data_bytes)))


def test_values_of_a_claimed_size_are_not_read(place: Disk) -> None:
    step = open_step(place, 13)
    huge = msgspec.structs.replace(step.contents.values[0], size=1 << 40)
    step.contents.values[0] = huge
    with pytest.raises(Exception, match=f"{1 << 40} bytes; at most"):
        step.values(0)
