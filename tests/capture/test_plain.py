"""Plain data comes back as it went; all else is refused by its path."""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from twinstep.capture.plain import DEPTH_MAX, Blob, decode_plain, encode_plain
from twinstep.errors import ProtocolError, StateError

keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
scalars = keys | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.dictionaries(keys, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
        | st.dictionaries(st.text(), st.integers()).map(Counter)
    ),
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down (1 == True == 1.0 is not enough)."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(
            same(left[key], right[key]) for key in left
        )
    return repr(left) == repr(right) or (
        isinstance(left, set | frozenset) and left == right
    )


@given(trees)
def test_plain_data_comes_back(tree: Any) -> None:
    assert same(decode_plain(encode_plain(tree, path="x")), tree)


def test_integers_of_any_length_come_back() -> None:
    for value in (2**64, -(2**63) - 1, 2**64 - 1, -(2**63), 2**4000, -(2**4000)):
        assert decode_plain(encode_plain([value], path="x")) == [value]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"fn": len}, "scheduler.state['fn']"),
        ({"a": [0, {1: object()}]}, "scheduler.state['a'][1][1]"),
        ((1, (2, open)), "scheduler.state[1][1]"),
        ({(1, open): 2}, "scheduler.state key"),
        (2 ** (8 * 1500), "scheduler.state is an integer of 1501 bytes"),
    ],
)
def test_what_is_not_plain_is_refused_by_name(value: Any, path: str) -> None:
    with pytest.raises(StateError) as caught:
        encode_plain(value, path="scheduler.state")
    assert str(caught.value).startswith(path)


def test_the_refusal_says_what_is_allowed_and_the_way_out() -> None:
    with pytest.raises(StateError, match="allowed: None, bool.*load_state_dict"):
        encode_plain(len, path="x")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(StateError, match="contains itself"):
        encode_plain(loop, path="x")


def test_blobs_go_through_the_adapter() -> None:
    blob = Blob(kind="array", dtype="<f4", shape=(2,), data=b"12345678")
    data = encode_plain({"a": len}, path="x", to_blob=lambda _: blob)
    assert decode_plain(data) == {"a": blob}
    assert decode_plain(data, from_blob=lambda found: found.data) == {"a": blob.data}


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_plain(data)


@given(trees, st.data())
def test_a_changed_byte_is_data_or_refused(tree: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode_plain(tree, path="x"))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ProtocolError):
        decode_plain(bytes(encoded))


def nested(depth: int) -> bytes:
    content = b"\x90"
    for _ in range(depth):
        content = msgspec.msgpack.encode([msgspec.msgpack.Ext(1, content)])
    return content


def test_nesting_has_a_bound() -> None:
    decode_plain(nested(DEPTH_MAX))
    with pytest.raises(ProtocolError, match="nested"):
        decode_plain(nested(DEPTH_MAX + 1))
    with pytest.raises(ProtocolError):
        decode_plain(b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("code", [0, 4, 5, 6, 7, 10, 127])
def test_extensions_that_make_no_sense_are_refused(code: int) -> None:
    for content in (b"", b"\xc0", msgspec.msgpack.encode([1, 2, 3])):
        if code == 5 and content:
            continue
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, content))
        with pytest.raises(ProtocolError):
            decode_plain(data)
