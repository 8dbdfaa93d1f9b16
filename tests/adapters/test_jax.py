"""A state in JAX becomes bytes and comes back, bit by bit, and is never torn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy
import pytest

from twinstep.adapters.jax import JaxState
from twinstep.adapters.jax_spread import Spread, spread_of
from twinstep.capture.manifest import read_manifest
from twinstep.capture.snapshot import Held, LayoutChanged
from twinstep.errors import StateError
from twinstep.transfer.sender import hash_copy

CHUNK_BYTES = 4096
NOTHING = memoryview(bytearray())


class Moments(NamedTuple):
    mean: Any
    square: Any


@jax.tree_util.register_dataclass
@dataclass
class Settings:
    rate: float
    name: str


class Loader:
    def __init__(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def everything(seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    return {
        "weights": jax.random.normal(key, (40, 30)),
        "small": jnp.arange(5, dtype=jnp.bfloat16) * seed,
        "moments": Moments(jnp.full((3,), 1.0 * seed), jnp.zeros((), jnp.int32)),
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "settings": Settings(rate=0.5 * seed, name=f"run {seed}"),
        "flags": [True, None, b"\x00", seed],
        "host": numpy.arange(6, dtype=numpy.int16).reshape(2, 3) * seed,
        "number": numpy.float32(0.1 * seed),
        "empty": jnp.zeros((0, 3)),
    }


def bits(leaf: Any) -> Any:
    """All that makes a leaf what it is, and can be compared."""
    if not isinstance(leaf, jax.Array):
        return type(leaf), numpy.asarray(leaf).tobytes()
    raw = leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raw = jax.random.key_data(leaf)
    committed, weak = leaf.committed, raw.weak_type
    return str(leaf.aval), leaf.sharding, committed, weak, numpy.asarray(raw).tobytes()


def same(one: Any, other: Any) -> bool:
    (a, a_structure), (b, b_structure) = jax.tree.flatten(one), jax.tree.flatten(other)
    return a_structure == b_structure and list(map(bits, a)) == list(map(bits, b))


def held(adapter: JaxState, state: Any, step: int = 1) -> Held:
    adapter.offer(state)
    if adapter._plan is None:
        adapter.layout()
    return adapter.hold(step)


def copied(adapter: JaxState, found: Held) -> memoryview:
    assert adapter._plan is not None
    own = memoryview(bytearray(adapter._plan.layout.own_bytes))
    finish = adapter.copy(
        found, own=own, shared=NOTHING, shared_range=range(0), chunk_bytes=CHUNK_BYTES
    )
    assert finish().own == hash_copy(own, len(own), CHUNK_BYTES)
    return own


def restored(like: Any, own: memoryview, **objects: object) -> tuple[Any, int]:
    adapter = JaxState(objects)
    adapter.offer(like)
    step = adapter.restore(own, [])
    return adapter.restored(), step


def test_every_kind_of_leaf_comes_back_bit_by_bit() -> None:
    adapter, loader = JaxState({"loader": (first := Loader())}), Loader()
    first.position = 12
    state = everything(3)
    own = copied(adapter, held(adapter, state, 7))
    found, step = restored(everything(5), own, loader=loader)
    assert (step, loader.position) == (7, 12)
    assert same(found, state)
    assert not same(found, everything(5))


def test_a_shape_is_enough_to_restore_to_but_not_to_begin_with() -> None:
    adapter = JaxState({})
    state = {"a": jnp.arange(4.0), "key": jax.random.key(1)}
    own = copied(adapter, held(adapter, state))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    found, _ = restored(like, own)
    assert numpy.array_equal(found["a"], state["a"])
    assert jnp.array_equal(jax.random.key_data(found["key"]), jnp.array([0, 1]))
    first = JaxState({})
    first.offer(like)
    with pytest.raises(StateError, match=r"state\['a'\] is a jax.ShapeDtypeStruct"):
        first.restored()


def test_the_weak_type_is_that_of_the_captured_array() -> None:
    adapter = JaxState({})
    own = copied(adapter, held(adapter, {"scale": jnp.full((2,), 3.0)}))
    found, _ = restored({"scale": jnp.zeros((2,), jnp.float32)}, own)
    half = jnp.ones((2,), jnp.bfloat16)
    assert (found["scale"] * half).dtype == jnp.bfloat16


def test_a_host_array_that_is_written_to_is_copied_at_once() -> None:
    adapter, host = JaxState({}), numpy.ones(4)
    found = held(adapter, {"host": host, "count": 1})
    host[:] = 2
    assert restored({"host": host, "count": 0}, copied(adapter, found))[0][
        "host"
    ].tolist() == [1, 1, 1, 1]


@pytest.fixture(scope="module")
def update() -> Callable[[Any], Any]:
    """An update that donates its state, and takes a while."""

    def body(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        slow = jnp.sort(state["a"][::-1])
        return {"a": state["a"] * 1.5 + slow * 0, "b": state["b"] + 1}

    return jax.jit(body, donate_argnums=0)


def test_a_state_that_was_donated_is_not_captured_and_the_next_ones_are(
    update: Callable[[Any], Any],
) -> None:
    adapter = JaxState({})
    state = {"a": jnp.arange(200_000.0), "b": jnp.ones(3)}
    late = held(adapter, state)
    state = update(state)
    with pytest.raises(StateError, match=r"session.fence\(\) before each update"):
        copied(adapter, late)
    for step in range(2, 5):
        expected = jax.tree.map(numpy.array, state)
        found = held(adapter, state, step)
        donated, state = state, update(state)
        own = copied(adapter, found)
        assert donated["a"].is_deleted()
        again, _ = restored(state, own)
        assert numpy.array_equal(again["a"], expected["a"])
        assert numpy.array_equal(again["b"], expected["b"])


def test_donation_that_nobody_waited_for_is_seen_at_the_next_step(
    update: Callable[[Any], Any],
) -> None:
    adapter = JaxState({})
    state = {"a": jnp.arange(200_000.0), "b": jnp.ones(3)}
    found = held(adapter, state, 1)
    state = update(state)
    found = held(adapter, state, 2)
    expected = numpy.array(state["a"])
    update(state)
    again, _ = restored(everything_like(expected), copied(adapter, found))
    assert numpy.array_equal(again["a"], expected)


def everything_like(array: Any) -> dict[str, jax.Array]:
    return {"a": jnp.zeros(array.shape, array.dtype), "b": jnp.zeros(3)}


def test_a_copy_leaves_the_state_fit_to_be_donated(
    update: Callable[[Any], Any],
) -> None:
    adapter = JaxState({})
    state = update({"a": jnp.arange(200_000.0), "b": jnp.ones(3)})
    copied(adapter, held(adapter, state))
    before = state["a"].unsafe_buffer_pointer()
    after = update(state)
    assert state["a"].is_deleted()
    assert after["a"].unsafe_buffer_pointer() == before


def test_a_copy_under_way_keeps_its_bytes_though_the_loop_donates(
    update: Callable[[Any], Any],
) -> None:
    adapter = JaxState({})
    state = update({"a": jnp.arange(200_000.0), "b": jnp.ones(3)})
    found = held(adapter, state)
    _, kept = found.mark  # type: ignore[misc]
    views = adapter._keeper.views(kept)
    before = views[0].copy()
    jax.block_until_ready(update(state))
    assert numpy.array_equal(views[0], before)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": object()}, r"state\['a'\] is a builtins.object.*register_dataclass"),
        ({"a": [jnp.ones(2, jnp.int4)]}, r"state\['a'\]\[0\] has dtype int4"),
        ({"a": numpy.array(["x"])}, r"state\['a'\] is a NumPy array of <U1"),
        ({"a": lambda: 0}, r"state\['a'\] is a builtins.function"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(state: Any, says: str) -> None:
    adapter = JaxState({})
    adapter.offer(state)
    with pytest.raises(StateError, match=says):
        adapter.layout()


def test_a_traced_state_is_refused() -> None:
    adapter = JaxState({})

    def step(x: jax.Array) -> jax.Array:
        adapter.offer(x)
        with pytest.raises(StateError, match="outside of jit"):
            adapter.layout()
        return x

    jax.jit(step)(jnp.ones(2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": jnp.zeros((40, 31))}, r"state\['weights'\].*\(40, 31\)"),
        ({"weights": jnp.zeros((40, 30), jnp.float16)}, "float16"),
        ({"weights": 1}, r"captured as float32 \(40, 30\).*a plain value"),
        ({"more": jnp.zeros(1)}, r"state\['more'\] is an array in `like`, but was not"),
        ({"more": 1}, r"state\['more'\] is in `like`, but was not captured"),
        ({"flags": [True, None, b""]}, r"state\['flags'\]\[3\] was captured, but is"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "a key of threefry2x32, and is none"),
        ({"settings": jnp.zeros(1)}, r"state\['settings'\] is an array in `like`"),
    ],
)
def test_a_difference_names_the_leaf_and_both_sides(change: Any, says: str) -> None:
    adapter = JaxState({})
    own = copied(adapter, held(adapter, everything(3)))
    with pytest.raises(StateError, match=says):
        restored(everything(5) | change, own)


def test_objects_must_be_those_that_were_captured() -> None:
    adapter = JaxState({"loader": Loader()})
    own = copied(adapter, held(adapter, {"a": jnp.ones(1)}))
    with pytest.raises(
        StateError, match=r"captured objects: \['loader'\]; given: \[\]"
    ):
        restored({"a": jnp.ones(1)}, own)
    with pytest.raises(StateError, match="weights is a ArrayImpl; beside a state"):
        JaxState({"weights": jnp.ones(1)})


@pytest.mark.parametrize(
    "change",
    [
        {"weights": jnp.zeros((1,))},
        {"weights": 3},
        {"key": jax.ShapeDtypeStruct((), jnp.float32)},
        {"host": numpy.zeros((2, 3), numpy.int32)},
        {"number": jnp.ones(())},
        {"new": 1},
    ],
)
def test_a_state_that_changed_its_form_is_laid_out_anew(change: Any) -> None:
    adapter = JaxState({})
    held(adapter, everything(1))
    adapter.offer(everything(2) | change)
    with pytest.raises(LayoutChanged, match="the state changed after it was laid out"):
        adapter.hold(2)


def test_a_state_of_the_same_form_fits_whatever_computed_it() -> None:
    adapter = JaxState({})
    held(adapter, everything(1))
    state = everything(2)
    state["moments"] = Moments(
        jnp.full((3,), 2.0, jnp.float32), state["moments"].square
    )
    own = copied(adapter, held(adapter, state, 2))
    assert same(restored(everything(5), own)[0], state)


def test_entries_lie_apart_and_what_one_process_holds_is_its_own() -> None:
    adapter = JaxState({})
    own = copied(adapter, held(adapter, everything(1)))
    entries = read_manifest(own).entries
    assert {entry.region for entry in entries} == {"own"}
    assert len(entries) == 8


def test_what_no_array_has_of_the_shared_region_is_blank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bit that was flipped there would make one machine's digests differ for ever."""

    def everywhere(sharding: Any, shape: tuple[int, ...]) -> Spread:
        return replace(spread_of(sharding, shape), shared=True)

    monkeypatch.setattr("twinstep.adapters.jax_plan.spread_of", everywhere)
    adapter = JaxState({})
    found = held(adapter, {"a": jnp.arange(5.0), "step": jnp.int32(3)})
    assert adapter._plan is not None
    size = adapter._plan.layout.shared_bytes
    own = memoryview(bytearray(adapter._plan.layout.own_bytes))
    clean, damaged = bytearray(size), bytearray(b"\xff" * size)
    told: list[bytes] = []
    for slot in (clean, damaged):
        finish = adapter.copy(
            found,
            own=own,
            shared=memoryview(slot),
            shared_range=range(size),
            chunk_bytes=CHUNK_BYTES,
        )
        told.append(finish().shared)
    assert size == 128 and clean == damaged and told[0] == told[1]
