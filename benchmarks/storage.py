"""How fast a step is written to this computer's disk and read back, beside other ways.

    python -m benchmarks.storage [--json FILE] [--folder FOLDER] [--quick]

The same state (a stack of matrices with AdamW's moments, 200 tensors) in each size:

    raw       its bytes, from memory into one file, 1 MiB a write(), fsync; and back
    twinstep  a machine's part from its slot (store/writing.py) and made whole; back
              into plain memory (boxes), and into the live objects (restore)
    dcp       torch.distributed.checkpoint in one process, its own defaults, which are
              one file, one thread, synced; and back into the live objects
    torch     torch.save into a file, fsync; torch.load and load_state_dict

All ways come once in each round, in an order drawn anew; ratios are those of a round.
Each writes, reads what it wrote cold, then warm, and it is removed untimed, so that the
disk holds one state at a time. For a cold read the files are pushed out of the page
cache (posix_fadvise), and mincore() says what share of them stayed; a disk of a
virtual machine may have caches beyond it. Processor seconds are those of the process,
all threads; what the kernel writes out in threads of its own is in nobody's.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn

from benchmarks.steps import spread
from twinstep.adapters.torch import TorchState
from twinstep.capture.manifest import read_manifest
from twinstep.store.memory import Slot
from twinstep.store.places import Disk
from twinstep.store.reading import open_step
from twinstep.store.writing import Holding, make_whole, write_part

STEP = 7
PIECE_BYTES = 1 << 20
PAGE_BYTES = mmap.PAGESIZE
MEGABYTES = (256.0, 1024.0)
TENSORS = 200
REPEATS = 7
FREE_BYTES_MIN = 4_000_000_000
"""What the disk keeps for everybody else."""
WRITES = ("raw", "twinstep", "dcp", "torch")
READS = ("raw", "twinstep boxes", "twinstep restore", "dcp", "torch")
KINDS = {"write": WRITES, "cold read": READS, "warm read": READS}


class State:
    """A model, its optimizer, and slots that hold a step of them."""

    def __init__(self, *, megabytes: float, tensors: int) -> None:
        layers = max(1, tensors // 3)
        width = max(1, round((megabytes * 1e6 / 4 / 3 / layers) ** 0.5))
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Linear(width, width, bias=False) for _ in range(layers))
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.adapter = TorchState({"model": self.model, "optimizer": self.optimizer})
        layout = self.adapter.layout()
        self.own = Slot.create("bench-own", capacity_bytes=layout.own_bytes)
        self.shared = Slot.create("bench-shared", capacity_bytes=layout.shared_bytes)
        self.adapter.copy(
            self.adapter.hold(STEP),
            own=self.own.view,
            shared=self.shared.view,
            shared_range=range(layout.shared_bytes),
        )()
        assert layout.own_bytes >= self.size, "a rank alone shares nothing"
        self.layout = layout
        self.buffer = memoryview(bytearray(b"\1") * self.size)

    @property
    def tensors(self) -> list[torch.Tensor]:
        moments = self.optimizer.state.values()
        states = [state[key] for state in moments for key in ("exp_avg", "exp_avg_sq")]
        return [parameter.detach() for parameter in self.model.parameters()] + states

    @property
    def size(self) -> int:
        """Bytes of the tensors, which all rates are of."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        self.buffer.release()
        self.own.close()
        self.shared.close()


# The ways to write. Each is durable, and in `folder`, when it returns.


def write_raw(state: State, folder: Path) -> None:
    folder.mkdir()
    with (folder / "raw").open("wb", buffering=0) as file:
        for start in range(0, state.size, PIECE_BYTES):
            piece = state.own.view[start : min(start + PIECE_BYTES, state.size)]
            assert file.write(piece) == len(piece)
        os.fsync(file.fileno())


def write_twinstep(state: State, folder: Path) -> None:
    place, name = Disk(folder), "r1-t1-m0"
    own = state.own.view[: state.layout.own_bytes]
    holding = Holding(
        step=STEP,
        captured_in=1,
        machines=1,
        ranks_per_machine=1,
        index=0,
        parts=1,
        own={0: (read_manifest(own), own)},
        shared=[state.shared.view[: state.layout.shared_bytes]],
    )
    write_part(place, holding, name=name, now_s=time.time())
    make_whole(place, step=STEP, names=[name])


def write_dcp(state: State, folder: Path) -> None:
    dcp.save(state.state_dict(), storage_writer=dcp.FileSystemWriter(folder))


def write_torch(state: State, folder: Path) -> None:
    folder.mkdir()
    with (folder / "state.pt").open("wb") as file:
        torch.save(state.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())


# The ways to read what the others wrote.


def read_raw(state: State, folder: Path) -> None:
    with (folder / "raw").open("rb", buffering=0) as file:
        for start in range(0, state.size, PIECE_BYTES):
            file.readinto(state.buffer[start : start + PIECE_BYTES])


def read_boxes(state: State, folder: Path) -> None:
    stored = open_step(Disk(folder), STEP)
    at = 0
    for box in stored.contents.boxes:
        if at + box.data_bytes > len(state.buffer):
            at = 0
        stored.read(box, state.buffer[at : at + box.data_bytes])
        at += box.data_bytes


def read_restore(state: State, folder: Path) -> None:
    stored = open_step(Disk(folder), STEP)
    state.adapter.restore_stored(stored, rank=0, world_size=1)


def read_dcp(state: State, folder: Path) -> None:
    dcp.load(state.state_dict(), storage_reader=dcp.FileSystemReader(folder))


def read_torch(state: State, folder: Path) -> None:
    state.load_state_dict(torch.load(folder / "state.pt", weights_only=True))


Way = Callable[[State, Path], None]
WRITERS: dict[str, Way] = {
    "raw": write_raw,
    "twinstep": write_twinstep,
    "dcp": write_dcp,
    "torch": write_torch,
}
READERS: dict[str, tuple[Way, str]] = {
    "raw": (read_raw, "raw"),
    "twinstep boxes": (read_boxes, "twinstep"),
    "twinstep restore": (read_restore, "twinstep"),
    "dcp": (read_dcp, "dcp"),
    "torch": (read_torch, "torch"),
}
"""With whose files are read."""


# The page cache.


def evict(folder: Path) -> float:
    """The files are not in the page cache afterwards; returns the share that is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    pages = [cached(path) for path in files]
    total = sum(count for _, count in pages)
    return sum(there for there, _ in pages) / max(1, total)


def cached(path: Path) -> tuple[int, int]:
    """Returns how many pages of a file are in memory, and how many it has."""
    size = path.stat().st_size
    if not size:
        return 0, 0
    count = -(-size // PAGE_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    seen = (ctypes.c_ubyte * count)()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapping:
        first = ctypes.c_char.from_buffer(mapping)
        address = ctypes.c_void_p(ctypes.addressof(first))
        failed = libc.mincore(address, ctypes.c_size_t(size), seen)
        del first
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in bytes(seen)), count


def sync_folder(folder: Path) -> None:
    """What was removed is: the journal has it, and no later fsync waits for it."""
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


# Rounds.


def timed(way: Way, state: State, folder: Path) -> dict[str, float]:
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    way(state, folder)
    wall_s = time.perf_counter() - began_s
    cpu_s = time.process_time() - began_cpu_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "gb_per_s": state.size / wall_s / 1e9}


def measure(
    *,
    megabytes: float,
    tensors: int,
    repeats: int,
    folder: Path,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Returns what all ways to write and read one size of state took."""
    load = os.getloadavg()[0]
    state = State(megabytes=megabytes, tensors=tensors)
    free = shutil.disk_usage(folder).free
    if free < state.size * 2 + FREE_BYTES_MIN:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB left; {megabytes:.0f} MB of state need "
            f"twice that and {FREE_BYTES_MIN / 1e9:.0f} GB for others: choose another "
            "--folder, or smaller --megabytes"
        )
    rounds: list[dict[str, dict[str, float]]] = []
    left = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-storage-", dir=folder) as name:
        root = Path(name)
        for way, write in WRITERS.items():  # untimed: imports, first touches
            write(state, root / way)
            shutil.rmtree(root / way)
        for number in range(repeats):
            found: dict[str, dict[str, float]] = {}
            for way in random.Random(number).sample(WRITES, len(WRITES)):
                tell(f"{megabytes:.0f} MB, round {number + 1} of {repeats}: {way}")
                new = root / way
                found[f"write {way}"] = timed(WRITERS[way], state, new)
                for reads, (read, whose) in READERS.items():
                    if whose == way:
                        left = max(left, evict(new))
                        found[f"cold read {reads}"] = timed(read, state, new)
                        found[f"warm read {reads}"] = timed(read, state, new)
                shutil.rmtree(new)
                sync_folder(root)
            rounds.append(found)
    size, count = state.size, len(state.tensors)
    state.close()
    return {
        "bytes": size,
        "tensors": count,
        "load_before": load,
        "cached_share_before_cold": left,
        "ways": summary(rounds),
        "rounds": rounds,
    }


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, ways in KINDS.items():
        for way in ways:
            name = f"{kind} {way}"
            each = [one[name] for one in rounds]
            raw = [one[f"{kind} raw"] for one in rounds]
            pairs = zip(each, raw, strict=True)
            found[name] = {
                "gb_per_s": spread([one["gb_per_s"] for one in each]),
                "ratio": spread([a["gb_per_s"] / b["gb_per_s"] for a, b in pairs]),
                "cpu_s": statistics.median(one["cpu_s"] for one in each),
                "wall_s": statistics.median(one["wall_s"] for one in each),
            }
    return found


def table(found: dict[str, Any]) -> Table:
    title = (
        f"{found['bytes'] / 1e6:.0f} MB in {found['tensors']} tensors, load average "
        f"{found['load_before']:.1f}; {found['cached_share_before_cold']:.1%} cached "
        "before a cold read at most"
    )
    drawn = Table("way", "GB/s", "of raw", "wall, s", "CPU, s", title=title)
    for way, one in found["ways"].items():
        drawn.add_row(
            way,
            "{median:.2f} ({low:.2f} to {high:.2f})".format(**one["gb_per_s"]),
            "{median:.2f} ({low:.2f} to {high:.2f})".format(**one["ratio"]),
            f"{one['wall_s']:.2f}",
            f"{one['cpu_s']:.2f}",
        )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk")
    parser.add_argument("--megabytes", type=float, nargs="+", default=MEGABYTES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="small; means nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # dcp's, of a single process
    sizes = (2.0,) if options.quick else options.megabytes
    console = Console()
    results: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        for megabytes in sizes:
            found = measure(
                megabytes=megabytes,
                tensors=12 if options.quick else TENSORS,
                repeats=2 if options.quick else options.repeats,
                folder=options.folder,
                tell=lambda text: progress.update(task, description=text),
            )
            console.print(table(found))
            results.append(found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
