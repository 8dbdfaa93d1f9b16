"""TensorStore's own driver is the judge of the databases that we write."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random

import pytest
import tensorstore
from hypothesis import given, settings, strategies as some

from twinstep.store import ocdbt
from twinstep.store.ocdbt import Range, Value, crc32c, database

NODES = "r3-t1-m0.nodes"
FILES = ("r3-t1-m0.chunks", "r3-t1-m10.chunks", "other name")
DATA = {name: Random(name).randbytes(300) for name in FILES}

VALUES = some.dictionaries(
    some.text(
        some.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9
    ),
    some.one_of(
        some.binary(max_size=20),
        some.builds(
            Range, some.sampled_from(FILES), some.integers(0, 200), some.integers(0, 99)
        ),
    ),
    min_size=1,
    max_size=60,
)


def write(folder: Path, values: dict[str, Value]) -> tensorstore.KvStore:
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    manifest, nodes = database(values, nodes=NODES, uuid=bytes(range(16)), written_ns=9)
    (folder / NODES).write_bytes(nodes)
    (folder / ocdbt.MANIFEST).write_bytes(manifest)
    return opened(folder)


def opened(folder: Path) -> tensorstore.KvStore:
    spec = {"driver": "ocdbt", "base": f"file://{folder}/"}
    return tensorstore.KvStore.open(spec).result()


def plain(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return DATA[value.file][value.at : value.at + value.size]


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@settings(max_examples=40, deadline=None)
@given(VALUES, some.integers(2, 40))
def test_every_key_is_found_and_no_other(values: dict[str, Value], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Small nodes, so that the tree has several levels.
        patch.setattr(ocdbt, "NODE_ENTRIES", most)
        patch.setattr(ocdbt, "NODE_BYTES", 200)
        with tempfile.TemporaryDirectory() as folder:
            store = write(Path(folder), values)
            found = {key.decode(): store[key] for key in store.list().result()}
            assert found == {key: plain(value) for key, value in values.items()}
            assert store.read("\0none").result().state == "missing"


def test_many_keys_in_nodes_of_usual_size(tmp_path: Path) -> None:
    values: dict[str, Value] = {
        f"state/layer {n:05}/{n % 7}.0": Range(FILES[n % 3], n % 200, 1 + n % 99)
        for n in range(20_000)
    }
    store = write(tmp_path, values)
    assert len(store.list().result()) == len(values)
    for key in Random(1).sample(sorted(values), 200):
        assert store[key] == plain(values[key])
    base = tensorstore.KvStore.open(f"file://{tmp_path}/").result()
    (version,) = tensorstore.ocdbt.dump(base).result()["versions"]
    assert version["root_height"] == 1
    sizes = version["root"]["statistics"]
    assert sizes["num_keys"] == len(values)
    assert sizes["num_tree_bytes"] == os.path.getsize(tmp_path / NODES)
    assert sizes["num_indirect_value_bytes"] == sum(v.size for v in values.values())


def test_a_changed_byte_of_a_node_is_noticed(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": b"1", "b": Range(FILES[0], 3, 9)})
    assert store["b"] == DATA[FILES[0]][3:12]
    nodes = bytearray((tmp_path / NODES).read_bytes())
    nodes[-6] ^= 1
    (tmp_path / NODES).write_bytes(nodes)
    with pytest.raises(ValueError, match="CRC-32C"):
        opened(tmp_path).read("b").result()


def test_what_no_database_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no keys"):
        database({}, nodes=NODES, uuid=bytes(16), written_ns=0)
    with pytest.raises(ValueError, match="65536 bytes"):
        database({"k" * 65536: b""}, nodes=NODES, uuid=bytes(16), written_ns=0)
