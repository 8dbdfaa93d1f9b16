"""What a stored step consists of: which bytes of which file are which box of a tensor.

    STORAGE/step-00001200/           a folder is a step once it has its last file
        r3-t1-m0.distcp ..           one file a machine: boxes of tensors, values
        r3-t1-m0.part                what that machine wrote (a Part)
        .twinstep                    all parts together (Contents)
        .metadata                    the same for torch.distributed.checkpoint; the last

    or, where it is a checkpoint of Orbax:
        r3-t1-m0.chunks ..           as above, without archives around the boxes
        r3-t1-m0.part, .twinstep     as above
        r3-t1-m0.nodes ..            the same for Orbax (orbax.py)
        _METADATA                    the last

Every machine writes what its ranks own and its portion of what all ranks hold alike, so
that each byte is written once. For torch a box lies in its file as an archive that
torch.load reads by itself; `data_at` is where its plain bytes are, for all others.
Whatever reads a box verifies its digest first, so boxes are small enough to be read
whole.

Names of files carry the round and the term that wrote them: what an abandoned attempt
left can never be taken for a part of another one. All of this comes from storage that
others can write to: it is checked before a byte is placed by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from twinstep.bounds import SHARDS_MAX, Bytes, Count, Digest, Seconds, Shard
from twinstep.capture.manifest import DIMS_MAX, ITEM_BYTES
from twinstep.errors import ProtocolError

Form = Literal["dcp", "orbax"]
"""Whose checkpoint a step is: that of torch.distributed.checkpoint, or of Orbax."""

FORMAT = 1
CONTENTS = ".twinstep"
METADATA = ".metadata"
PART = ".part"
DATA: dict[Form, str] = {"dcp": ".distcp", "orbax": ".chunks"}
"""How the names of data files end."""
NODES = ".nodes"
ORBAX = (
    "manifest.ocdbt",
    "_strings.json",
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
)
"""What Orbax looks for beside its _METADATA."""
LAST: dict[Form, str] = {"dcp": METADATA, "orbax": "_METADATA"}
"""The file that makes a folder a step."""
UNFINISHED = ".unfinished"
"""Ends the name of a file that is being written on a file system."""
BOX_BYTES = 64 * 1024 * 1024
"""A tensor is cut along its first dimension into boxes of about this size."""
BOXES_MAX = 50_000_000
SHARED = -1
"""The owner of a box that all ranks hold alike."""

Dims = Annotated[tuple[Bytes, ...], Meta(max_length=DIMS_MAX)]
FileName = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[\w.-]+\Z")]
Owner = Annotated[int, Meta(ge=SHARED, le=1 << 24)]


class Box(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A box of a tensor, in a file.

    Invariant: data_bytes == prod(shape) * ITEM_BYTES[dtype]; the data lies inside the
    item."""

    name: str
    """As manifests have it: model.linear.weight, optimizer[0:model.linear.weight].step.
    """
    dtype: str
    global_shape: Dims
    offsets: Dims
    shape: Dims
    owner: Owner
    """The rank whose own it is, SHARED for what all hold alike. Of a tensor that is not
    sharded every rank has its own, under one name."""
    file: str
    at: Bytes
    """The item's first byte in the file."""
    size: Bytes
    """Of the item, an archive of torch.save."""
    data_at: Bytes
    """The first of the tensor's bytes in the file."""
    data_bytes: Bytes
    digest: Digest
    """xxh3-128 of the tensor's bytes."""


class Values(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A rank's values: the encoded plain data of its manifest, in a file."""

    rank: Shard
    file: str
    at: Bytes
    size: Bytes
    digest: Digest


class Plain(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A small value as torch.distributed.checkpoint has it: pickled by torch.save, for
    whoever reads the step without twinstep, which never unpickles it."""

    path: tuple[str | int, ...]
    """Where it is in the nested state: ("optimizer", "param_groups", 0, "lr")."""
    file: str
    at: Bytes
    size: Bytes


class Leaf(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A small value as Orbax has it, in the table itself."""

    path: tuple[str | int, ...]
    kind: Literal["scalar", "string", "None", "Dict", "List", "Tuple", "left out"]
    """Orbax's own names; the last for what it has no type for."""
    value: bool | int | float | str | None = None
    """Of a scalar or string; of what is left out, why."""


class File(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    name: FileName
    size: Bytes


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A stored step; or the part of it that one machine wrote."""

    step: Count
    captured_in: Count
    """The round that captured it."""
    machines: Shard
    ranks_per_machine: Shard
    written_s: Seconds
    """When, in seconds since the epoch."""
    files: list[File]
    boxes: list[Box]
    values: list[Values]
    plain: list[Plain]
    tied: dict[str, str] = {}
    """Further names of tied tensors, and the name that their boxes have."""
    form: Form = "dcp"
    leaves: list[Leaf] = []
    trees: bool = False
    """Names are paths in one tree, as JAX has them, and not torch's."""
    format: int = FORMAT

    @property
    def world_size(self) -> int:
        return self.machines * self.ranks_per_machine

    @property
    def size(self) -> int:
        """Bytes of all data files."""
        return sum(file.size for file in self.files)


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: str) -> int | None:
    """The step that a folder's name tells, None for other folders."""
    start, _, number = folder.partition("-")
    usual = start == "step" and number.isdecimal() and len(number) < 17
    return int(number) if usual and folder_name(int(number)) == folder else None


def part_name(*, round: int, term: int, machine_rank: int) -> str:
    """The start of the names of what one machine writes in one attempt."""
    return f"r{round}-t{term}-m{machine_rank}"


def is_ours(file: str) -> bool:
    """Whether twinstep gives files such a name in a step's folder; no other file is
    ever removed."""
    return _OURS.fullmatch(file) is not None


_OURS = re.compile(
    rf"(r\d+-t\d+-m\d+({'|'.join(map(re.escape, (*DATA.values(), PART, NODES)))})"
    rf"|{'|'.join(map(re.escape, (CONTENTS, *ORBAX, *LAST.values())))})"
    rf"(\.[0-9a-f]+{re.escape(UNFINISHED)})?",
    re.ASCII,
)


def finished(names: Container[str]) -> bool:
    """Whether the files in a folder make it a checkpoint, whoever's."""
    return any(last in names for last in LAST.values())


def form_by(names: Iterable[str]) -> Form:
    """The form that the data files in a folder are of."""
    chunks = any(name.endswith(DATA["orbax"]) for name in names)
    return "orbax" if chunks else "dcp"


def nodes_name(contents: Contents) -> str:
    """The file of Orbax's nodes: named as the first data file is, so that two roots
    that write one step write two."""
    return contents.files[0].name.removesuffix(DATA["orbax"]) + NODES


def names_of(contents: Contents) -> list[str]:
    """The names of all files of a whole step, those that others read last."""
    data = [file.name for file in contents.files]
    if contents.form == "dcp":
        return [*data, CONTENTS, METADATA]
    return [*data, CONTENTS, nodes_name(contents), *ORBAX, LAST["orbax"]]


def encode(contents: Contents) -> bytes:
    return msgspec.msgpack.encode(contents)


def decode(data: bytes) -> Contents:
    """Returns checked contents. Raises: ProtocolError saying what is wrong."""
    try:
        contents = msgspec.msgpack.decode(data, type=Contents)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a step's contents make no sense: {error}") from error
    if contents.format != FORMAT:
        raise ProtocolError(
            f"contents of format {contents.format}; this twinstep reads {FORMAT}"
        )
    if not 1 <= contents.world_size <= SHARDS_MAX:
        raise ProtocolError(
            f"contents of a job of {contents.machines} x {contents.ranks_per_machine} "
            f"ranks; at least 1, at most {SHARDS_MAX}"
        )
    if contents.form == "orbax" and not contents.files:
        raise ProtocolError("contents of no files")
    if len(contents.boxes) > BOXES_MAX:
        raise ProtocolError(f"{len(contents.boxes)} boxes; at most {BOXES_MAX}")
    sizes = {file.name: file.size for file in contents.files}
    for box in contents.boxes:
        fault = _fault(box, sizes)
        if fault:
            raise ProtocolError(f"box {box.name!r} {box.offsets}: {fault}")
    for item in (*contents.values, *contents.plain):
        if item.at + item.size > sizes.get(item.file, -1):
            raise ProtocolError(f"values outside of their file {item.file!r}")
    return contents


def merge(parts: Iterable[Contents]) -> Contents:
    """Returns the whole of what machines wrote of one step, one part each.

    Raises: ProtocolError when they are not parts of one step, or not all of it."""
    every = list(parts)
    versions = {
        (part.step, part.captured_in, part.machines, part.ranks_per_machine)
        for part in every
    }
    if len(versions) != 1:
        raise ProtocolError(f"parts of {len(versions)} different steps")
    forms: list[Form] = sorted({part.form for part in every})
    if len(forms) != 1:
        text = " and ".join(forms)
        raise ProtocolError(f"parts in {text}; set storage.format alike everywhere")
    values = sorted((v for part in every for v in part.values), key=lambda v: v.rank)
    whole = Contents(
        step=every[0].step,
        captured_in=every[0].captured_in,
        machines=every[0].machines,
        ranks_per_machine=every[0].ranks_per_machine,
        written_s=max(part.written_s for part in every),
        files=[file for part in every for file in part.files],
        boxes=[box for part in every for box in part.boxes],
        values=values,
        plain=[plain for part in every for plain in part.plain],
        tied={name: other for part in every for name, other in part.tied.items()},
        form=forms[0],
        leaves=[leaf for part in every for leaf in part.leaves],
        trees=any(part.trees for part in every),
    )
    if lack := lacks(whole):
        raise ProtocolError(lack)
    return whole


def lacks(whole: Contents) -> str:
    """Returns why contents are not those of all ranks, or nothing."""
    world, ranks = whole.world_size, [value.rank for value in whole.values]
    if len(ranks) == world and all(rank == n for n, rank in enumerate(ranks)):
        return ""
    return f"values of {len(set(ranks))} of {world} ranks"


def _fault(box: Box, sizes: dict[str, int]) -> str:
    dims = len(box.global_shape)
    if len(box.offsets) != dims or len(box.shape) != dims:
        return f"{dims} dimensions, box {box.offsets} {box.shape}"
    ends = zip(box.offsets, box.shape, box.global_shape, strict=True)
    if any(first + count > total for first, count, total in ends):
        return f"outside of its tensor {box.global_shape}"
    item_bytes = ITEM_BYTES.get(box.dtype)
    if item_bytes is None:
        return f"dtype {box.dtype!r} is unknown"
    if box.data_bytes != math.prod(box.shape) * item_bytes:
        return f"{box.data_bytes} bytes for {box.shape} of {box.dtype}"
    inside = box.at <= box.data_at and box.data_at + box.data_bytes <= box.at + box.size
    if not inside or box.at + box.size > sizes.get(box.file, -1):
        return f"outside of its file {box.file!r}"
    return ""
