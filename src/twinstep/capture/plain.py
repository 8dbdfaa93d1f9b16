"""Which values may travel with a shard, and how they become bytes and come back.

Beside tensors a training run has small values: step counts, learning rates, random
number generators, positions in the data. They are encoded as msgpack, and nothing is
pickled: bytes that arrive from elsewhere can only become data, never code. Plain data
is None, bool, int, float, complex, str, bytes, and lists, tuples, sets and dicts of
plain data; what msgpack lacks (tuples, sets, keys that are no strings, integers of
more than 64 bits) is an extension with a number. Arrays of a framework become a Blob;
the adapter converts, so that this file names no framework.

All else is refused with its path, because a function or an open file that came back
as something nearly the same would be found out much later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from twinstep.errors import ProtocolError, StateError

DEPTH_MAX = 64
INT_BYTES_MAX = 1024

TUPLE, SET, FROZENSET, PAIRS, INT, BLOB, COMPLEX, ORDERED, COUNTER = range(1, 10)
ALLOWED = (
    "None, bool, int, float, complex, str, bytes, tensors, arrays, and lists, tuples, "
    "sets and dicts of these"
)


class Blob(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A small array: what kind the adapter made it of, and its bytes."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


ToBlob = Callable[[Any], "Blob | None"]
FromBlob = Callable[[Blob], Any]


def _no_blob(value: Any) -> Blob | None:
    return None


def _keep_blob(blob: Blob) -> Any:
    return blob


def encode_plain(value: Any, *, path: str, to_blob: ToBlob = _no_blob) -> bytes:
    """Returns `value` as msgpack; `path` is what errors call it.

    Raises: StateError naming the path of the first value that is not plain data."""
    return msgspec.msgpack.encode(_encodable(value, path, to_blob, 0))


def decode_plain(data: Any, *, from_blob: FromBlob = _keep_blob) -> Any:
    """Returns the value that `data` encodes.

    Raises: ProtocolError when `data` is not the encoding of any value."""
    try:
        return _decoded(data, from_blob, 0)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"values of a manifest make no sense: {error}") from error


def _encodable(value: Any, path: str, to_blob: ToBlob, depth: int) -> Any:
    kind = _kind(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else _wide(value, path)
    if depth >= DEPTH_MAX:
        raise StateError(
            f"{path} is nested more than {DEPTH_MAX} deep, or contains itself; "
            "flatten it, or leave it out of the state"
        )
    if kind in (list, tuple):
        items = [
            _encodable(item, f"{path}[{index}]", to_blob, depth + 1)
            for index, item in enumerate(value)
        ]
        return items if kind is list else _ext(TUPLE, items)
    if kind in (dict, OrderedDict, Counter, defaultdict):
        return _encodable_dict(value, path, to_blob, depth)
    if kind in (set, frozenset):
        items = [_encodable(item, f"{path}{{}}", to_blob, depth + 1) for item in value]
        return _ext(SET if kind is set else FROZENSET, items)
    if kind is complex:
        return _ext(COMPLEX, [value.real, value.imag])
    blob = to_blob(value)
    if blob is not None:
        return _ext(BLOB, blob)
    raise StateError(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be "
        f"captured; allowed: {ALLOWED}. Leave it out of state_dict(), or put plain "
        "data in its place and rebuild it in load_state_dict()"
    )


def _encodable_dict(value: Any, path: str, to_blob: ToBlob, depth: int) -> Any:
    kind = _kind(value)
    if kind in (dict, defaultdict) and all(type(key) is str for key in value):
        return {
            key: _encodable(item, f"{path}[{key!r}]", to_blob, depth + 1)
            for key, item in value.items()
        }
    pairs = [
        (
            _encodable(key, f"{path} key {key!r}", to_blob, depth + 1),
            _encodable(item, f"{path}[{key!r}]", to_blob, depth + 1),
        )
        for key, item in value.items()
    ]
    codes: dict[type[object], int] = {OrderedDict: ORDERED, Counter: COUNTER}
    return _ext(codes.get(kind, PAIRS), pairs)


def _kind(value: object) -> type[object]:
    return type(value)


def _wide(value: int, path: str) -> msgspec.msgpack.Ext:
    size = value.bit_length() // 8 + 1
    if size > INT_BYTES_MAX:
        raise StateError(
            f"{path} is an integer of {size} bytes; at most {INT_BYTES_MAX}"
        )
    return msgspec.msgpack.Ext(INT, value.to_bytes(size, "little", signed=True))


def _ext(code: int, content: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))


def _decoded(data: Any, from_blob: FromBlob, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise ValueError(f"nested more than {DEPTH_MAX} deep")

    def extension(code: int, content: memoryview) -> Any:
        if code == INT:
            if not 0 < len(content) <= INT_BYTES_MAX:
                raise ValueError(f"an integer of {len(content)} bytes")
            return int.from_bytes(content, "little", signed=True)
        if code == BLOB:
            return from_blob(msgspec.msgpack.decode(content, type=Blob))
        inner = _decoded(content, from_blob, depth + 1)
        if type(inner) is not list:
            raise ValueError(f"extension {code} holds no list")
        return _rebuilt(code, inner)  # pyright: ignore[reportUnknownArgumentType]

    return msgspec.msgpack.decode(data, ext_hook=extension)


def _rebuilt(code: int, items: list[Any]) -> Any:
    match code:
        case 1:
            return tuple(items)
        case 2:
            return set(items)
        case 3:
            return frozenset(items)
        case 4:
            return _pairs(items)
        case 7:
            real, imag = items
            return complex(real, imag)
        case 8:
            return OrderedDict(_pairs(items))
        case 9:
            return Counter(_pairs(items))
        case _:
            raise ValueError(f"extension {code} is unknown")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = dict(items)
    if len(result) != len(items):
        raise ValueError("a key comes twice")
    return result
