"""What the emitter writes, Python's own reader reads as what it was."""

from __future__ import annotations

import math
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinstep.store.pickles import (
    BATCH,
    Call,
    Filled,
    Form,
    Global,
    Object,
    Pairs,
    Persistent,
    dump,
)

keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
leaves = keys | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
plain = st.recursive(
    leaves | st.sets(keys) | st.frozensets(keys),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
    ),
    max_leaves=20,
)


@given(plain)
def test_plain_data_comes_back(value: Any) -> None:
    loaded = pickle.loads(dump(value))
    assert loaded == value and type(loaded) is type(value)


@pytest.mark.parametrize("bits", [7, 8, 15, 16, 31, 32, 63, 64, 2039, 2040, 9000])
def test_integers_of_all_widths_come_back(bits: int) -> None:
    values = [sign * (1 << bits) + more for sign in (1, -1) for more in (-1, 0, 1)]
    assert pickle.loads(dump(values)) == values


def test_odd_floats_come_back() -> None:
    values = [math.inf, -0.0, 5e-324]
    assert repr(pickle.loads(dump(values))) == repr(values)
    assert math.isnan(pickle.loads(dump(math.nan)))


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_long_ones_come_back(count: int) -> None:
    assert pickle.loads(dump(list(range(count)))) == list(range(count))
    many = {str(key): key for key in range(count)}
    assert pickle.loads(dump(many)) == many


class Thing:
    pass


def test_nodes_name_classes_that_the_reader_has() -> None:
    kind = Global(__name__, "Thing")
    size = Call(Global("builtins", "slice"), (1, 2))
    things = pickle.loads(dump([Object(kind, {"size": size}), Object(kind, None)]))
    assert [type(thing) for thing in things] == [Thing, Thing]
    assert [vars(thing) for thing in things] == [{"size": slice(1, 2)}, {}]


def test_objects_of_a_form_are_as_others() -> None:
    form = Form(Global(__name__, "Thing"), ("first", "second"))
    rows = [(1, "a"), (70000, None), ([2], "a")]
    things = pickle.loads(dump([Filled(form, row) for row in rows]))
    assert [tuple(vars(thing).items()) for thing in things] == [
        (("first", first), ("second", second)) for first, second in rows
    ]


def test_pairs_are_a_dict_whose_keys_may_be_nodes() -> None:
    key = Call(Global("builtins", "tuple"), ([1],))
    assert pickle.loads(dump(Pairs([(key, 2), ("a", 3)]))) == {(1,): 2, "a": 3}


def test_strings_and_calls_that_repeat_are_written_once() -> None:
    call = Call(Global("builtins", "slice"), (1, 20000))
    data = dump([("name" * 9, call), ("name" * 9, call)])
    codes = [code.name for code, _, _ in pickletools.genops(data)]
    assert codes.count("BINUNICODE") == codes.count("REDUCE") == 1
    (_, first), (_, second) = pickle.loads(data)
    assert first is second


def test_values_that_are_equal_but_not_the_same_stay_apart() -> None:
    """True == 1 == 1.0, so that a call of one must not be taken for the other's."""
    kind = Global("builtins", "repr")
    values = [Call(kind, (value,)) for value in (1, 1.0, True, -0.0, 0.0)]
    assert pickle.loads(dump(values)) == ["1", "1.0", "True", "-0.0", "0.0"]


def test_calls_with_lists_are_made_anew() -> None:
    kind = Global("builtins", "sorted")
    first, second = pickle.loads(dump([Call(kind, ([2, 1],)) for _ in range(2)]))
    assert first == second == [1, 2] and first is not second


def test_only_old_opcodes_are_used() -> None:
    value = {"a": [1 << 80, b"x", {2}, (1, 2, 3, 4), Persistent(("storage", "0"))]}
    assert max(code.proto for code, _, _ in pickletools.genops(dump(value))) <= 2


def test_other_types_are_refused_unless_converted() -> None:
    with pytest.raises(TypeError, match="range"):
        dump([range(2)])
    assert pickle.loads(dump([range(2)], convert=list)) == [[0, 1]]
