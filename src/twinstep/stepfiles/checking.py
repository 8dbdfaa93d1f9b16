"""Reads every byte of a checkpoint and says what of it is not as it was written.

Of a step of twinstep's nothing is left out: tensors and values have digests, the
archives around tensors and the files for torch or Orbax are made again and compared,
and items lie end to end in their files. Then the boxes are looked at: each tensor must
be there, whole. A step of a version of twinstep that writes archives differently is
told to differ, which is why such a change needs another FORMAT (store/contents.py).

Left out: checkpoints of somebody else (foreign.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import xxhash

from twinstep.capture.plain import decode_plain
from twinstep.errors import ProtocolError
from twinstep.recovery.reshard import extent_of
from twinstep.stepfiles import coverage
from twinstep.stepfiles.where import Where, table_of
from twinstep.stepfiles.windows import Tick, Window, archive_fault
from twinstep.store import contents as stored
from twinstep.store.contents import Box, Contents, File, Form, Plain, Values
from twinstep.store.flattened import dotted
from twinstep.store.publishing import around, published
from twinstep.store.reading import CONTENTS_BYTES_MAX, VALUES_BYTES_MAX

NAMED_MAX = 3
"""So many tensors of a lost file are named, and the rest counted."""

Item = Box | Values | Plain


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    file: str
    tensor: str
    """The tensor, or which other item; empty where it is the file as a whole."""
    what: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of reading a checkpoint."""

    name: str
    """The folder or address."""
    step: int
    """-1 where nobody knows."""
    bytes: int
    """Of all files that were to be read."""
    files: int
    tensors: int
    boxes: int
    faults: list[Fault]


def check_step(at: Where, *, tick: Tick) -> Report:
    """Returns what is wrong with a step of twinstep's. Raises: OSError when nothing
    can be read there at all."""
    sizes = at.place.sizes(at.folder)
    try:
        contents = table_of(at)
    except (ProtocolError, ValueError) as error:
        return Report(
            name=at.name,
            step=-1,
            bytes=sum(sizes.values()),
            files=len(sizes),
            tensors=0,
            boxes=0,
            faults=[Fault(file=stored.CONTENTS, tensor="", what=str(error))],
        )
    faults = [*_table(at, contents, sizes), *_coverage(contents)]
    for file in contents.files:
        faults += _File(at, contents, file, sizes.get(file.name), tick).faults()
    return Report(
        name=at.name,
        step=contents.step,
        bytes=contents.size,
        files=len(contents.files),
        tensors=len({box.name for box in contents.boxes}),
        boxes=len(contents.boxes),
        faults=faults,
    )


def _table(at: Where, contents: Contents, sizes: dict[str, int]) -> Iterator[Fault]:
    """Yields what is wrong with the lists of what is in the step."""
    named = stored.step_of(at.folder)
    if named is not None and named != contents.step:
        what = f"is of step {contents.step}, in a folder of step {named}"
        yield Fault(file=stored.CONTENTS, tensor="", what=what)
    ranks = [values.rank for values in contents.values]
    lost = sorted(set(range(contents.world_size)) - set(ranks))
    for rank in lost:
        yield Fault(file=stored.CONTENTS, tensor=f"values of rank {rank}", what="lost")
    if not lost and ranks != list(range(contents.world_size)):
        what = f"lists values of {len(ranks)} ranks, of {contents.world_size}"
        yield Fault(file=stored.CONTENTS, tensor="", what=what)
    for name, expected in published(contents).items():
        if what := _published_fault(at, contents, name, expected, name in sizes):
            yield Fault(file=name, tensor="", what=what)


def _published_fault(
    at: Where, contents: Contents, name: str, expected: bytes, there: bool
) -> str:
    """Returns what is wrong with a file that others read the step by, or nothing."""
    if not there:
        reader = "torch" if contents.form == "dcp" else "Orbax"
        return f"is missing: the step was never finished, and {reader} cannot read it"
    try:
        found = at.place.read_whole(f"{at.folder}/{name}", bytes_max=CONTENTS_BYTES_MAX)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    byte = _differs(found, expected)
    if byte is None:
        return ""
    return f"differs at byte {byte} from what {stored.CONTENTS} lists"


def _coverage(contents: Contents) -> Iterator[Fault]:
    tensors: dict[tuple[str, str, tuple[int, ...]], list[Box]] = {}
    for box in contents.boxes:
        key = (box.name, box.dtype, box.global_shape)
        tensors.setdefault(key, []).append(box)
    for (name, _, shape), boxes in tensors.items():
        extents = [(box.owner, extent_of(box)) for box in boxes]
        for fault in coverage.faults_of(shape, extents):
            what = f"of {shape}: {fault}"
            yield Fault(file=stored.CONTENTS, tensor=name, what=what)


class _File:
    """One data file: whether what is in it is what the table says."""

    def __init__(
        self, at: Where, contents: Contents, file: File, size: int | None, tick: Tick
    ) -> None:
        self._at, self._file, self._size = at, file, size
        self._form: Form = contents.form
        self._name = f"{at.folder}/{file.name}"
        every: Sequence[Item] = [*contents.boxes, *contents.values, *contents.plain]
        mine = [item for item in every if item.file == file.name]
        self._items = sorted(mine, key=lambda item: (item.at, item.size))
        self._tick = tick

    def faults(self) -> Iterator[Fault]:
        if self._size is None:
            yield self._fault(f"is missing; it had {self._some()}")
            return
        if self._size != self._file.size:
            yield self._fault(f"has {self._size} bytes, not {self._file.size}")
        window = Window(self._at.place, self._name, self._size, tick=self._tick)
        end = 0
        for item in self._items:
            if item.at != end:
                gap = "overlap" if item.at < end else "belong to nothing"
                low, high = sorted((item.at, end))
                yield self._fault(f"bytes {low} to {high} {gap}", item)
            end = item.at + item.size
            if end > self._size:
                yield self._fault("is cut off: the file ends before it does", item)
                continue
            try:
                what = self._look(item, window)
            except (OSError, EOFError) as error:
                yield self._fault(f"cannot be read: {error}", item)
                return
            if what:
                yield self._fault(what, item)
        if end != self._file.size:
            yield self._fault(f"bytes {end} to {self._file.size} belong to nothing")

    def _look(self, item: Item, window: Window) -> str:
        if isinstance(item, Box):
            return _box_fault(item, window, self._form)
        if isinstance(item, Values):
            return _values_fault(item, window)
        for _ in window.pieces(item.at, item.size):
            pass  # counted, and in the page cache for what follows
        return archive_fault(self._at.place, self._name, at=item.at, size=item.size)

    def _fault(self, what: str, item: Item | None = None) -> Fault:
        tensor = label(item) if item is not None else ""
        return Fault(file=self._file.name, tensor=tensor, what=what)

    def _some(self) -> str:
        names = list(dict.fromkeys(map(label, self._items)))
        shown = ", ".join(names[:NAMED_MAX])
        more = len(names) - NAMED_MAX
        return f"{shown} and {more} more" if more > 0 else shown or "nothing"


def label(item: Item) -> str:
    """What people call an item: a tensor's name and box, a rank's values."""
    if isinstance(item, Box):
        extent = extent_of(item)
        whole = item.shape == item.global_shape
        box = "" if whole else f" {coverage.words(extent)}"
        return f"{item.name}{box}"
    if isinstance(item, Values):
        return f"values of rank {item.rank}"
    return dotted(item.path)


def _box_fault(box: Box, window: Window, form: Form) -> str:
    before, after = around(form, box.dtype, box.shape)
    data_end = box.data_at + box.data_bytes
    prefix_bytes = box.data_at - box.at
    suffix_bytes = box.at + box.size - data_end
    if (len(before), len(after)) != (prefix_bytes, suffix_bytes):
        return (
            f"its archive has {prefix_bytes} and {suffix_bytes} bytes around the data, "
            f"not {len(before)} and {len(after)}"
        )
    byte = _differs(window.whole(box.at, prefix_bytes), before)
    if byte is not None:
        return f"its archive differs at byte {box.at + byte} of the file"
    digest = xxhash.xxh3_128()
    for piece in window.pieces(box.data_at, box.data_bytes):
        digest.update(piece)
    if digest.digest() != box.digest:
        return "has a wrong checksum"
    byte = _differs(window.whole(data_end, suffix_bytes), after)
    return (
        ""
        if byte is None
        else (f"its archive differs at byte {data_end + byte} of the file")
    )


def _values_fault(values: Values, window: Window) -> str:
    if values.size > VALUES_BYTES_MAX:
        return f"have {values.size} bytes; at most {VALUES_BYTES_MAX} are read"
    data = window.whole(values.at, values.size)
    if xxhash.xxh3_128_digest(data) != values.digest:
        return "have a wrong checksum"
    try:
        decode_plain(data)
    except ProtocolError as error:
        return str(error)
    return ""


def _differs(found: bytes, expected: bytes) -> int | None:
    """The first byte that differs, or where the shorter one ends; None for equal."""
    if found == expected:
        return None
    both = enumerate(zip(found, expected, strict=False))
    shorter = min(len(found), len(expected))
    return next((byte for byte, (a, b) in both if a != b), shorter)
