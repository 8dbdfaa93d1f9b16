"""A file is there whole, or not at all: on disks, and where fsspec goes."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from twinstep.errors import ConfigError, Refused
from twinstep.store.contents import UNFINISHED
from twinstep.store.places import Disk, Place, place_of

FOLDER = "step-00000012"


@pytest.fixture(params=["disk", "memory", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Place]:
    if request.param == "disk":
        yield place_of(str(tmp_path / "a run, übung" / "x"), {})
        return
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    if request.param == "local":
        yield place_of(f"local://{tmp_path}/run", {"auto_mkdir": "yes"})
        return
    yield place_of("memory://bucket/run", {})
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]


def put(place: Place, name: str, data: bytes) -> None:
    with place.create(f"{FOLDER}/{name}") as output:
        output.write(data)


def test_what_is_written_is_read(place: Place) -> None:
    assert (place.folders(), place.sizes(FOLDER)) == ([], {})
    with place.create(f"{FOLDER}/a") as output:
        output.write(b"01234")
        output.write(memoryview(b"56789"))
    assert place.folders() == [FOLDER]
    assert place.sizes(FOLDER) == {"a": 10}
    into = bytearray(4)
    place.read(f"{FOLDER}/a", 3, memoryview(into))
    assert into == b"3456"
    place.read(f"{FOLDER}/a", 3, memoryview(bytearray()))
    assert place.read_whole(f"{FOLDER}/a", bytes_max=10) == b"0123456789"


def test_what_is_not_there_is_said(place: Place) -> None:
    put(place, "a", b"01234")
    with pytest.raises(EOFError, match="/a ends"):
        place.read(f"{FOLDER}/a", 3, memoryview(bytearray(3)))
    with pytest.raises(FileNotFoundError):
        place.read(f"{FOLDER}/b", 0, memoryview(bytearray(3)))
    with pytest.raises(FileNotFoundError):
        place.read_whole(f"{FOLDER}/b", bytes_max=10)
    with pytest.raises(ValueError, match="5 bytes; at most 4"):
        place.read_whole(f"{FOLDER}/a", bytes_max=4)


def give_up(place: Place, name: str) -> None:
    with place.create(f"{FOLDER}/{name}") as file:
        file.write(b"new and longer")
        raise Refused("the round is over")


def test_a_file_that_was_given_up_is_none(place: Place) -> None:
    put(place, "a", b"old")
    with pytest.raises(Refused, match="the round"):
        give_up(place, "b")
    gc.collect()
    assert place.sizes(FOLDER) == {"a": 3}


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    put(place, "a", b"old")
    with pytest.raises(Refused, match="the round"):
        give_up(place, "a")
    assert place.sizes(FOLDER) == {"a": 3}
    put(place, "a", b"new")
    assert place.read_whole(f"{FOLDER}/a", bytes_max=99) == b"new"


def test_a_folder_goes_with_its_last_file(place: Place) -> None:
    for name in ("a", "b"):
        put(place, name, b"x")
    place.remove(FOLDER, ["a", "never there"])
    assert place.sizes(FOLDER) == {"b": 1}
    place.remove(FOLDER, ["b"])
    assert FOLDER not in place.folders()
    place.remove(FOLDER, ["b"])


def test_two_that_write_one_name_do_not_meet(tmp_path: Path) -> None:
    """Two roots may make one step whole: nobody may see a mixture, nor half of it."""
    place, other = Disk(tmp_path), Disk(tmp_path)
    with place.create(f"{FOLDER}/a") as first:
        first.write(b"1" * 10)
        with other.create(f"{FOLDER}/a") as second:
            second.write(b"2" * 6)
        assert place.read_whole(f"{FOLDER}/a", bytes_max=99) == b"2" * 6
        first.write(b"1" * 10)
    assert place.read_whole(f"{FOLDER}/a", bytes_max=99) == b"1" * 20
    assert place.sizes(FOLDER) == {"a": 20}


WRITER = """
import sys
from pathlib import Path
from twinstep.store.places import Disk
with Disk(Path(sys.argv[1])).create(sys.argv[2]) as output:
    output.write(b"x" * 1000)
    print("half", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_leaves_is_no_file(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), f"{FOLDER}/a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        os.kill(writer.pid, signal.SIGKILL)
    place = Disk(tmp_path)
    (left,) = place.sizes(FOLDER)
    assert left.startswith("a.") and left.endswith(UNFINISHED)
    put(place, "a", b"whole")
    assert place.read_whole(f"{FOLDER}/a", bytes_max=99) == b"whole"


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Generator[None]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk needs mount")
    if done.returncode:
        pytest.skip(f"a small disk needs root: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k"):
        place = Disk(tmp_path / "small")
        put(place, "a", b"old")
        with pytest.raises(
            OSError, match="No space left.*small/step-00000012/a"
        ) as error:
            put(place, "a", b"x" * 400_000)
        assert error.value.errno == errno.ENOSPC
        assert place.sizes(FOLDER) == {"a": 3}
        put(place, "b", b"x" * 4096)


LIMITED = """
import resource, sys
from pathlib import Path
from twinstep.store.places import Disk
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
place = Disk(Path(sys.argv[1]))
try:
    with place.create(sys.argv[2]) as output:
        output.write(b"x" * 9000)
except OSError as error:
    print(error, place.sizes(sys.argv[2].partition("/")[0]))
"""


def test_a_write_that_ends_early_is_an_error(tmp_path: Path) -> None:
    """The kernel takes a part of one write, and refuses the next."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), f"{FOLDER}/a"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert done.stdout.endswith(f"{FOLDER}/a' {{}}\n"), done.stdout


def test_a_storage_that_went_away_is_named(tmp_path: Path) -> None:
    place = Disk(tmp_path / "run")
    put(place, "a", b"x")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "run").write_text("a file now")
    for do in (
        lambda: put(place, "b", b"x"),
        lambda: place.read(f"{FOLDER}/a", 0, memoryview(bytearray(1))),
        lambda: place.sizes(FOLDER),
        place.folders,
        lambda: place.remove(FOLDER, ["a"]),
    ):
        with pytest.raises(OSError, match=f"{tmp_path}/run"):
            do()


def test_a_file_that_vanishes_does_not_hide_the_others(tmp_path: Path) -> None:
    place = Disk(tmp_path)
    put(place, "steady", b"x")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(50):
                (tmp_path / FOLDER / f"{number}").touch()
            for number in range(50):
                (tmp_path / FOLDER / f"{number}").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(200):
            assert "steady" in place.sizes(FOLDER)
    finally:
        over.set()
        other.join()


def test_new_folders_are_flushed_with_the_file(tmp_path: Path, monkeypatch) -> None:
    """Each folder with a new entry is, after the file has its name; and the file is
    before."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        there = (tmp_path / "x" / "y" / FOLDER / "a").exists()
        synced.append(f"{path.removeprefix(str(tmp_path))} {there}")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    put(Disk(tmp_path / "x" / "y"), "a", b"x")
    first, *folders = synced
    assert UNFINISHED in first and first.endswith("False")
    assert folders[0] == f"/x/y/{FOLDER} True"
    assert {"/x/y True", "/x True", " True"} <= set(folders)


# Addresses and options.


def test_an_address_is_told_from_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_of("~/run", {}).name == f"{tmp_path}/run"
    assert place_of(f"file://{tmp_path}", {}).name == str(tmp_path)
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    assert place_of("memory://a/b", {}).name == "memory://a/b"


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("nowhere://a", {}, "nowhere://.*install what fsspec needs"),
        ("zip://x::/gone.zip", {"mode": "hush"}, r"storage.options \(given: mode"),
    ],
)
def test_an_address_that_nobody_serves_is_refused(
    address: str, options: dict[str, str], says: str
) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    with pytest.raises(ConfigError, match=says) as error:
        place_of(address, options)
    assert "hush" not in str(error.value)
