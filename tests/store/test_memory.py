"""Slots are whole, sealed, shared by descriptor, and refused when they do not fit."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest

from twinstep.errors import DoesNotFit, ProtocolError
from twinstep.store import memory
from twinstep.store.memory import Slot

PAGE = mmap.PAGESIZE
MB = 1_000_000


def descriptors() -> set[str]:
    """The slots this process has open, by descriptor and name."""
    found: set[str] = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if "twinstep-" in name:
            found.add(f"{fd} {name}")
    return found


def test_a_slot_is_whole_pages_named_and_touched() -> None:
    slot = Slot.create("twinstep-5-1", capacity_bytes=3 * PAGE + 1)
    assert slot.size == 4 * PAGE == len(slot.view)
    assert "twinstep-5-1" in os.readlink(f"/proc/self/fd/{slot.fd}")
    # Blocks of 512 bytes: the memory is there, before anything was written.
    assert os.fstat(slot.fd).st_blocks * 512 >= slot.size
    slot.close()


def test_a_slot_is_touched_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python holds its lock during each, and a lease must be renewed in between."""
    monkeypatch.setattr(memory, "_TOUCH_BYTES", 2 * PAGE)
    steps: list[tuple[int, int]] = []
    real = memory.mmap.mmap

    class Mapping(real):
        def madvise(self, option: int, *span: int) -> None:
            if option == memory._MADV_POPULATE_WRITE:
                start, length = span
                steps.append((start, length))
            super().madvise(option, *span)

    monkeypatch.setattr(memory.mmap, "mmap", Mapping)
    slot = Slot.create("twinstep-0-0", capacity_bytes=5 * PAGE)
    assert steps == [(0, 2 * PAGE), (2 * PAGE, 2 * PAGE), (4 * PAGE, PAGE)]
    assert os.fstat(slot.fd).st_blocks * 512 >= slot.size
    slot.close()


def test_two_holders_see_the_same_bytes() -> None:
    before = descriptors()
    slot = Slot.create("twinstep-0-0", capacity_bytes=PAGE)
    slot.view[:5] = b"state"
    other = memory.adopt(os.dup(slot.fd))
    assert other.view[:5] == b"state", "adopting must not clear what is there"
    other.view[5:7] = b"!!"
    slot.close()
    assert other.view[:7] == b"state!!"
    other.close()
    assert descriptors() == before


def test_no_holder_can_cut_a_slot_under_another() -> None:
    slot = Slot.create("twinstep-0-0", capacity_bytes=4 * PAGE)
    for size in (0, PAGE, 8 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(slot.fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(slot.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    slot.close()


def test_a_descriptor_that_could_shrink_is_not_adopted(tmp_path: Path) -> None:
    bare = os.memfd_create("bare", os.MFD_ALLOW_SEALING)
    os.ftruncate(bare, PAGE)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for fd in (bare, file):
        with pytest.raises(ProtocolError, match="not sealed"):
            memory.adopt(fd)
        os.close(fd)
    empty = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(empty, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with pytest.raises(ProtocolError, match="empty"):
        memory.adopt(empty)
    os.close(empty)


def test_closing_while_somebody_reads_is_safe() -> None:
    slot = Slot.create("twinstep-0-0", capacity_bytes=PAGE)
    slot.view[:3] = b"abc"
    reader = slot.view[:3]
    slot.close()
    slot.close()
    assert reader == b"abc"


def test_a_reservation_is_exactly_two_slots_a_shard() -> None:
    before = descriptors()
    reservation = memory.reserve(
        {0: PAGE, 4: 10 * PAGE - 1}, available=100 * PAGE, margin_bytes=0
    )
    assert sorted(reservation) == [(0, 0), (0, 1), (4, 0), (4, 1)]
    assert reservation.reserved_bytes == 22 * PAGE
    assert reservation.reserved_bytes == sum(
        os.fstat(reservation.slot(*key).fd).st_size for key in reservation
    )
    assert len(descriptors() - before) >= len(reservation) == 4
    reservation.close()
    assert descriptors() == before


def test_what_is_written_to_storage_has_a_third_slot() -> None:
    made = memory.reserve({0: PAGE, 1: PAGE}, spare=[1], available=1 << 30)
    assert sorted(made) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    third = memory.reserve({0: 2 * PAGE}, third=True, available=1 << 30)
    assert sorted(third) == [(0, 2)]
    assert (made.reserved_bytes, third.reserved_bytes) == (5 * PAGE, 2 * PAGE)
    for one in (made, third):
        one.close()


def test_a_third_slot_is_in_the_sum() -> None:
    with pytest.raises(DoesNotFit) as error:
        memory.reserve({0: MB, 1: 2 * MB}, spare=[1], available=MB, margin_bytes=0)
    assert "2 slots x (shard 0: 1.00 MB) + 3 slots x (shard 1: 2.00 MB)" in str(
        error.value
    )


def test_what_fits_exactly_is_reserved_and_a_byte_less_is_refused() -> None:
    memory.reserve({0: PAGE}, available=3 * PAGE, margin_bytes=PAGE).close()
    with pytest.raises(DoesNotFit):
        memory.reserve({0: PAGE}, available=3 * PAGE - 1, margin_bytes=PAGE)


def test_what_does_not_fit_is_refused_with_the_sum_and_not_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Slot, "create", lambda **_: pytest.fail("allocated"))
    gigabyte = 1_000_001_536  # whole pages
    with pytest.raises(DoesNotFit) as caught:
        memory.reserve(
            {0: gigabyte, 4: 3 * gigabyte}, available=8 * gigabyte, margin_bytes=MB
        )
    assert str(caught.value) == (
        "2 slots x (shard 0: 1.00 GB + shard 4: 3.00 GB) = 8.00 GB, and 1.00 MB are "
        "left for the rest, but 8.00 GB are available; lower copies, train on more "
        "machines, or give this one more memory"
    )


def test_a_long_sum_is_cut() -> None:
    with pytest.raises(DoesNotFit, match=r"shard 6: .* \+ 93 more\)"):
        memory.reserve(dict.fromkeys(range(100), PAGE), available=0)


def test_when_the_kernel_says_no_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, create, made = descriptors(), Slot.create, []

    def third_fails(name: str, **options: int) -> Slot:
        if len(made) == 2:
            raise OSError(12, "Cannot allocate memory")
        made.append(create(name, **options))
        return made[-1]

    monkeypatch.setattr(Slot, "create", third_fails)
    with pytest.raises(DoesNotFit, match="the kernel said: .*Cannot allocate"):
        memory.reserve({0: PAGE, 1: PAGE}, available=1 << 30)
    assert len(made) == 2 and descriptors() == before


def computer(root: Path, *, available_mb: int, cgroup: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: 99999999 kB\nMemAvailable: {available_mb * 1000} kB\n"
    )
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(path: Path, **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / f"memory.{name}").write_text(text + "\n")


def test_without_limits_it_is_what_the_computer_has(tmp_path: Path) -> None:
    root = computer(tmp_path, available_mb=100, cgroup="0::/\n")
    assert memory.available_bytes(root=root) == 100 * 1000 * 1024


@pytest.mark.parametrize("mount", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
def test_the_tightest_group_of_version_2_counts(tmp_path: Path, mount: str) -> None:
    root = computer(tmp_path, available_mb=100, cgroup="0::/job/agent\n")
    group(root / mount, current="7")  # the root group has no limit
    group(root / mount / "job", max="30000000", current="12000000", stat="anon 5")
    group(root / mount / "job/agent", max="max", current="11000000")
    assert memory.available_bytes(root=root) == 18 * MB
    group(
        root / mount / "job/agent",
        max="15000000",
        stat="active_file 9\ninactive_file 2000000",
    )
    assert memory.available_bytes(root=root) == 6 * MB


def test_the_tightest_group_of_version_1_counts(tmp_path: Path) -> None:
    lines = "9:name=systemd:/\n4:cpu,memory:/slurm/job\n0::/\n"
    root = computer(tmp_path, available_mb=100, cgroup=lines)
    mount = root / "sys/fs/cgroup/memory"
    group(mount, limit_in_bytes=str(2**63 - 4096), usage_in_bytes="5")
    group(mount / "slurm", limit_in_bytes="40000000", usage_in_bytes="30000000")
    assert memory.available_bytes(root=root) == 10 * MB
    group(mount / "slurm", stat="inactive_file 1\ntotal_inactive_file 3000000")
    assert memory.available_bytes(root=root) == 13 * MB


def test_a_container_sees_its_group_at_the_mount(tmp_path: Path) -> None:
    root = computer(tmp_path, available_mb=100, cgroup="0::/host/path/of/container\n")
    group(root / "sys/fs/cgroup", max="20000000", current="5000000")
    assert memory.available_bytes(root=root) == 15 * MB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = computer(tmp_path, available_mb=100, cgroup="0::/\n")
    group(root / "sys/fs/cgroup", max="20000000", current="25000000")
    assert memory.available_bytes(root=root) == 0


def test_this_computer_has_memory() -> None:
    assert memory.available_bytes() > 0
