"""Injuries hit who is named and nobody else, with processes of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from twinstep import inject
from twinstep.agent.status import MachineStatus, Status
from twinstep.errors import UsageError
from twinstep.store.memory import reserve

AGENT = "import sys; print('up', flush=True); sys.stdin.read()"
MARGIN = {"available": 1 << 30, "margin_bytes": 0}


def status_of(*machines: MachineStatus, root: str = "m00") -> Status:
    return Status(
        at_s=0.0,
        phase="training",
        phase_since_s=0.0,
        root=root,
        round=1,
        term=1,
        step=1,
        safe=1,
        waiting_for=[],
        machines=list(machines),
        sizes={0: 5000, 1: 100},
        shared=False,
        copies=1,
        recoveries=0,
        restored_step=0,
    )


def machine(
    name: str = "m00", place: int = 0, group: int = 0, **ranks: int
) -> MachineStatus:
    return MachineStatus(
        machine=name,
        machine_rank=place,
        host="127.0.0.1",
        port=0,
        group=group,
        ranks={int(rank.removeprefix("rank")): pid for rank, pid in ranks.items()},
        holds=[],
    )


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, with these words on its command line."""
    child = subprocess.Popen(
        [sys.executable, "-c", AGENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == b"up\n"
        yield child
    finally:
        child.kill()
        child.communicate(timeout=10)


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    with process("twinstep.cloud.start", "/job", "m00") as child:
        yield child


def test_a_rank_is_killed(agent: subprocess.Popen[bytes]) -> None:
    status = status_of(machine(group=agent.pid, rank3=agent.pid))
    injury = inject.kill_rank(status, 3)
    assert agent.wait(10) == -signal.SIGKILL
    assert (injury.kind, injury.who) == ("kill-rank", "rank 3")


def test_a_rank_is_stopped(agent: subprocess.Popen[bytes]) -> None:
    inject.stop_rank(status_of(machine(group=agent.pid, rank0=agent.pid)), 0)
    _, how = os.waitpid(agent.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(how)


def test_a_rank_that_does_not_run_is_named() -> None:
    with pytest.raises(UsageError, match=r"rank 7 does not run now; running: \[0\]"):
        inject.kill_rank(status_of(machine(rank0=1)), 7)


def test_a_process_that_is_somebody_elses_by_now_is_spared(
    agent: subprocess.Popen[bytes],
) -> None:
    with process("an innocent") as other:
        status = status_of(machine(group=agent.pid, rank0=other.pid))
        with pytest.raises(UsageError, match="is not rank 0 any more"):
            inject.kill_rank(status, 0)
        assert other.poll() is None
        with pytest.raises(UsageError, match=r"m00 .* is gone"):
            inject.kill_machine(status_of(machine(group=other.pid)), "m00")
        assert other.poll() is None


def test_a_rank_that_is_gone_is_said_to_be(agent: subprocess.Popen[bytes]) -> None:
    agent.kill()
    agent.wait(10)
    with pytest.raises(UsageError, match="is gone"):
        inject.kill_rank(status_of(machine(group=agent.pid, rank0=agent.pid)), 0)


def test_a_machine_is_killed_whole(agent: subprocess.Popen[bytes]) -> None:
    injury = inject.kill_machine(status_of(machine(group=agent.pid)), "0")
    assert agent.wait(10) == -signal.SIGKILL
    assert injury.who == "m00"


def test_a_machine_is_found_by_name_rank_or_as_root() -> None:
    status = status_of(machine("m00", 0), machine("m07", 1), root="m07")
    found = [inject.find_machine(status, name).machine for name in ("m07", "1", "root")]
    assert found == ["m07"] * 3
    with pytest.raises(UsageError, match=r"no machine 'm09'; there are: m00, m07"):
        inject.find_machine(status, "m09")


@pytest.mark.parametrize(("offset", "at"), [(-1, 4999), (0, 0), (4096, 4096)])
def test_one_bit_of_both_slots_is_flipped(
    offset: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "live_group", lambda found: found.group)
    reservation = reserve({0: 5000, 1: 100}, **MARGIN)
    try:
        status = status_of(machine(group=os.getpid()))
        injury = inject.corrupt_copy(status, "m00", shard=0, offset=offset)
        assert "2 slots" in injury.detail
        for slot in range(2):
            view = reservation.slot(0, slot).view
            assert [i for i, byte in enumerate(view) if byte] == [at]
            assert view[at].bit_count() == 1
            assert not any(reservation.slot(1, slot).view)
        assert injury.lasts()
        reservation.slot(0, 1).view[at] = 0
        assert not injury.lasts(), "the next step was written over it"
        for wrong in (-5001, 1 << 20):
            with pytest.raises(UsageError, match="outside"):
                inject.corrupt_copy(status, "m00", shard=0, offset=wrong)
        with pytest.raises(UsageError, match=r"no slot of shard 5; it has .*\[0, 1\]"):
            inject.corrupt_copy(status, "m00", shard=5)
    finally:
        reservation.close()


def test_what_is_no_slot_is_not_taken_for_one() -> None:
    """A rank has memory for its stacks, whose name begins alike."""
    stacks = os.memfd_create("twinstep-stacks")
    reservation = reserve({3: 100}, **MARGIN)
    try:
        found = inject.all_slots(os.getpid())
        assert {shard for shard, _ in found} == {3}
        assert len(inject.slots_of(os.getpid(), 3)) == 2
    finally:
        reservation.close()
        os.close(stacks)


def test_a_status_survives_the_store() -> None:
    status = status_of(machine(group=4, rank0=11, rank1=12))
    raw = msgspec.json.encode(status)
    assert msgspec.json.decode(raw, type=Status) == status
