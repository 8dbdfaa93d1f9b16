"""What torch.save() makes of a tensor or a small value, written without torch.

It is a zip whose records are stored as they are, each beginning at a multiple of 64:

    prefix    data.pkl             the pickle: dtype, shape, "my bytes are record 0"
              .format_version .storage_alignment byteorder
              data/0               its header only
    the tensor's bytes, exactly as they lie in memory
    suffix    the data's descriptor, version, the zip's directory

So an agent writes prefix, bytes from its memory, suffix, and torch.load() reads it.
Layout and padding are those of torch's own writer, so that mmap=True works too. Where
data or offsets pass 4 GiB the fields are those of zip64.

The zip has a CRC-32 of each record. torch.load() does not look at it, and to compute it
costs a second per gigabyte, so the tensor's is 0 as it is when torch's own writer is
told set_crc32_options(False). The consequence: `unzip` and Python's zipfile call the
record data/0 damaged. Whoever wants to know whether it is has the xxh3 digests.
"""

from __future__ import annotations

import math
import re
import struct
import sys
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from twinstep.capture.manifest import ALIGNMENT, ITEM_BYTES
from twinstep.capture.plain import Blob
from twinstep.errors import ProtocolError
from twinstep.store.pickles import Call, Global, Persistent, dump

TYPED = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex128": "ComplexDoubleStorage",
    "complex64": "ComplexFloatStorage",
}
"""dtypes that torch pickles by a class of storage; younger ones by their own name."""
DIFFERENTIABLE = ("float", "bfloat", "complex")
LIMIT = 0xFFFFFFFF
ARRAY = re.compile(r"[<>=|][biufcSU][0-9]{1,9}")
"""What adapters name NumPy's dtypes that hold plain data."""
SCALARS = {
    "b1": ("bool_", "?"),
    "i1": ("int8", "b"),
    "i2": ("int16", "h"),
    "i4": ("int32", "i"),
    "i8": ("int64", "q"),
    "u1": ("uint8", "B"),
    "u2": ("uint16", "H"),
    "u4": ("uint32", "I"),
    "u8": ("uint64", "Q"),
    "f2": ("float16", "e"),
    "f4": ("float32", "f"),
    "f8": ("float64", "d"),
    "c8": ("complex64", "2f"),
    "c16": ("complex128", "2d"),
}
"""By NumPy's name of a dtype: the scalar's class and struct's code."""


@lru_cache(maxsize=4096)
def archive(dtype: str, shape: tuple[int, ...], crc: int = 0) -> tuple[bytes, bytes]:
    """Returns what to write before and after the bytes (C order) of a tensor, so that
    all is an archive that torch.load(..., weights_only=True) reads. The prefix's length
    is a multiple of 64. `crc` is the CRC-32 of the bytes if it is known.

    Raises: KeyError for a dtype that is not in ITEM_BYTES."""
    size = math.prod(shape) * ITEM_BYTES[dtype]
    records = _Records()
    _add_pickle(records, dump(_tensor(dtype, shape, "0")))
    records.begin("data/0", size)
    prefix = bytes(records.out)
    records.skip(size)
    records.end(crc)
    records.add("version", b"3\n")
    records.close()
    return prefix, bytes(records.out[len(prefix) :])


def archive_plain(value: Any) -> bytes:
    """Returns what torch.save(value) gives, for torch.load(..., weights_only=False).

    `value` is plain data as capture.plain decodes it. Blobs of tensors and parameters
    become such; blobs of NumPy's arrays and numbers too.
    Raises: ProtocolError when a blob is not what it says, TypeError for other types."""
    stored: list[bytes] = []

    def convert(item: Any) -> Any:
        if type(item) is not Blob:
            raise TypeError(f"a {type(item)} is no plain data")
        if item.kind in ("tensor", "parameter"):
            _check_tensor(item)
            stored.append(item.data)
            tensor = _tensor(item.dtype, item.shape, str(len(stored) - 1))
            return tensor if item.kind == "tensor" else _parameter(item.dtype, tensor)
        return _array(item)

    records = _Records()
    _add_pickle(records, dump(value, convert=convert))
    for index, data in enumerate(stored):
        records.add(f"data/{index}", data)
    records.add("version", b"3\n")
    records.close()
    return bytes(records.out)


def _add_pickle(records: _Records, pickle: bytes) -> None:
    records.add("data.pkl", pickle)
    records.add(".format_version", b"1")
    records.add(".storage_alignment", str(ALIGNMENT).encode())
    records.add("byteorder", sys.byteorder.encode())


def _tensor(dtype: str, shape: tuple[int, ...], key: str) -> Call:
    count = math.prod(shape)
    strides: list[int] = []
    stride = 1
    for extent in reversed(shape):
        strides.insert(0, stride)
        stride *= max(extent, 1)
    if dtype in TYPED:
        function, storage = "_rebuild_tensor_v2", Global("torch", TYPED[dtype])
        last: tuple[Global, ...] = ()
    else:
        count *= ITEM_BYTES[dtype]
        function, storage = (
            "_rebuild_tensor_v3",
            Global("torch.storage", "UntypedStorage"),
        )
        last = (Global("torch", dtype),)
    place = Persistent(("storage", storage, key, "cpu", count))
    hooks: OrderedDict[str, Any] = OrderedDict()
    args = (place, 0, shape, tuple(strides), False, hooks, *last)
    return Call(Global("torch._utils", function), args)


def _parameter(dtype: str, tensor: Call) -> Call:
    hooks: OrderedDict[str, Any] = OrderedDict()
    args = (tensor, dtype.startswith(DIFFERENTIABLE), hooks)
    return Call(Global("torch._utils", "_rebuild_parameter"), args)


def _check_tensor(blob: Blob) -> None:
    item_bytes = ITEM_BYTES.get(blob.dtype)
    negative = any(extent < 0 for extent in blob.shape)
    if (
        negative
        or item_bytes is None
        or len(blob.data) != (math.prod(blob.shape) * item_bytes)
    ):
        raise ProtocolError(_wrong(blob))


def _wrong(blob: Blob) -> str:
    return f"a {blob.kind} of {blob.dtype} {blob.shape} in {len(blob.data)} bytes"


def _array(blob: Blob) -> Call:
    """By NumPy's public names only, which all its versions have."""
    if blob.kind == "number":
        number = _number(blob)
        if number is not None:
            return number
    fault = not ARRAY.fullmatch(blob.dtype) or min(blob.shape, default=0) < 0
    width = 0 if fault else int(blob.dtype[2:]) * (4 if blob.dtype[1] == "U" else 1)
    if fault or len(blob.data) != math.prod(blob.shape) * width:
        raise ProtocolError(_wrong(blob))
    data = Call(Global("__builtin__", "bytearray"), (blob.data,))
    return Call(Global("numpy", "ndarray"), (blob.shape, blob.dtype, data))


def _number(blob: Blob) -> Call | None:
    order, code = blob.dtype[:1].replace("|", "="), blob.dtype[1:]
    if code not in SCALARS:
        return None
    name, packed = SCALARS[code]
    try:
        parts = struct.unpack(order + packed, blob.data)
    except struct.error as error:
        raise ProtocolError(_wrong(blob)) from error
    value = complex(*parts) if len(parts) == 2 else parts[0]
    return Call(Global("numpy", name), (value,))


@dataclass(slots=True, kw_only=True)
class _Record:
    name: bytes
    at: int
    size: int
    crc: int = 0

    @property
    def flags(self) -> int:
        """Names are UTF-8; sizes follow the data, unless there is none."""
        return 0x0808 if self.size else 0x0800

    def wide(self) -> bytes:
        """The extra field for what passes 4 GiB."""
        sizes = (self.size, self.size) if self.size >= LIMIT else ()
        fields = (*sizes, self.at) if self.at >= LIMIT else sizes
        if not fields:
            return b""
        return struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields)


@dataclass(slots=True)
class _Records:
    """The zip as it is written. Invariant: `at` == len(out) + what was skipped."""

    out: bytearray = field(default_factory=bytearray)
    at: int = 0
    written: list[_Record] = field(default_factory=lambda: cast("list[_Record]", []))

    def add(self, name: str, data: bytes) -> None:
        self.begin(name, len(data))
        self._write(data)
        self.end(zlib.crc32(data))

    def begin(self, name: str, size: int) -> None:
        """The next byte is the first of the record's data afterwards."""
        record = _Record(name=f"archive/{name}".encode(), at=self.at, size=size)
        self.written.append(record)
        wide = record.wide()
        gap = -(self.at + 30 + len(record.name) + len(wide) + 4) % ALIGNMENT
        extra = wide + struct.pack("<2sH", b"FB", gap) + b"Z" * gap
        lengths = (len(record.name), len(extra))
        head = struct.pack(
            "<4s5H3I2H", b"PK\3\4", 0, record.flags, 0, 0, 0, 0, 0, 0, *lengths
        )
        self._write(head + record.name + extra)

    def skip(self, size: int) -> None:
        self.at += size

    def end(self, crc: int) -> None:
        record = self.written[-1]
        record.crc = crc
        if record.size:
            code = "<4sIQQ" if record.wide() else "<4sIII"
            self._write(struct.pack(code, b"PK\7\x08", crc, record.size, record.size))

    def close(self) -> None:
        begin, count = self.at, len(self.written)
        for record in self.written:
            size, wide = min(record.size, LIMIT), record.wide()
            sums = (record.crc, size, size, len(record.name), len(wide))
            head = struct.pack("<6H3I2H", 0, 0, record.flags, 0, 0, 0, *sums)
            place = struct.pack("<3H2I", 0, 0, 0, 0, min(record.at, LIMIT))
            self._write(b"PK\1\2" + head + place + record.name + wide)
        end = self.at
        wide = (0x031E, 45, 0, 0, count, count, end - begin, begin)
        self._write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, *wide))
        self._write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        narrow = (0, 0, count, count, end - begin, min(begin, LIMIT), 0)
        self._write(struct.pack("<4s4H2IH", b"PK\5\6", *narrow))

    def _write(self, data: bytes) -> None:
        self.out += data
        self.at += len(data)
