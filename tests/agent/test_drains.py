"""A machine's part is written from real slots; a storage that hangs holds up nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from queue import Queue
from typing import Any, cast

import orbax.checkpoint
import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from tests.store import parts
from twinstep.agent import actions as do, messages as say
from twinstep.agent.depot import made, tidied
from twinstep.agent.drains import Drains
from twinstep.config import Storage
from twinstep.errors import ConfigError
from twinstep.store.contents import folder_name, names_of
from twinstep.store.memory import Slot, reserve
from twinstep.store.places import Disk, place_of
from twinstep.store.reading import open_step
from twinstep.store.writing import make_whole, write_part
from twinstep.transfer.sender import hash_copy

CHUNK_BYTES = 4096
WAIT_S_MAX = 30.0


class Machine:
    """Machine m0 of two, with a real slot of what it captured at step 12."""

    def __init__(self, **settings: Any) -> None:
        self.storage = Storage(**settings)
        self.scene = Scene(storage=self.storage)
        self.scene.begins(scenes.begin())
        sizes = {0: parts.OWN_BYTES, 2: parts.SHARED_BYTES}
        self.memory = reserve(sizes, available=1 << 30)
        self.slots: dict[tuple[int, int], Slot] = {
            key: self.memory.slot(*key) for key in self.memory
        }
        for shard, data in ((0, parts.own_slot(0, 12)), (2, parts.shared_slot(12))):
            self.slots[shard, 0].view[: len(data)] = data
        self.scene.table.sizes.update(sizes)
        self.heard: Queue[Callable[[], Any]] = Queue()
        self.drains = Drains(
            self.storage,
            self.scene.worker,
            self.slots,
            chunk_bytes=CHUNK_BYTES,
            post=self.heard.put,
        )

    def order(self, *, round: int = 1) -> do.StoreCopies:
        digests = {
            shard: hash_copy(self.slots[shard, 0].view, size, CHUNK_BYTES)
            for shard, size in ((0, parts.OWN_BYTES), (2, parts.SHARED_BYTES))
        }
        return do.StoreCopies(
            round=round,
            term=1,
            step=12,
            captured_in=1,
            machines=2,
            machine_rank=0,
            own=(0,),
            index=0,
            parts=2,
            slots={0: 0, 2: 0},
            digests=digests,
        )

    def says(self) -> say.Stored:
        """What the root is told next."""
        (word,) = of(self.heard.get(timeout=WAIT_S_MAX)(), say.Stored)
        return word


@pytest.fixture
def machine() -> Generator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(**settings: Any) -> Machine:
        made.append(Machine(**settings))
        return made[-1]

    yield make
    for one in made:
        one.drains.stop()
        one.memory.close()


def test_a_part_is_written_from_the_slots(machine: Any, tmp_path: Path) -> None:
    one = machine(path=str(tmp_path))
    one.drains.store(one.order())
    word = one.says()
    assert (word.step, word.failed) == (12, "")
    place = Disk(tmp_path)
    assert word.bytes == place.sizes(folder_name(12))[f"{parts.name(0)}.distcp"]
    parts.write(place, 12, of=[1])
    make_whole(place, step=12, names=[parts.name(0), parts.name(1)])
    step = open_step(place, 12)
    box = next(b for b in step.contents.boxes if b.name == "own.weight" and not b.owner)
    into = bytearray(box.data_bytes)
    step.read(box, memoryview(into))
    assert into == parts.own_slot(0, 12)[parts.HEAD_BYTES :]


def test_the_setting_decides_whose_checkpoint_it_is(
    machine: Any, tmp_path: Path
) -> None:
    one = machine(path=str(tmp_path), format="orbax")
    one.drains.store(one.order())
    assert one.says().failed == ""
    files = Disk(tmp_path).sizes(folder_name(12))
    assert sorted(files) == [f"{parts.name(0)}.chunks", f"{parts.name(0)}.part"]


def test_without_a_setting_the_adapter_decides(machine: Any, tmp_path: Path) -> None:
    one = machine(path=str(tmp_path))
    slot = one.slots[0, 0].view
    slot[: parts.HEAD_BYTES] = parts.own_slot(0, 12, form="orbax")[: parts.HEAD_BYTES]
    one.drains.store(one.order())
    assert one.says().failed == ""
    held = parts.holding(1, form="orbax")
    write_part(Disk(tmp_path), held, name=parts.name(1), now_s=5.0)
    whole = do.MakeWhole(step=12, parts=(parts.name(0), parts.name(1)))
    assert made(one.storage, whole).trouble == ""
    found = orbax.checkpoint.PyTreeCheckpointer().restore(tmp_path / folder_name(12))
    rows = [parts.own_slot(rank, 12)[parts.HEAD_BYTES :] for rank in (0, 1)]
    assert found["own"]["weight"].tobytes() == b"".join(rows)
    assert found["model"]["bias"].tobytes() == parts.shared_slot(12)[96:106]
    # What another attempt left goes, and nothing else.
    (tmp_path / folder_name(12) / "r0-t1-m0.nodes").write_bytes(b"left")
    tidied(one.storage, newest=12)
    assert set(Disk(tmp_path).sizes(folder_name(12))) == set(
        names_of(open_step(Disk(tmp_path), 12).contents)
    )


def test_a_copy_that_is_damaged_in_memory_is_not_written(
    machine: Any, tmp_path: Path
) -> None:
    one = machine(path=str(tmp_path))
    order = one.order()
    one.slots[0, 0].view[parts.HEAD_BYTES] ^= 1
    one.drains.store(order)
    assert "chunk 1 of shard 0 has a wrong checksum" in one.says().failed
    assert Disk(tmp_path).folders() == []


def test_an_error_is_said_on_one_line(machine: Any, refusing: str) -> None:
    one = machine(path=refusing)
    one.drains.store(one.order())
    failed = one.says().failed
    assert failed == f"OSError: {refusing}: ValueError: no room; buy more"


def test_slow_writing_ends_with_its_round(machine: Any, tmp_path: Path) -> None:
    """A byte a second: the part would take an hour."""
    one = machine(path=str(tmp_path), bandwidth_max=1)
    one.drains.store(one.order())
    one.drains.store(one.order(round=1))
    assert one.says().failed == f"{tmp_path} still holds up the write of 12"
    one.drains.stop()
    assert one.says().failed == "Refused: the round is over"
    assert Disk(tmp_path).sizes(folder_name(12)) == {}


@pytest.fixture
def refusing() -> str:
    """A file system of fsspec's that refuses in two lines."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    class Refusing(MemoryFileSystem):
        protocol = "refusing"

        def _open(self, *arguments: Any, **named: Any) -> Any:
            raise ValueError("no room;\n  buy more")

    fsspec.register_implementation("refusing", Refusing, clobber=True)
    return "refusing://run"


@pytest.fixture
def stuck() -> Generator[threading.Event]:
    """A file system of fsspec's, stuck://, that takes nothing until the event."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    from fsspec.implementations.memory import MemoryFileSystem

    goes_on = threading.Event()

    class Stuck(MemoryFileSystem):
        protocol = "stuck"
        store: dict[str, Any] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        def _open(self, *arguments: Any, **named: Any) -> Any:
            assert goes_on.wait(WAIT_S_MAX)
            return super()._open(*arguments, **named)

    fsspec.register_implementation("stuck", Stuck, clobber=True)
    yield goes_on
    goes_on.set()


def test_a_storage_that_hangs_holds_up_neither_the_round_nor_the_next(
    machine: Any, stuck: threading.Event
) -> None:
    one = machine(path="stuck://run")
    one.drains.store(one.order())
    one.drains.stop()  # returns: the round ends
    one.scene.stops(round=2)
    one.scene.begins(scenes.begin(round=2))
    one.drains.store(one.order(round=2))
    word = one.says()
    assert (word.round, word.failed) == (
        2,
        "stuck://run still holds up the write of 12",
    )
    stuck.set()
    assert one.heard.get(timeout=WAIT_S_MAX)() == [], "nobody waits for round 1"
    thread = one.drains._thread
    thread.join(WAIT_S_MAX)
    one.drains.store(one.order(round=2))
    assert one.says().failed == ""
    files = place_of("stuck://run", {}).sizes(folder_name(12))
    assert set(files) == {
        f"{parts.name(0, round=2)}{end}" for end in (".distcp", ".part")
    }


def test_a_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="use one of auto, dcp, orbax"):
        Storage(path="/run", format=cast("Any", "zip"))
