"""Probes look at real disks, counters and programs, and each in its own thread."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from twinstep.agent import probes
from twinstep.agent.checkup import Checkup
from twinstep.agent.wellbeing import Finding, Level, failing
from twinstep.config import Health
from twinstep.errors import ConfigError


def test_the_disk_of_a_folder(tmp_path: Path) -> None:
    assert probes.DiskProbe(tmp_path, bytes_min=1).check() == Finding()
    found = probes.DiskProbe(tmp_path, bytes_min=1 << 60).check()
    assert found.level is Level.FAILING and str(tmp_path) in found.words
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize
    nearly = probes.DiskProbe(tmp_path, bytes_min=free // 5).check()
    assert nearly.level is Level.WARNING


@pytest.mark.parametrize(
    ("left", "level"), [(100, Level.OK), (99, Level.WARNING), (24, Level.FAILING)]
)
def test_the_memory_that_is_left(left: int, level: Level) -> None:
    probe = probes.MemoryProbe(bytes_min=100, left=lambda: left)
    assert probe.check().level is level
    assert probes.MemoryProbe(bytes_min=1).check() == Finding(), "this machine's"


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("usb 1-1: new device", Level.OK),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus", Level.FAILING),
        ("NVRM: Xid (PCI:0000:3b:00): 31, MMU fault", Level.WARNING),
        ("mce: [Hardware Error]: Machine check events logged", Level.FAILING),
        ("{1}[Hardware Error]: event severity: corrected", Level.WARNING),
        ("EDAC MC0: 1 UE memory read error: uncorrectable", Level.FAILING),
        ("EDAC MC0: 1 CE memory read error", Level.WARNING),
        ("blk_update_request: I/O error, dev sda, sector 1", Level.WARNING),
        ("Out of memory: Killed process 4711 (python)", Level.WARNING),
    ],
)
def test_what_the_kernel_says_of_the_hardware(line: str, level: Level) -> None:
    found = probes.kernel_finding(["audit: nothing", line, "audit: nothing"])
    assert found.level is level
    assert found.words == ("" if level is Level.OK else line)


def test_errors_since_the_start_are_counted_and_stay(tmp_path: Path) -> None:
    (controller := tmp_path / "mc0").mkdir()
    (controller / "ue_count").write_text("7\n")
    (controller / "ce_count").write_text("0\n")
    (log := tmp_path / "kmsg").write_text("3,1,5,-;EDAC MC0: 1 UE uncorrectable old\n")
    probe = probes.ErrorsProbe(log=log, counters=tmp_path)
    assert probe.check() == Finding(), "what was before is nobody's matter"
    (controller / "ce_count").write_text("2\n")
    assert probe.check().words == "corrected errors of memory: mc0 ce_count grew by 2"
    (controller / "ue_count").write_text("8\n")
    assert probe.check().level is Level.FAILING
    (controller / "ue_count").write_text("7\n")
    assert probe.check().level is Level.FAILING, "it does not heal"


def test_the_kernels_log_is_read_from_the_start_of_the_agent_on(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("")
    probe = probes.ErrorsProbe(log=log, counters=tmp_path)
    with log.open("a") as file:
        file.write("3,2,9,-;NVRM: Xid (PCI:1): 79, off the bus\n SUBSYSTEM=pci\n")
    assert probe.check().words == "NVRM: Xid (PCI:1): 79, off the bus"
    unread = probes.ErrorsProbe(log=tmp_path / "none", counters=tmp_path)
    assert unread.check() == Finding(), "where it may not be read"


def test_records_that_were_overwritten_before_they_were_read_are_passed_over(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "kmsg").write_text("")
    probe = probes.ErrorsProbe(log=tmp_path / "kmsg", counters=tmp_path)
    reads = iter([BrokenPipeError(), b"3,2,9,-;NVRM: Xid (PCI:1): 79, lost\n", b""])

    def read(_file: int, _count: int) -> bytes:
        found = next(reads)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(probes.os, "read", read)
    assert probe.check().level is Level.FAILING


class Gpu:
    """As much of pynvml as the probe uses; made from its documentation."""

    NVML_TEMPERATURE_GPU = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = NVML_VOLATILE_ECC = 0

    def __init__(self) -> None:
        self.celsius, self.errors, self.lost = 60, 3, False

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if self.lost:
            raise RuntimeError("GPU is lost")
        return index

    def nvmlDeviceGetTemperature(self, device: int, kind: int) -> int:
        return self.celsius

    def nvmlDeviceGetTotalEccErrors(self, device: int, kind: int, since: int) -> int:
        return self.errors


def test_a_gpu_that_is_hot_or_lost_or_forgets() -> None:
    gpu = Gpu()
    probe = probes.NvidiaProbe(gpu, celsius_max=90.0)
    assert probe.check() == Finding()
    gpu.celsius = 95
    assert probe.check().words == "GPU 0 has 95 degrees Celsius"
    gpu.errors = 5
    assert probe.check() == failing("GPU 0: 2 uncorrected errors of memory")
    gpu.lost = True
    assert probe.check() == failing("GPU 0: GPU is lost")


@pytest.mark.parametrize(
    ("code", "level", "words"),
    [
        ("print('fine')", Level.OK, ""),
        ("print('warm'); print('more'); exit(1)", Level.WARNING, "warm (1)"),
        ("print('broken'); exit(2)", Level.FAILING, "broken (2)"),
        ("print('odd'); exit(77)", Level.WARNING, "odd (77)"),
        ("import os; os.abort()", Level.WARNING, "(-6)"),
        ("import time; time.sleep(60)", Level.WARNING, "has not ended in 0.5 s"),
    ],
)
def test_a_program_says_how_the_machine_is(code: str, level: Level, words: str) -> None:
    found = probes.CommandProbe([sys.executable, "-c", code], timeout_s=0.5).check()
    assert found.level is level and words in found.words, found


def test_a_program_is_told_the_machine() -> None:
    command = ["sh", "-c", "echo $TWINSTEP_MACHINE; exit 2"]
    found = probes.CommandProbe(command, machine="m7", timeout_s=5.0).check()
    assert found.words == "m7 (2)"


def test_a_program_that_is_not_there_is_a_warning() -> None:
    found = probes.CommandProbe(["/nowhere/probe"], timeout_s=1.0).check()
    assert found.level is Level.WARNING and "cannot be started" in found.words


def test_which_probes_there_are(tmp_path: Path, monkeypatch) -> None:
    def fans() -> object:
        return SimpleNamespace(name="fans", check=Finding)

    def broken() -> object:
        raise OSError("no such sensor")

    entries = [
        SimpleNamespace(name="fans", load=lambda: fans),
        SimpleNamespace(name="broken", load=lambda: broken),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    health = Health(command=("true",))
    found, failed = probes.probes_of(health, machine="m1", folder=tmp_path)
    names = [probe.name for probe in found]
    assert [n for n in names if n != "nvidia"] == [
        "disk",
        "memory",
        "errors",
        "command",
        "fans",
    ]
    assert failed == ["probe broken: OSError: no such sensor"]
    few, _ = probes.probes_of(Health(probes=("memory",)), machine="m1", folder=tmp_path)
    assert [probe.name for probe in few] == ["memory", "fans"]
    with pytest.raises(ConfigError, match="names gpu; known are disk, memory"):
        Health(probes=("gpu",))


class Stub:
    name = "stub"

    def __init__(self, check: Callable[[], Finding]) -> None:
        self.check = check


def checked(check: Callable[[], Finding], **health: float) -> list[tuple[str, list]]:
    """What is told in half a second of a probe that looks every 20 ms."""
    told: list[tuple[str, list[str]]] = []
    settings = Health(**({"check_s": 0.02, "check_s_max": 0.1} | health))
    one = Checkup(
        [Stub(check)],
        settings,
        post=lambda work: work(),
        on_change=lambda failing, warnings: told.append((failing, warnings)),
    )
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        one.tick()
        time.sleep(0.01)
    one.close()
    return told


def test_what_changes_is_told_once() -> None:
    assert checked(lambda: failing("broken")) == [
        ("", ["stub: broken"]),
        ("stub: broken", []),
    ]
    assert checked(Finding) == []


def test_a_probe_that_raises_is_a_warning() -> None:
    assert checked(lambda: 1 / 0) == [
        ("", ["stub: ZeroDivisionError: division by zero"])
    ]


def test_a_probe_that_hangs_is_said_to_be_late_and_looks_no_second_time() -> None:
    came, going = [], threading.Event()

    def hang() -> Finding:
        came.append(1)
        going.wait(5.0)
        return Finding()

    assert checked(hang) == [("", ["stub: has not answered for 0.1 s"])]
    assert came == [1]
    going.set()
