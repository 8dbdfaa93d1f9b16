"""A table of contents is checked before a byte is placed by it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings, strategies as some

from tests.store.parts import holding, name
from twinstep.errors import ProtocolError
from twinstep.store import contents as stored
from twinstep.store.contents import Contents
from twinstep.store.places import Disk
from twinstep.store.writing import write_part

NUMBERS = some.one_of(
    some.integers(-(1 << 63), (1 << 64) - 1),
    some.sampled_from([0, 1, 1 << 24, 1 << 46]),
)
JUNK = some.recursive(
    some.one_of(some.none(), some.booleans(), NUMBERS, some.binary(), some.text()),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Contents]:
    place = Disk(tmp_path_factory.mktemp("storage"))
    return [
        write_part(place, holding(rank), name=name(rank), now_s=5.0) for rank in (0, 1)
    ]


def test_what_is_encoded_is_decoded(parts: list[Contents]) -> None:
    whole = stored.merge(parts)
    assert stored.decode(stored.encode(whole)) == whole
    assert whole.size == sum(part.size for part in parts)
    assert [value.rank for value in whole.values] == [0, 1]


@settings(max_examples=50)
@given(data=some.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="make no sense"):
        stored.decode(data)


@settings(max_examples=60)
@given(data=some.data())
def test_a_table_with_one_hostile_field_is_refused_or_sound(
    parts: list[Contents], data: some.DataObject
) -> None:
    tree = msgspec.msgpack.decode(stored.encode(stored.merge(parts)))
    at: object = tree
    path: list[object] = []
    while (
        isinstance(at, dict | list) and at and (not path or data.draw(some.booleans()))
    ):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        inner, key = at, data.draw(some.sampled_from(keys))
        path.append(key)
        at = at[key]  # pyright: ignore
    inner[key] = data.draw(JUNK)  # pyright: ignore
    try:
        whole = stored.decode(msgspec.msgpack.encode(tree))
    except ProtocolError:
        return
    sizes = {file.name: file.size for file in whole.files}
    for box in whole.boxes:
        assert 0 <= box.data_at <= box.data_at + box.data_bytes <= sizes[box.file]
    for item in (*whole.values, *whole.plain):
        assert item.at + item.size <= sizes[item.file]
    assert 1 <= whole.world_size <= 1 << 24


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of 2^32 items
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x91" * 100_000,  # a list in a list in a list
    ],
)
def test_a_claimed_size_is_not_believed(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        stored.decode(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2; this twinstep reads 1"),
        ({"machines": 0}, "0 x 1 ranks; at least 1"),
        ({"machines": 1 << 24, "ranks_per_machine": 1 << 24}, "at most 16777216"),
        ({"files": []}, "outside of its file"),
        ({"files": [], "boxes": []}, "values outside of their file"),
    ],
)
def test_what_cannot_be_is_named(
    parts: list[Contents], change: dict, says: str
) -> None:
    part = msgspec.structs.replace(parts[0], **change)
    with pytest.raises(ProtocolError, match=says):
        stored.decode(stored.encode(part))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offsets": (0,)}, "2 dimensions"),
        ({"offsets": (5, 0)}, "outside of its tensor"),
        ({"dtype": "float7"}, "'float7' is unknown"),
        ({"shape": (3, 3)}, "48 bytes for"),
        ({"data_at": 0}, "outside of its file"),
        ({"data_at": 1 << 40}, "outside of its file"),
        ({"size": 1 << 40}, "outside of its file"),
        ({"file": "../m1"}, "outside of its file"),
    ],
)
def test_a_box_that_cannot_be_is_named(
    parts: list[Contents], change: dict, says: str
) -> None:
    box = msgspec.structs.replace(parts[0].boxes[0], **change)
    part = msgspec.structs.replace(parts[0], boxes=[box])
    with pytest.raises(ProtocolError, match=f"own.weight.*{says}"):
        stored.decode(stored.encode(part))


@pytest.mark.parametrize("file", ["../x", "a/b", "/etc/passwd", "", "a\nb"])
def test_a_file_outside_of_the_folder_is_refused(
    parts: list[Contents], file: str
) -> None:
    files = [msgspec.structs.replace(parts[0].files[0], name=file)]
    with pytest.raises(ProtocolError, match="make no sense.*files"):
        stored.decode(stored.encode(msgspec.structs.replace(parts[0], files=files)))


@pytest.mark.parametrize(
    "change",
    [{"captured_in": 2}, {"step": 13}, {"machines": 3}, {"ranks_per_machine": 2}],
)
def test_parts_of_two_steps_do_not_make_one(
    parts: list[Contents], change: dict[str, int]
) -> None:
    with pytest.raises(ProtocolError, match="2 different steps"):
        stored.merge([parts[0], msgspec.structs.replace(parts[1], **change)])


def test_parts_that_are_not_all_there_make_none(parts: list[Contents]) -> None:
    for some_of_them in (parts[:1], [parts[0], parts[0]]):
        with pytest.raises(ProtocolError, match="values of 1 of 2 ranks"):
            stored.merge(some_of_them)


def test_only_a_step_s_folder_is_taken_for_one() -> None:
    assert stored.step_of(stored.folder_name(7)) == 7
    assert stored.step_of(stored.folder_name(10**12)) == 10**12
    for other in ("step-7", "step-0000000x", "step-00000007.old", "steps", "", "step-"):
        assert stored.step_of(other) is None


def test_twinstep_knows_its_own_files() -> None:
    ours = (f"{name(3)}.distcp", f"{name(3)}.part", ".metadata", ".twinstep")
    for file in ours:
        assert stored.is_ours(file)
        assert stored.is_ours(f"{file}.0a1b2c3d.unfinished")
    for file in ("__0_0.distcp", "model.safetensors", "x.unfinished", ".metadata.bak"):
        assert not stored.is_ours(file)
