"""Looks at a machine: its disk, its memory, its hardware errors, its GPUs, and whatever
a program or a plug-in of the user looks at.

A probe is anything with a name and `check`. Each runs in a thread of its own
(checkup.py), so it may wait for a disk that hangs. Others bring their own in a package:

    [project.entry-points."twinstep.probes"]
    fans = "mypackage:FanProbe"      # FanProbe() has a name and a check()

The NVIDIA probe needs `nvidia-ml-py` and was written from NVML's documentation: it has
been tried on no GPU.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from twinstep.agent.wellbeing import Finding, failing, warning
from twinstep.config import Health
from twinstep.store.memory import available_bytes

GROUP = "twinstep.probes"
PLUGINS_MAX = 16
OUTPUT_BYTES_MAX = 4096
KERNEL_BYTES_MAX = 8192
"""One record of the kernel's log; the kernel's own bound."""
KERNEL_RECORDS_MAX = 10_000
FATAL_XIDS = {48, 63, 64, 74, 79, 92, 94, 95, 119, 120}
"""Xid errors that NVIDIA's documentation lays to the hardware: memory, row remapping,
NVLink, a GPU that fell off the bus, GSP. Others are mostly the program's."""
_FATAL = re.compile(r"Uncorrected|Fatal|Machine check events|uncorrectable", re.I)
_HARDWARE = re.compile(r"Hardware Error|\bEDAC\b.*\bUE\b|\bmce: ", re.I)
_WARNED = re.compile(
    r"\bEDAC\b.*\bCE\b|I/O error, dev|Out of memory: Killed process|EXT4-fs error"
    r"|XFS .*error|task \S+ blocked for more than"
)
_XID = re.compile(r"NVRM: Xid \(.*?\): (\d+)")


class Probe(Protocol):
    """One call: there is one question, and who looks decides how."""

    name: str

    def check(self) -> Finding:
        """Returns how the machine is, as far as this probe sees. May wait, and may
        raise: either is told as a warning."""
        ...


@final
class DiskProbe:
    """Whether the disk of the job's folder has space left, and inodes."""

    name = "disk"

    def __init__(self, folder: Path, *, bytes_min: int) -> None:
        self._folder, self._bytes_min = folder, bytes_min

    def check(self) -> Finding:
        stat = os.statvfs(self._folder)
        free = stat.f_bavail * stat.f_frsize
        words = f"{free / 1e6:.0f} MB are free in {self._folder}"
        if free < self._bytes_min:
            return failing(f"{words}, less than {self._bytes_min / 1e6:.0f} MB")
        if stat.f_files and not stat.f_favail:
            return failing(f"no inode is free in {self._folder}")
        return warning(words) if free < 10 * self._bytes_min else Finding()


@final
class MemoryProbe:
    """Whether memory is left, by the computer's count and the control groups'."""

    name = "memory"

    def __init__(
        self, *, bytes_min: int, left: Callable[[], int] = available_bytes
    ) -> None:
        self._bytes_min, self._left = bytes_min, left

    def check(self) -> Finding:
        left = self._left()
        words = f"{left / 1e6:.0f} MB of memory are left"
        if 4 * left < self._bytes_min:
            return failing(words)
        return warning(words) if left < self._bytes_min else Finding()


def kernel_finding(lines: Sequence[str]) -> Finding:
    """What lines of the kernel's log say of the hardware, the gravest of them."""
    warned = ""
    for line in lines:
        xid = _XID.search(line)
        if xid and int(xid[1]) in FATAL_XIDS:
            return failing(line)
        if _HARDWARE.search(line) and _FATAL.search(line):
            return failing(line)
        if xid or _HARDWARE.search(line) or _WARNED.search(line):
            warned = line
    return warning(warned) if warned else Finding()


@final
class ErrorsProbe:
    """Errors of the hardware since the agent started: of memory, by the kernel's
    counters, and what its log says, where it may be read.

    What was found stays found: a machine does not heal by being watched. Only what a
    person should know is told once."""

    name = "errors"

    def __init__(
        self,
        *,
        log: Path = Path("/dev/kmsg"),
        counters: Path = Path("/sys/devices/system/edac/mc"),
    ) -> None:
        self._counters = counters
        self._failed: Finding | None = None
        self._first = self._counts()
        try:
            self._log = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._log, 0, os.SEEK_END)
        except OSError:
            self._log = -1  # not allowed here: the counters must do

    def check(self) -> Finding:
        if self._failed is None:
            found = [self._counted(), kernel_finding(self._lines())]
            worst = max(found, key=lambda finding: finding.level)
            if worst.level < failing("").level:
                return worst
            self._failed = worst
        return self._failed

    def _counts(self) -> dict[str, int]:
        """Errors of memory, by controller: corrected and not."""
        counts: dict[str, int] = {}
        for path in sorted(self._counters.glob("mc*/*e_count")):
            try:
                counts[f"{path.parent.name} {path.name}"] = int(path.read_text())
            except (OSError, ValueError):
                continue
        return counts

    def _counted(self) -> Finding:
        grown = {
            name: count - self._first.get(name, 0)
            for name, count in self._counts().items()
            if count > self._first.get(name, 0)
        }
        words = ", ".join(f"{name} grew by {count}" for name, count in grown.items())
        if any("ue_count" in name for name in grown):
            return failing(f"uncorrected errors of memory: {words}")
        return warning(f"corrected errors of memory: {words}") if grown else Finding()

    def _lines(self) -> list[str]:
        """What the kernel has said since the last look."""
        lines: list[str] = []
        while self._log >= 0 and len(lines) < KERNEL_RECORDS_MAX:
            try:
                record = os.read(self._log, KERNEL_BYTES_MAX)
            except BrokenPipeError:
                continue  # some were overwritten before they were read
            except OSError:
                break
            if not record:
                break
            text = record.decode(errors="replace").partition(";")[2]
            lines.append(text.partition("\n")[0])
        return lines


@final
class NvidiaProbe:
    """GPUs that got hot, lost memory, or are gone, by NVML. Untested on hardware."""

    name = "nvidia"

    def __init__(self, nvml: Any, *, celsius_max: float) -> None:
        self._nvml, self._celsius_max = nvml, celsius_max
        nvml.nvmlInit()
        self._count = int(nvml.nvmlDeviceGetCount())
        self._first = [self._uncorrected(index) for index in range(self._count)]

    def check(self) -> Finding:
        warned: list[str] = []
        for index in range(self._count):
            try:
                device = self._nvml.nvmlDeviceGetHandleByIndex(index)
                celsius = self._nvml.nvmlDeviceGetTemperature(
                    device, self._nvml.NVML_TEMPERATURE_GPU
                )
                errors = self._uncorrected(index) - self._first[index]
            except Exception as error:
                return failing(f"GPU {index}: {error}")
            if errors > 0:
                return failing(f"GPU {index}: {errors} uncorrected errors of memory")
            if celsius > self._celsius_max:
                warned.append(f"GPU {index} has {celsius} degrees Celsius")
        return warning(", ".join(warned)) if warned else Finding()

    def _uncorrected(self, index: int) -> int:
        nvml = self._nvml
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            return int(
                nvml.nvmlDeviceGetTotalEccErrors(
                    device,
                    nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    nvml.NVML_VOLATILE_ECC,
                )
            )
        except Exception:
            return 0  # this GPU counts none


@final
class CommandProbe:
    """The user's own program: it ends with 0 when all is well, 2 when the machine
    fails, else it warns: as programs for monitors do. TWINSTEP_MACHINE in its
    environment is the name of the machine."""

    name = "command"

    def __init__(
        self, command: Sequence[str], *, machine: str = "", timeout_s: float
    ) -> None:
        self._command, self._machine = list(command), machine
        self._timeout_s = timeout_s

    def check(self) -> Finding:
        try:
            done = subprocess.run(
                ["env", f"TWINSTEP_MACHINE={self._machine}", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return warning(f"{self._command[0]} has not ended in {self._timeout_s:g} s")
        except OSError as error:
            return warning(f"{self._command[0]} cannot be started: {error}")
        if done.returncode in (126, 127):  # env(1) found no such program
            return warning(f"{self._command[0]} cannot be started")
        said = done.stdout[:OUTPUT_BYTES_MAX].decode(errors="replace").strip()
        words = said.partition("\n")[0] or f"{self._command[0]} ended with"
        if done.returncode == 0:
            return Finding()
        words = f"{words} ({done.returncode})"
        return failing(words) if done.returncode == 2 else warning(words)


def probes_of(
    health: Health, *, machine: str, folder: Path
) -> tuple[list[Probe], list[str]]:
    """Returns the probes of this machine, and why others that were wanted are not."""
    probes: list[Probe] = []
    if "disk" in health.probes:
        probes.append(DiskProbe(folder, bytes_min=health.disk_bytes_min))
    if "memory" in health.probes:
        probes.append(MemoryProbe(bytes_min=health.memory_left_bytes_min))
    if "errors" in health.probes:
        probes.append(ErrorsProbe())
    if "nvidia" in health.probes:
        try:
            nvml = importlib.import_module("pynvml")
            probes.append(NvidiaProbe(nvml, celsius_max=health.celsius_max))
        except Exception:  # no library, no driver, no GPU: nothing to look at
            pass
    if health.command:
        command, limit_s = health.command, health.check_s_max
        probes.append(CommandProbe(command, machine=machine, timeout_s=limit_s))
    failed: list[str] = []
    entries = importlib.metadata.entry_points(group=GROUP)
    for entry in sorted(entries, key=lambda entry: entry.name)[:PLUGINS_MAX]:
        try:
            probes.append(entry.load()())
        except Exception as error:
            failed.append(f"probe {entry.name}: {type(error).__name__}: {error}")
    return probes, failed
