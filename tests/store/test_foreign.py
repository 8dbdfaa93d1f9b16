"""Directories that torch wrote are listed; what is no metadata is refused, uncalled."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, strategies as st

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.errors import ProtocolError
from twinstep.store.foreign import Listing, read_metadata
from twinstep.store.pickles import Call, Global, Object, Pairs, dump


def state() -> dict[str, Any]:
    return {
        "model": {
            name: torch.zeros(2, 3, dtype=getattr(torch, name)) for name in ITEM_BYTES
        },
        "lr": 0.1,
        "step": torch.tensor(3.0),
    }


def read(data: bytes) -> Listing:
    return read_metadata(data, bytes_max=1 << 20)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcp") / "step"
    with warnings.catch_warnings():
        # That torch's complex32 is an experiment.
        warnings.simplefilter("ignore")
        dcp.save(state(), checkpoint_id=folder)
    return folder


def test_a_directory_of_torch_is_listed(written: Path) -> None:
    listing = read((written / ".metadata").read_bytes())
    assert set(listing.tensors) == {*(f"model.{name}" for name in ITEM_BYTES), "step"}
    assert set(listing.plain) == {"lr"}
    for key, tensor in listing.tensors.items():
        (chunk,) = tensor.chunks
        assert tensor.shape == chunk.shape == (() if key == "step" else (2, 3))
        assert key == "step" or tensor.dtype == key.removeprefix("model.")
        place = chunk.place
        data = (written / place.file).read_bytes()[place.at : place.at + place.size]
        assert data[:2] == b"PK" and torch.load(io.BytesIO(data)).dtype


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_protocols_are_read(written: Path, protocol: int) -> None:
    data = (written / ".metadata").read_bytes()
    again = pickle.dumps(pickle.loads(data), protocol=protocol)
    assert read(again) == read(data)


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_pickle_that_calls_is_refused_and_nothing_called(
    tmp_path: Path, protocol: int
) -> None:
    proof = tmp_path / "proof"
    evil = pickle.dumps(Evil(os.system, f"touch {proof}"), protocol=protocol)
    with pytest.raises(ProtocolError):
        read(evil)
    assert not proof.exists()
    with pytest.raises(ProtocolError, match=r"posix.system, which no metadata needs"):
        read(pickle.dumps(Evil(os.system, f"touch {proof}")))


METADATA = "torch.distributed.checkpoint.metadata"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps({"a": 1}),
        dump(Object(Global(METADATA, "Metadata"), {"storage_data": {}})),
        dump(Object(Global(METADATA, "Metadata"), 7)),
        dump(Call(Global("torch", "load"), ("x",))),
        dump(Call(Global("torch", "float32.x"), ())),
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02Nr\xff\xff\xff\xff" + b".",
        b"\x80\x02]" + b"\x85" * 100_000 + b".",
        b"\x80\x02t.",
        b"\x80\x02]q\x00h\x00a.",
    ],
)
def test_what_is_no_metadata_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)


def test_truncated_metadata_is_refused(written: Path) -> None:
    data = (written / ".metadata").read_bytes()
    for end in range(0, len(data) - 1, 31):
        with pytest.raises(ProtocolError):
            read(data[:end])


@given(st.data())
def test_damaged_metadata_is_read_or_refused(written: Path, data: Any) -> None:
    damaged = bytearray((written / ".metadata").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        read(bytes(damaged))


def test_too_much_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="at most 10"):
        read_metadata(b"x" * 11, bytes_max=10)


INDEX = Global(METADATA, "MetadataIndex")


def metadata_of(*, file: str = "a.distcp", at: Any = 0, repeat: int = 1) -> bytes:
    size = Call(Global("torch", "Size"), ((2,),))
    first = Call(Global("torch", "Size"), ((0,),))
    chunk = Object(
        Global(METADATA, "ChunkStorageMetadata"), {"offsets": first, "sizes": size}
    )
    properties = (Global("torch", "float32"), None, False, None, False)
    tensor = {
        "properties": Object(Global(METADATA, "TensorProperties"), properties),
        "size": size,
        "chunks": [chunk] * repeat,
    }
    info = {"relative_path": file, "offset": at, "length": 8}
    index = Object(INDEX, {"fqn": "w", "index": 0, "offset": first})
    place = Object(
        Global("torch.distributed.checkpoint.filesystem", "_StorageInfo"), info
    )
    kind = Global(METADATA, "TensorStorageMetadata")
    return dump(
        Object(
            Global(METADATA, "Metadata"),
            {
                "state_dict_metadata": {"w": Object(kind, tensor)},
                "storage_data": Pairs([(index, place)]),
            },
        )
    )


def test_places_outside_of_the_directory_are_refused() -> None:
    assert read(metadata_of()).tensors["w"].chunks[0].place.size == 8
    for wrong in ({"file": "../a"}, {"file": ""}, {"at": -1}, {"at": 1 << 70}):
        with pytest.raises(ProtocolError):
            read(metadata_of(**wrong))


def test_one_list_named_often_is_not_multiplied() -> None:
    """Ten thousand keys that share a list of as many chunks."""
    data = bytearray(metadata_of(repeat=300))
    keys = [b"%04d" % number for number in range(300)]
    many = b"".join(b"X" + struct.pack("<I", 4) + key + b"h\xff" for key in keys)
    at = data.index(b"X" + struct.pack("<I", 12) + b"storage_data")
    head = data[: at - 1]
    assert data[at - 1 : at] == b"u"
    shared = bytes(head) + b"q\xff" + many + b"u" + bytes(data[at:])
    with pytest.raises(ProtocolError, match="chunks"):
        read(shared)
