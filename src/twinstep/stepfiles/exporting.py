"""Makes a folder that others can read of a step, in memory or in storage.

It is written beside its place under another name, checked, and renamed: whoever finds
the folder finds all of it. From memory a step is first written as a machine's agent
would write it; from there on memory and storage are the same. What is in another form
than is asked for is written anew (store/rewriting.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from twinstep.errors import Corrupt, UsageError
from twinstep.jobs import JobView
from twinstep.stepfiles.checking import check_step
from twinstep.stepfiles.gathering import Gather, gather
from twinstep.stepfiles.safe_files import library, write_safetensors
from twinstep.stepfiles.where import Where, step_in, table_of
from twinstep.stepfiles.windows import Tick, Window, unseen
from twinstep.store import contents as stored, reading
from twinstep.store.contents import Contents, Form
from twinstep.store.places import UNFINISHED, Disk
from twinstep.store.reading import StoredFiles
from twinstep.store.rewriting import rewrite

FORMATS = ("dcp", "orbax", "safetensors")
STEPS_MAX = 10_000

Bar = Callable[[str, int], contextlib.AbstractContextManager[Tick]]
"""Shows how far something is: its name, and its bytes."""


def from_memory(
    view: JobView,
    out: Path,
    *,
    step: int | None,
    form: str,
    bar: Bar,
    say: Callable[[str], None],
) -> Contents:
    """`out` is a step of a running job's memory afterwards: `step`, or the newest.

    Raises: UsageError, Refused (gathering.py), Corrupt, OSError."""
    _ready(form)

    def attempt(one: Gather) -> Contents:
        _clear(fresh)
        with bar(f"step {one.choice.step}", one.size) as tick:
            return one.write(Disk(fresh), tick=tick)

    with beside(out) as (fresh, finish):
        contents = gather(view, step=step, write=attempt, say=say)
        folder = fresh / stored.folder_name(contents.step)
        finish(_formed(fresh, folder, contents, form, bar))
    return contents


def from_storage(
    source: Where, out: Path, *, step: int | None, form: str, bar: Bar
) -> Contents:
    """`out` is a step of a storage afterwards: `step`, or the newest that is whole.

    Raises: UsageError, Corrupt naming what is damaged, OSError."""
    _ready(form)
    source = _pick(source, step)
    contents = table_of(source)
    with beside(out) as (fresh, finish):
        if form == "safetensors":
            finish(_safe(fresh, source, contents, bar))
        elif form != contents.form:
            finish(_anew(fresh, source, contents, form, bar))
        else:
            folder = fresh / stored.folder_name(contents.step)
            with bar(f"step {contents.step}", contents.size) as tick:
                _copy(source, folder, tick=tick)
            finish(_formed(fresh, folder, contents, form, bar))
    return contents


def check_out(out: Path) -> None:
    """Raises: UsageError unless `out` can become a new folder."""
    if "://" in str(out) or ":/" in str(out):
        raise UsageError(f"{out} is an address; export writes to a folder here")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} exists and is no folder; name one that does not")
    if out.exists() and any(out.iterdir()):
        raise UsageError(
            f"{out} is not empty; name a folder that does not exist, or empty it"
        )


@contextlib.contextmanager
def beside(out: Path) -> Generator[tuple[Path, Callable[[Path], None]]]:
    """Yields a folder beside `out`, and what makes a folder in it become `out`.

    Nothing is left of it afterwards, whatever happens."""
    check_out(out)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    start = f".{out.name}."
    fresh = Path(tempfile.mkdtemp(prefix=start, suffix=UNFINISHED, dir=out.parent))
    try:
        yield fresh, lambda folder: _rename(folder, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _rename(folder: Path, out: Path) -> None:
    for path in (folder, folder.parent):
        _flush(path)
    os.replace(folder, out)  # an empty folder gives way
    _flush(out.parent)


def _flush(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _ready(form: str) -> None:
    if form not in FORMATS:
        raise UsageError(f"--format is {form!r}; use one of {', '.join(FORMATS)}")
    if form == "safetensors":
        library()  # now, rather than when all has been fetched


def _clear(fresh: Path) -> None:
    """Nothing of an attempt that failed is left."""
    for path in fresh.iterdir():
        shutil.rmtree(path)


def _formed(fresh: Path, folder: Path, contents: Contents, form: str, bar: Bar) -> Path:
    """Returns the folder that is to be `out`, of a step that was written here."""
    at = Where(place=Disk(fresh), folder=folder.name)
    if form == "safetensors":
        return _safe(fresh, at, contents, bar)
    if form != contents.form:
        return _anew(fresh, at, contents, form, bar)
    with bar("checking", contents.size) as tick:
        report = check_step(at, tick=tick)
    if report.faults:
        first = report.faults[0]
        raise Corrupt(
            f"step {contents.step} is damaged: {first.file}: {first.tensor} "
            f"{first.what}; twinstep verify says all of it"
        )
    return folder


def _anew(fresh: Path, at: Where, contents: Contents, form: str, bar: Bar) -> Path:
    """Returns the folder of the step in another form; every box was verified."""
    target = fresh / form
    step = StoredFiles(at.place, contents, at.folder)
    new: Form = "orbax" if form == "orbax" else "dcp"
    with bar(form, contents.size) as tick:
        rewrite(step, Disk(target), form=new, tick=tick)
    return target / stored.folder_name(contents.step)


def _safe(fresh: Path, at: Where, contents: Contents, bar: Bar) -> Path:
    target = fresh / "safetensors"
    target.mkdir()
    with bar("safetensors", sum(box.data_bytes for box in contents.boxes)) as tick:
        step = StoredFiles(at.place, contents, at.folder)
        write_safetensors(step, target, tick=tick)
    return target


def _pick(source: Where, step: int | None) -> Where:
    """Returns the folder of the step that is meant. Raises: UsageError."""
    if step is not None:
        source = step_in(source, step)
    elif not source.folder:
        newest, reasons = "", list[str]()
        for one in reading.look(source.place, steps_max=STEPS_MAX):
            newest = one.folder if one.whole else newest
            reasons += [] if one.whole else [f"; {one.folder}: {one.reason}"]
        if not newest:
            why = "".join(reasons[-3:])
            raise UsageError(f"{source.name} has no whole step{why}")
        return Where(place=source.place, folder=newest)
    if source.foreign:
        raise UsageError(
            f"{source.name} was not written by twinstep; torch reads it as it is"
        )
    found = reading.look_at(source.place, source.folder)
    if not found.whole:
        raise UsageError(f"{source.name} is not whole: {found.reason}")
    return source


def _copy(source: Where, folder: Path, *, tick: Tick) -> None:
    """The files of a step are here afterwards, unchecked."""
    target = Disk(folder.parent)
    sizes = source.place.sizes(source.folder)
    contents = table_of(source)
    data = {file.name for file in contents.files}
    for name in stored.names_of(contents):
        told = tick if name in data else unseen
        from_ = f"{source.folder}/{name}"
        window = Window(source.place, from_, sizes.get(name, 0), tick=told)
        with target.create(f"{folder.name}/{name}") as output:
            for piece in window.pieces(0, sizes.get(name, 0)):
                output.write(piece)
