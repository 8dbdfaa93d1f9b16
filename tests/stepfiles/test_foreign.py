"""A directory that plain torch has written is verified without torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from twinstep.stepfiles.checking import Fault
from twinstep.stepfiles.foreign import check_directory
from twinstep.stepfiles.listing import describe, listing_of
from twinstep.stepfiles.where import where
from twinstep.stepfiles.windows import archive_fault

WEIGHT = torch.arange(300, dtype=torch.float32).reshape(20, 15)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"model": {"weight": WEIGHT, "bias": torch.ones(3)}, "epoch": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a job of one rank
        dcp.save(state, checkpoint_id=tmp_path / "theirs", no_dist=True)
    return tmp_path / "theirs"


def faults(folder: Path) -> list[Fault]:
    return check_directory(where(str(folder), {}), tick=lambda _: None).faults


def test_a_whole_one_has_no_fault_and_is_described(folder: Path) -> None:
    at = where(str(folder), {})
    assert at.foreign
    assert faults(folder) == []
    found = describe(at)
    assert found.tensors["model.weight"].shape == (20, 15)
    assert found.values == ["epoch"]


@pytest.mark.parametrize("key", ["model.weight", "epoch"])
def test_a_flipped_bit_is_named(folder: Path, key: str) -> None:
    listing = listing_of(where(str(folder), {}))
    place = (
        listing.plain[key]
        if key in listing.plain
        else listing.tensors[key].chunks[0].place
    )
    path = folder / place.file
    data = bytearray(path.read_bytes())
    inside = WEIGHT.numpy().tobytes() if key != "epoch" else b"K\7"
    data[data.index(inside, place.at) + 1] ^= 1
    path.write_bytes(data)
    (fault,) = faults(folder)
    assert (fault.file, fault.tensor) == (place.file, key) and "CRC" in fault.what


def test_an_archive_that_lacks_bytes_of_its_tensor_is_named(folder: Path) -> None:
    """A readable archive of something else, where the weight should be."""
    at = where(str(folder), {})
    place = listing_of(at).tensors["model.bias"].chunks[0].place
    name = f"{at.folder}/{place.file}"
    span = {"at": place.at, "size": place.size}
    assert archive_fault(at.place, name, **span, data_bytes=12) == ""
    what = archive_fault(at.place, name, **span, data_bytes=1200)
    assert what == "has 12 bytes of tensors, not 1200"


@pytest.mark.parametrize("cut", [1, 300])
def test_a_cut_archive_is_named(folder: Path, cut: int) -> None:
    at = where(str(folder), {})
    place = listing_of(at).tensors["model.weight"].chunks[0].place
    name = f"{at.folder}/{place.file}"
    what = archive_fault(at.place, name, at=place.at, size=place.size - cut)
    assert "no readable archive" in what
