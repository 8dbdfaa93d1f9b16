"""What a directory of torch.distributed.checkpoint holds, read without torch.

Its .metadata is a pickle, and Python's reader of pickles calls what a pickle names. So
it is not used. The machine below reads the few opcodes that data needs, and it calls
nothing: a class is only a name, compared with the dozen that metadata needs; to call a
function or to make an object gives a Made, which is the name and the arguments. No code
can come of that, whatever the bytes are. What it costs is bounded as well: an opcode
adds at most a few hundred bytes, a length in the pickle is one of bytes that are there,
and the chunks listed are not more than so long a pickle can describe, though it may
name one list of chunks ten thousand times.

The machine is slow, some seconds for 100,000 tensors; listing and verifying can wait.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, cast

from twinstep.capture.manifest import DIMS_MAX
from twinstep.errors import ProtocolError

CHECKPOINT = "torch.distributed.checkpoint."
KNOWN = {
    f"{CHECKPOINT}metadata.Metadata",
    f"{CHECKPOINT}metadata.TensorStorageMetadata",
    f"{CHECKPOINT}metadata.BytesStorageMetadata",
    f"{CHECKPOINT}metadata.ChunkStorageMetadata",
    f"{CHECKPOINT}metadata.TensorProperties",
    f"{CHECKPOINT}metadata.MetadataIndex",
    f"{CHECKPOINT}metadata.StorageMeta",
    f"{CHECKPOINT}metadata._MEM_FORMAT_ENCODING",
    f"{CHECKPOINT}filesystem._StorageInfo",
    "torch.Size",
    "torch.serialization._get_layout",
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib._local.PosixPath",
}
DTYPE = re.compile(r"torch\.(bool|complex\d+|q?u?int\d+|(b?float\d+)(_\w+)?)")
FILE_NAME = re.compile(r"[\w.-]{1,255}")
BYTES_MAX = 1 << 40
CHUNK_BYTES_MIN = 32
"""What a chunk and its place take in a pickle at the least; about 90 in practice."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a pickle names: "torch.Size"."""

    text: str


@dataclass(slots=True, eq=False)
class Made:
    """What a pickle would have made by calling `kind`, and the state it then gets."""

    kind: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Bytes of a file of the directory. All are at least 0."""

    file: str
    at: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A box of a tensor, within it, and the archive that has it."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    dtype: str
    """As manifests have it: "float32"."""
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is in a directory, by DCP's keys."""

    tensors: dict[str, Tensor]
    plain: dict[str, Place]


def read_metadata(data: bytes, *, bytes_max: int) -> Listing:
    """Returns what the .metadata of a directory says. Names of files have no slash.

    Raises: ProtocolError saying what is wrong, also beyond `bytes_max` bytes."""
    if len(data) > bytes_max:
        raise ProtocolError(f"metadata of {len(data)} bytes; at most {bytes_max}")
    try:
        return _listing(_Machine(data).run(), len(data) // CHUNK_BYTES_MIN)
    except _WRONG as error:
        raise ProtocolError(f"metadata makes no sense: {error!r}") from error


_WRONG = (
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    struct.error,
    RecursionError,
)


def _listing(root: Any, chunks_max: int) -> Listing:
    fields = _state(root, "Metadata")
    places: dict[tuple[str, tuple[int, ...] | None], Place] = {}
    for index, info in fields["storage_data"].items():
        where = _state(index, "MetadataIndex")
        offset = where.get("offset")
        key = (_text(where["fqn"]), None if offset is None else _size(offset))
        places[key] = _place(_state(info, "_StorageInfo"))
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Place] = {}
    count = 0
    for key, described in fields["state_dict_metadata"].items():
        if _kind(described) == "BytesStorageMetadata":
            plain[_text(key)] = places[key, None]
            continue
        tensor = _state(described, "TensorStorageMetadata")
        count += len(tensor["chunks"]) + 1
        if count > chunks_max:
            raise ValueError(f"more than {chunks_max} chunks")
        tensors[_text(key)] = _tensor(key, tensor, places)
    return Listing(tensors=tensors, plain=plain)


def _tensor(
    key: str,
    fields: dict[str, Any],
    places: dict[tuple[str, tuple[int, ...] | None], Place],
) -> Tensor:
    properties = fields["properties"]
    if _kind(properties) != "TensorProperties":
        raise TypeError(f"properties that are {properties!r}")
    shape, chunks = _size(fields["size"]), list[Chunk]()
    for item in fields["chunks"]:
        box = _state(item, "ChunkStorageMetadata")
        offsets, extents = _size(box["offsets"]), _size(box["sizes"])
        ends = zip(offsets, extents, shape, strict=True)
        if any(first + extent > end for first, extent, end in ends):
            raise ValueError(f"{key}: chunk {offsets} {extents} outside of {shape}")
        place = places[key, offsets]
        chunks.append(Chunk(offsets=offsets, shape=extents, place=place))
    dtype = DTYPE.fullmatch(properties.state[0].text)
    if dtype is None:
        raise TypeError(f"{properties.state[0].text} is no dtype")
    return Tensor(dtype=dtype[1], shape=shape, chunks=tuple(chunks))


def _place(fields: dict[str, Any]) -> Place:
    file, at, size = _text(fields["relative_path"]), fields["offset"], fields["length"]
    if not FILE_NAME.fullmatch(file):
        raise ValueError(f"a file named {file[:300]!r}")
    if type(at) is not int or type(size) is not int:
        raise TypeError(f"bytes {at!r} {size!r}")
    if not (0 <= at < BYTES_MAX and 0 <= size < BYTES_MAX):
        raise ValueError(f"{size} bytes at {at}")
    if fields.get("transform_descriptors"):
        raise ValueError(f"{file} was transformed (compressed), which is not read")
    return Place(file=file, at=at, size=size)


def _kind(value: Any) -> str:
    return value.kind.rpartition(".")[2] if type(value) is Made else ""


def _state(value: Any, kind: str) -> dict[str, Any]:
    state: object = value.state if _kind(value) == kind else None
    if not isinstance(state, dict):
        raise TypeError(f"{type(value)} where {kind} is expected")
    return cast("dict[str, Any]", state)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{type(value)} where text is expected")
    return value


def _size(value: Any) -> tuple[int, ...]:
    if _kind(value) != "Size" or len(value.args) != 1 or len(value.args[0]) > DIMS_MAX:
        raise TypeError(f"{type(value)} where a torch.Size is expected")
    sizes = tuple(value.args[0])
    if any(type(size) is not int or not 0 <= size < 1 << 63 for size in sizes):
        raise ValueError("a torch.Size with something that is no size")
    return sizes


class _Mark:
    """Where a collection begins on the stack."""


MARK = _Mark()
COUNTED = {
    0x58: ("<I", "text"),
    0x8C: ("<B", "text"),
    0x8D: ("<Q", "text"),
    0x42: ("<I", "bytes"),
    0x43: ("<B", "bytes"),
    0x8E: ("<Q", "bytes"),
    0x8A: ("<B", "int"),
    0x8B: ("<I", "int"),
}
"""Opcodes with a length and so many bytes: what they become."""
NUMBERS = {0x4A: "<i", 0x4B: "<B", 0x4D: "<H", 0x47: ">d"}
CONSTANTS: dict[int, Any] = {0x4E: None, 0x88: True, 0x89: False, 0x29: ()}
EMPTY: dict[int, type] = {0x5D: list, 0x7D: dict}
GETS = {0x68: "<B", 0x6A: "<I"}
PUTS = {0x71: "<B", 0x72: "<I"}
TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}


class _Machine:
    """Reads a pickle of protocol 2 to 5, and makes data and Made of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._operations = {
            0x28: lambda: self._stack.append(MARK),
            0x74: lambda: self._stack.append(tuple(self._marked())),
            0x61: lambda: self._append([self._stack.pop()]),
            0x65: lambda: self._append(self._marked()),
            0x73: lambda: self._set([self._stack.pop(-2), self._stack.pop()]),
            0x75: lambda: self._set(self._marked()),
            0x63: lambda: self._name(self._line(), self._line()),
            0x93: lambda: self._name(self._stack.pop(-2), self._stack.pop()),
            0x52: self._make,
            0x81: self._make,
            0x62: self._build,
            0x94: lambda: self._put(len(self._memo)),
            0x80: lambda: self._number("<B"),
            0x95: lambda: self._number("<Q"),
        }

    def run(self) -> Any:
        data, stack, memo, operations = (
            self._data,
            self._stack,
            self._memo,
            self._operations,
        )
        while True:
            code = data[self._at]
            self._at += 1
            if code == 0x2E:
                return stack.pop()
            if code in operations:
                operations[code]()
            elif code in COUNTED:
                stack.append(self._counted(*COUNTED[code]))
            elif code in GETS:
                stack.append(memo[self._number(GETS[code])])
            elif code in PUTS:
                self._put(self._number(PUTS[code]))
            elif code in NUMBERS:
                stack.append(self._number(NUMBERS[code]))
            elif code in CONSTANTS:
                stack.append(CONSTANTS[code])
            elif code in EMPTY:
                stack.append(EMPTY[code]())
            elif code in TUPLES:
                items = tuple(stack[-TUPLES[code] :])
                del stack[-TUPLES[code] :]
                stack.append(items)
            else:
                raise ValueError(f"opcode {code:#x}")

    def _number(self, packed: str) -> Any:
        (value,) = struct.unpack_from(packed, self._data, self._at)
        self._at += struct.calcsize(packed)
        return value

    def _counted(self, length: str, kind: str) -> Any:
        size = self._number(length)
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            raise ValueError("it ends too early")
        self._at += size
        if kind == "int":
            return int.from_bytes(data, "little", signed=True)
        return data.decode("utf-8", "surrogatepass") if kind == "text" else data

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        line = self._data[self._at : end].decode()
        self._at = end + 1
        return line

    def _marked(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("a collection without a beginning")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, Made):
                raise TypeError(f"a key that is a {type(key)}")
            target[key] = value

    def _top(self, kind: type) -> Any:
        top = self._stack[-1]
        if type(top) is Made and top.kind == "collections.OrderedDict" and kind is dict:
            top.state = {} if top.state is None else top.state
            return top.state
        if type(top) is not kind:
            raise TypeError(f"{type(top)} where a {kind} is expected")
        return top

    def _name(self, module: Any, name: Any) -> None:
        text = f"{_text(module)}.{_text(name)}"
        if text not in KNOWN and not DTYPE.fullmatch(text):
            raise ProtocolError(
                f"metadata names {text[:200]}, which no metadata needs; nothing of it "
                "was called"
            )
        self._stack.append(Name(text))

    def _make(self) -> None:
        args, kind = self._stack.pop(), self._stack.pop()
        if type(kind) is not Name or type(args) is not tuple:
            raise TypeError(f"a call of {type(kind)}")
        self._stack.append(Made(kind.text, cast("tuple[Any, ...]", args)))

    def _build(self) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if type(made) is not Made or made.state is not None:
            raise TypeError(f"a state for {type(made)}")
        made.state = state
