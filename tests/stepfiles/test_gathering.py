"""A step fetched from the memory of machines over real connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import xxhash

from tests.stepfiles.made import MACHINES, own_slot, shared_region, write_step
from twinstep.agent.messages import CopyInfo, Held, Question
from twinstep.agent.status import MachineStatus, Status
from twinstep.config import Job, Transfer
from twinstep.errors import Refused, UsageError
from twinstep.stepfiles import gathering
from twinstep.stepfiles.exporting import from_memory
from twinstep.stepfiles.gathering import ATTEMPTS_MAX
from twinstep.stepfiles.view import bar
from twinstep.transfer.exchange import refuse, serve_fetch
from twinstep.transfer.frame import (
    PREFIX_BYTES,
    Fetch,
    decode_header,
    encode,
    parse_prefix,
)
from twinstep.transfer.sender import hash_copy
from twinstep.transfer.tcp import TcpChannel
from twinstep.trust.credentials import NONE

CHUNK = 4096
JOB = Job(machines=MACHINES, transfer=Transfer(chunk_bytes=CHUNK))
SHARED_SHARD = MACHINES
FIRST: Any = msgspec.msgpack.Decoder(Question | Fetch)


class Machine:
    """Answers what it holds, and serves it, as an agent does."""

    def __init__(self, name: str, machine_rank: int) -> None:
        self.name, self.machine_rank = name, machine_rank
        self.slots: dict[tuple[int, int], memoryview] = {}
        self.digests: dict[tuple[int, int], bytes] = {}
        self.served: list[tuple[int, int]] = []
        self.refuses: set[tuple[int, int]] = set()
        self.round = 3
        self.told = b""
        """Instead of the digests of what it holds."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accepts)
        self._thread.start()

    def holds(self, shard: int, step: int, view: memoryview) -> None:
        self.slots[shard, step] = view
        self.digests[shard, step] = hash_copy(view, len(view), CHUNK)

    def status(self) -> MachineStatus:
        return MachineStatus(
            machine=self.name,
            machine_rank=self.machine_rank,
            host="127.0.0.1",
            port=self.port,
            group=1,
            ranks={self.machine_rank: 1},
            holds=[],
        )

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _accepts(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(connection,)).start()

    def _attend(self, connection: socket.socket) -> None:
        raw = connection.recv(PREFIX_BYTES, socket.MSG_WAITALL)
        prefix = parse_prefix(raw, header_bytes_max=4096, payload_bytes_max=0)
        raw = connection.recv(prefix.header_bytes, socket.MSG_WAITALL)
        fetch = decode_header(prefix, raw, FIRST)
        if isinstance(fetch, Question):
            connection.sendall(encode(self._held()))
            connection.close()
            return
        channel = TcpChannel(connection, limits=JOB.transfer, deadline_s=10)
        key = (fetch.shard, fetch.step)
        fenced = (fetch.round, fetch.term, fetch.captured_in) != (self.round, 1, 1)
        if fenced or key not in self.slots or key in self.refuses:
            refuse(channel, f"no copy of shard {fetch.shard} at {fetch.step} here")
        else:
            self.served.append(key)
            view = self.slots[key]
            serve_fetch(
                channel,
                fetch,
                view=view,
                size=len(view),
                chunk_bytes=CHUNK,
                digests=self.digests[key],
            )
        channel.close()

    def _held(self) -> Held:
        return Held(
            machine=self.name,
            round=self.round,
            term=1,
            machine_rank=self.machine_rank,
            keep=0,
            reached=16,
            copies=[
                CopyInfo(
                    shard=shard,
                    step=step,
                    captured_in=1,
                    digest=xxhash.xxh3_128_digest(self.told or digests),
                    size=len(self.slots[shard, step]),
                )
                for (shard, step), digests in self.digests.items()
            ],
        )


class View:
    """The job's store, which tells who its machines are."""

    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines
        self.job: Any = SimpleNamespace(name="job", job=JOB)
        self.credentials = NONE

    def status(self) -> Status:
        machines = [machine.status() for machine in self.machines]
        sizes = {rank: len(own_slot(rank, step=1)) for rank in range(MACHINES)}
        return Status(
            at_s=0.0,
            phase="training",
            phase_since_s=0.0,
            root="m0",
            round=3,
            term=1,
            step=16,
            safe=15,
            waiting_for=[],
            machines=machines,
            sizes={**sizes, SHARED_SHARD: len(shared_region())},
            shared=True,
            copies=2,
            recoveries=0,
            restored_step=0,
        )


@pytest.fixture
def job() -> Iterator[View]:
    """Two machines that hold steps 12 and 15, each its own and the other's."""
    machines = [Machine(f"m{place}", place) for place in range(MACHINES)]
    for machine in machines:
        for step in (12, 15):
            for rank in range(MACHINES):
                machine.holds(rank, step, own_slot(rank, step=step))
            machine.holds(SHARED_SHARD, step, shared_region())
    yield View(machines)
    for machine in machines:
        machine.close()


def export(job: Any, out: Path, *, step: int | None = None, form: str = "dcp"):
    said: list[str] = []
    done = from_memory(job, out, step=step, form=form, bar=bar, say=said.append)
    return done, said


def test_the_newest_step_in_memory_becomes_a_directory(job, tmp_path: Path) -> None:
    contents, said = export(job, tmp_path / "out")
    assert (contents.step, said) == (15, [])
    _, same = write_step(tmp_path / "same", step=15)
    assert {(b.name, b.offsets, b.owner, b.digest) for b in contents.boxes} == {
        (b.name, b.offsets, b.owner, b.digest) for b in same.boxes
    }
    served = [machine.served for machine in job.machines]
    own = [[key for key in keys if key[0] < MACHINES] for keys in served]
    assert own == [[(0, 15)], [(1, 15)]], "each from its own machine, once"
    assert sum(keys.count((SHARED_SHARD, 15)) for keys in served) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_step_by_its_number_becomes_safetensors(job, tmp_path: Path) -> None:
    contents, _ = export(job, tmp_path / "out", step=12, form="safetensors")
    assert contents.step == 12
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_step_in_memory_becomes_a_checkpoint_of_orbax(job, tmp_path: Path) -> None:
    export(job, tmp_path / "out", form="orbax")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"_METADATA", "manifest.ocdbt", ".twinstep"} < names
    assert ".metadata" not in names


def test_a_twin_is_asked_where_the_own_machine_refuses(job, tmp_path: Path) -> None:
    job.machines[0].refuses.add((0, 15))
    contents, _ = export(job, tmp_path / "out")
    assert contents.step == 15 and (0, 15) in job.machines[1].served


def test_a_step_that_is_overwritten_gives_way_to_the_newest(
    job, tmp_path: Path
) -> None:
    """While it is fetched, one shard of it is gone everywhere, and step 16 is whole."""
    real = View.status

    def then_16(view: View) -> Status:
        if not any(machine.served for machine in view.machines):
            for machine in view.machines:
                machine.refuses.add((1, 15))
        else:
            for machine in view.machines:
                for rank in range(MACHINES):
                    machine.holds(rank, 16, own_slot(rank, step=16))
                machine.holds(SHARED_SHARD, 16, shared_region())
        return real(view)

    job.status = lambda: then_16(job)
    contents, said = export(job, tmp_path / "out")
    assert contents.step == 16
    assert len(said) == 1 and "step 15 is gone meanwhile" in said[0]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.distcp")) == [
        "r3-t1-m0.distcp",
        "r3-t1-m1.distcp",
    ]


def test_machines_are_fetched_one_after_the_other_and_nothing_stays_of_a_failure(
    job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "AHEAD_BYTES", 0)
    for machine in job.machines:
        machine.refuses.add((1, 15))
    there: list[list[str]] = []

    def watched(name: str, size: int):
        there.append([path.name for path in tmp_path.rglob("*.distcp")])
        if len(there) == 2:
            for machine in job.machines:
                machine.refuses.clear()
        return bar(name, size)

    done = from_memory(
        job, tmp_path / "out", step=None, form="dcp", bar=watched, say=lambda _: None
    )
    assert (done.step, there[:2]) == (15, [[], []])
    machine = job.machines[0]
    assert machine.served.count((0, 15)) == 2, "written before the other was fetched"


def test_bytes_that_changed_in_a_slot_are_never_written(job, tmp_path: Path) -> None:
    """Captured anew under way: on both machines, so that no twin helps."""
    for machine in job.machines:
        machine.slots[0, 15][-1] ^= 1
    with pytest.raises(Refused, match=f"so {ATTEMPTS_MAX} times in a row"):
        export(job, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_copy_than_was_chosen_is_not_taken(job, tmp_path: Path) -> None:
    for machine in job.machines:
        machine.told = b"of the copy that was there when they were asked"
    with pytest.raises(Refused, match="copy of shard . is another one"):
        export(job, tmp_path / "out")


def test_another_round_is_fenced_off(job, tmp_path: Path) -> None:
    for machine in job.machines:
        machine.round = 4
    with pytest.raises(Refused, match="no copy of shard"):
        export(job, tmp_path / "out")


def test_a_step_that_is_not_there_is_refused_with_those_that_are(
    job, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="step 13 is not in .* it has 12, 15 whole"):
        export(job, tmp_path / "out", step=13)
    for machine in job.machines:
        machine.digests.clear()
    with pytest.raises(UsageError, match="has no step to export"):
        export(job, tmp_path / "out")
