"""How plain data and a few named nodes become a pickle, for readers that are not ours.

torch.save() and torch.distributed.checkpoint keep pickles, and agents write what these
read without torch being there: a class is named, never imported. Twinstep only writes
pickles. What it reads of other people's it reads in store/foreign.py, where nothing is
called.

Only opcodes of protocol 2 are used, as the reader behind torch.load(weights_only=True)
knows no other. What repeats is written once and referred to, which keeps the metadata
of 100,000 tensors small: equal strings, globals, and a call that is the very same node,
so that only what makes an immutable value, as torch.Size does, may be in two places.
Lists and dicts are written each time: data must not contain itself.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple, cast

BATCH = 1000
"""Items of a list or dict that the reader has on its stack at a time."""
TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}
SMALL = [b"K" + bytes([value]) for value in range(256)]


class Global(NamedTuple):
    """A class or function, by its name."""

    module: str
    name: str


class Call(NamedTuple):
    """What `function(*args)` returns in the reader: an immutable value."""

    function: Global
    args: tuple[Any, ...]


class Object(NamedTuple):
    """An instance that was not initialised but given its state; None for no state."""

    kind: Global
    state: Any


class Form(NamedTuple):
    """What many objects have alike: the class, and the names in their state."""

    kind: Global
    names: tuple[str, ...]


class Filled(NamedTuple):
    """An Object of a form. Four times as fast, as all but the values is known."""

    form: Form
    values: tuple[Any, ...]


class Pairs(NamedTuple):
    """A dict whose keys are nodes; consumed as it is written."""

    items: Iterable[tuple[Any, Any]]


class Persistent(NamedTuple):
    """What the reader's persistent_load makes of a value."""

    value: Any


Convert = Callable[[Any], Any]
"""Returns plain data or a node for a value of another type."""

SET = Global("__builtin__", "set")
FROZENSET = Global("__builtin__", "frozenset")
COMPLEX = Global("__builtin__", "complex")
ENCODE = Global("_codecs", "encode")
ORDERED_DICT = Global("collections", "OrderedDict")
COUNTER = Global("collections", "Counter")


_NEVER = Global("", "")
"""What no memo has."""


def _key(item: object) -> str | int | Global:
    """What a value is in the memo by."""
    if isinstance(item, str):
        return item
    return id(item) if isinstance(item, Call) else _NEVER


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value)} is neither plain data nor a node of a pickle")


def dump(value: Any, *, convert: Convert = _refuse) -> bytes:
    """Returns the pickle of plain data and nodes; `convert` is asked for all else.

    Raises: TypeError for what `convert` refuses."""
    emitter = _Emitter(convert)
    emitter.out += b"\x80\x02"
    emitter.emit(value)
    emitter.out += b"."
    return bytes(emitter.out)


class _Emitter:
    def __init__(self, convert: Convert) -> None:
        self.out = bytearray()
        self._convert = convert
        self._memo: dict[str | Global | int, bytes] = {}
        self._forms: dict[Form, list[bytes]] = {}
        self._kept: list[Call] = []
        """Calls in the memo, so that no other gets their id."""
        self._writers: dict[type, Callable[[Any], None]] = {
            type(None): lambda _: self._raw(b"N"),
            bool: lambda value: self._raw(b"\x88" if value else b"\x89"),
            int: self._int,
            float: lambda value: self._raw(b"G" + struct.pack(">d", value)),
            complex: lambda value: self._called(COMPLEX, (value.real, value.imag)),
            str: self._str,
            bytes: lambda value: self._called(
                ENCODE, (value.decode("latin1"), "latin1")
            ),
            tuple: self._tuple,
            list: self._list,
            dict: self._dict,
            OrderedDict: self._ordered,
            Counter: lambda value: self._called(COUNTER, (dict(value),)),
            set: lambda value: self._called(SET, (list(value),)),
            frozenset: lambda value: self._called(FROZENSET, (list(value),)),
            Global: self._global,
            Call: self._call,
            Object: self._object,
            Filled: self._filled,
            Pairs: self._pairs,
            Persistent: self._persistent,
        }

    def emit(self, value: object) -> None:
        kind = type(value)
        if kind is str:
            known = self._memo.get(cast("str", value))
            if known is not None:
                self.out += known
                return
        writer = self._writers.get(kind)
        if writer is None:
            self.emit(self._convert(value))
        else:
            writer(value)

    def _raw(self, data: bytes) -> None:
        self.out += data

    def _recall(self, key: str | Global | int) -> bool:
        known = self._memo.get(key)
        if known is None:
            return False
        self.out += known
        return True

    def _remember(self, key: str | Global | int) -> None:
        number = len(self._memo)
        if number < 256:
            self.out += b"q" + bytes([number])
            self._memo[key] = b"h" + bytes([number])
        else:
            packed = struct.pack("<I", number)
            self.out += b"r" + packed
            self._memo[key] = b"j" + packed

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += SMALL[value]
        elif 0 <= value < 1 << 16:
            self.out += struct.pack("<cH", b"M", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += struct.pack("<ci", b"J", value)
        else:
            size = value.bit_length() // 8 + 1
            head = b"\x8a" + bytes([size]) if size < 256 else b""
            self.out += head or b"\x8b" + struct.pack("<i", size)
            self.out += value.to_bytes(size, "little", signed=True)

    def _str(self, value: str) -> None:
        data = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + struct.pack("<I", len(data)) + data
        self._remember(value)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if not value:
            self.out += b")"
            return
        if len(value) > 3:
            self.out += b"("
        for item in value:
            self.emit(item)
        self.out += TUPLES.get(len(value), b"t")

    def _list(self, value: list[Any]) -> None:
        self.out += b"]"
        self._batches(value, b"e", self.emit)

    def _dict(self, value: dict[Any, Any]) -> None:
        self._pairs(Pairs(value.items()))

    def _pairs(self, value: Pairs) -> None:
        self.out += b"}"
        self._batches(value.items, b"u", self._pair)

    def _pair(self, pair: tuple[Any, Any]) -> None:
        self.emit(pair[0])
        self.emit(pair[1])

    def _batches(
        self, items: Iterable[Any], end: bytes, write: Callable[[Any], None]
    ) -> None:
        rest = iter(items)
        while batch := list(islice(rest, BATCH)):
            self.out += b"("
            for item in batch:
                write(item)
            self.out += end

    def _ordered(self, value: OrderedDict[Any, Any]) -> None:
        self._called(ORDERED_DICT, ())
        self._batches(value.items(), b"u", self._pair)

    def _called(self, function: Global, args: tuple[Any, ...]) -> None:
        self._global(function)
        self._tuple(args)
        self.out += b"R"

    def _global(self, value: Global) -> None:
        if not self._recall(value):
            self.out += f"c{value.module}\n{value.name}\n".encode()
            self._remember(value)

    def _call(self, value: Call) -> None:
        if not self._recall(id(value)):
            self._called(value.function, value.args)
            self._remember(id(value))
            self._kept.append(value)

    def _object(self, value: Object) -> None:
        self._global(value.kind)
        self.out += b")\x81"
        if value.state is not None:
            self.emit(value.state)
            self.out += b"b"

    def _filled(self, value: Filled) -> None:
        form, values = value
        between = self._forms.get(form)
        if between is None:
            self._object(Object(form.kind, dict(zip(form.names, values, strict=True))))
            first, *names = (self._memo[name] for name in form.names)
            opening = self._memo[form.kind] + b")\x81}("
            self._forms[form] = [opening + first, *names]
            return
        out, recall = self.out, self._memo.get
        for opcodes, item in zip(between, values, strict=True):
            out += opcodes
            known = recall(_key(item))
            if known is None:
                self.emit(item)
            else:
                out += known
        out += b"ub"

    def _persistent(self, value: Persistent) -> None:
        self.emit(value.value)
        self.out += b"Q"
