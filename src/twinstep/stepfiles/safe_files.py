"""Writes a stored step as safetensors: a file an object, or several and an index.

    OUT/optimizer.safetensors
    OUT/model-00001-of-00002.safetensors
    OUT/model-00002-of-00002.safetensors
    OUT/model.safetensors.index.json       which tensor is in which file

Names and index are those that Hugging Face's libraries look for. The library that
writes a file wants all of it at addresses, so tensors are put together one after the
other in a file of scratch that is mapped into memory: the kernel may write it out, and
the memory needed is one box. Small values (learning rates, counts) are not in it:
safetensors has tensors only.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twinstep.capture.snapshot import address_of
from twinstep.errors import StateError, UsageError
from twinstep.stepfiles.tensors import Whole, assemble, wholes
from twinstep.stepfiles.windows import Tick
from twinstep.store.stored import StoredStep

FILE_BYTES_MAX = 5_000_000_000
"""Of the tensors of one file, unless one alone is larger: as Hugging Face cuts."""
UNKNOWN = ("complex32", "complex128")
"""dtypes that safetensors has no name for."""


def library() -> Any:
    """Returns the library safetensors. Raises: UsageError when it is not there."""
    try:
        found: Any = importlib.import_module("safetensors")
    except ImportError as error:
        raise UsageError(
            "--format safetensors needs a library: pip install "
            "'twinstep[safetensors]', or use --format dcp"
        ) from error
    if not hasattr(found, "TensorSpec"):
        raise UsageError(
            f"safetensors {found.__version__} is too old to write from memory that is "
            "mapped; pip install 'twinstep[safetensors]' brings a newer one"
        )
    return found


def write_safetensors(
    step: StoredStep,
    folder: Path,
    *,
    tick: Tick,
    file_bytes_max: int = FILE_BYTES_MAX,
) -> list[str]:
    """The folder has the step's tensors afterwards; returns the files' names.

    Raises: UsageError without the library; StateError for a dtype that safetensors
    does not have; Corrupt; OSError."""
    safetensors = library()
    objects: dict[str, list[Whole]] = {}
    for whole in wholes(step):
        if whole.dtype in UNKNOWN:
            raise StateError(
                f"{whole.object}.{whole.key} is {whole.dtype}, which safetensors does "
                "not have; use --format dcp"
            )
        objects.setdefault(whole.object, []).append(whole)
    scratch = folder / ".scratch"
    written: list[str] = []
    for name, tensors in zip(file_names(objects), objects.values(), strict=True):
        groups = list(grouped(tensors, bytes_max=file_bytes_max))
        index: dict[str, str] = {}
        for number, group in enumerate(groups, 1):
            part = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
            file = f"{name}{part}.safetensors"
            _write(safetensors, step, group, folder / file, scratch, tick)
            index |= {whole.key: file for whole in group}
            written.append(file)
        if len(groups) > 1:
            total = sum(whole.size for whole in tensors)
            table = {"metadata": {"total_size": total}, "weight_map": index}
            file = f"{name}.safetensors.index.json"
            (folder / file).write_text(json.dumps(table, indent=2) + "\n")
            written.append(file)
    return written


def grouped(tensors: Sequence[Whole], *, bytes_max: int) -> Iterator[list[Whole]]:
    """Yields the tensors of each file, in order; only one that is alone passes
    `bytes_max`."""
    group: list[Whole] = []
    size = 0
    for whole in tensors:
        if group and size + whole.size > bytes_max:
            yield group
            group, size = [], 0
        group.append(whole)
        size += whole.size
    if group:
        yield group


def file_names(objects: Sequence[str] | dict[str, Any]) -> list[str]:
    """Returns a name for the files of each object, no two alike, whatever it is
    called."""
    names: list[str] = []
    for name in objects:
        safe = re.sub(r"[^\w-]", "_", name)[:200] or "_"
        taken = safe
        while taken in names:
            taken = f"{safe}_{len(names)}"
        names.append(taken)
    return names


def _write(
    safetensors: Any,
    step: StoredStep,
    group: Sequence[Whole],
    file: Path,
    scratch: Path,
    tick: Tick,
) -> None:
    size = max(1, sum(whole.size for whole in group))
    with open(scratch, "w+b") as under:
        under.truncate(size)
        # Unmapped with its last user, which an error may keep for a while.
        view = memoryview(mmap.mmap(under.fileno(), size))
    specs = _assembled(safetensors, step, group, view, tick)
    about = {"format": "pt", "step": str(step.contents.step)}
    safetensors.serialize_file(specs, str(file), metadata=about)
    shutil.copymode(scratch, file)  # the library writes for this user alone
    scratch.unlink()
    _flush(file)


def _assembled(
    safetensors: Any,
    step: StoredStep,
    group: Sequence[Whole],
    view: memoryview,
    tick: Tick,
) -> dict[str, Any]:
    """Returns where in memory each tensor lies, one after the other in `view`."""
    specs: dict[str, Any] = {}
    at = 0
    for whole in group:
        with view[at : at + whole.size] as target:
            assemble(step, whole, target)
        specs[whole.key] = safetensors.TensorSpec(
            dtype=whole.dtype,
            shape=list(whole.shape),
            data_ptr=address_of(view) + at,
            data_len=whole.size,
        )
        at += whole.size
        tick(whole.size)
    return specs


def _flush(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
