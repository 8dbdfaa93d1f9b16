"""States on meshes of eight devices, captured and restored to other meshes.

    python -m tests.adapters.jax_meshes

A process of its own, since the number of devices is fixed when JAX begins. Exits with
an AssertionError when a bit differs; prints what it has shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from msgspec.structs import replace

from tests.adapters.stored_steps import stored_step
from twinstep.adapters.jax import JaxState
from twinstep.capture.manifest import read_manifest
from twinstep.capture.snapshot import LayoutChanged
from twinstep.errors import StateError

SPECS = {
    "rows": PartitionSpec("x"),
    "columns": PartitionSpec(None, "y"),
    "both": PartitionSpec("x", "y"),
    "crossed": PartitionSpec("y", "x"),
    "nothing": PartitionSpec(),
}


@dataclass(kw_only=True)
class Slots:
    """As tests.adapters.small_runs has them, without torch."""

    own: memoryview
    shared: list[memoryview]


def state_on(mesh: Mesh, *, seed: int, swap: bool = False) -> dict[str, Any]:
    """A state whose arrays are sharded by their names; `swap`: by another's."""
    names = list(SPECS)
    specs = dict(zip(names, reversed(SPECS.values()), strict=True)) if swap else SPECS
    state: dict[str, Any] = {}
    for at, (name, spec) in enumerate(specs.items()):
        whole = numpy.arange(8 * 16, dtype=numpy.float32).reshape(8, 16) + 1000 * at
        state[name] = jax.device_put(whole * seed, NamedSharding(mesh, spec))
    keys = jax.random.split(jax.random.key(seed), 8)
    state["keys"] = jax.device_put(keys, NamedSharding(mesh, PartitionSpec("x")))
    state["step"] = seed
    return state


def capture(state: Any) -> Slots:
    adapter = JaxState({})
    adapter.offer(state)
    layout = adapter.layout()
    slots = Slots(own=memoryview(bytearray(layout.own_bytes)), shared=[])
    held = adapter.hold(3)
    empty = memoryview(bytearray())
    adapter.copy(held, own=slots.own, shared=empty, shared_range=range(0))()
    return slots


def check(found: Any, expected: Any, like: Any) -> None:
    for name, array in expected.items():
        if name == "step":
            assert found[name] == array
            continue
        assert found[name].sharding == like[name].sharding, name
        one, other = found[name], array
        if name == "keys":
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert numpy.array_equal(one, other), name


def mesh_of(*shape: int) -> Mesh:
    count = int(numpy.prod(shape))
    return Mesh(numpy.array(jax.devices()[:count]).reshape(shape), ("x", "y"))


def a_box_is_captured_once() -> None:
    entries = read_manifest(capture(state_on(mesh_of(2, 4), seed=3)).own).entries
    counts = {
        name: sum(e.name == f"state['{name}']" for e in entries) for name in SPECS
    }
    assert counts == {"rows": 2, "columns": 4, "both": 8, "crossed": 8, "nothing": 1}
    sizes = {
        name: sum(e.size for e in entries if e.name == f"state['{name}']")
        for name in SPECS
    }
    assert set(sizes.values()) == {8 * 16 * 4}


def any_mesh_restores_from_memory_and_storage() -> None:
    expected = state_on(mesh_of(2, 4), seed=3)
    slots: Any = capture(expected)
    stored = stored_step([slots])
    for shape, swap in (
        ((2, 4), False),
        ((4, 2), True),
        ((8, 1), False),
        ((1, 1), True),
    ):
        like = state_on(mesh_of(*shape), seed=5, swap=swap)
        for source in ("memory", "storage"):
            adapter = JaxState({})
            adapter.offer(like)
            if source == "memory":
                assert adapter.restore(slots.own, []) == 3
            else:
                assert adapter.restore_stored(stored, rank=0, world_size=1) == 3
            check(adapter.restored(), expected, like)


def one_process_goes_on_from_the_boxes_of_two() -> None:
    """Two ranks that each hold half of the rows, as two processes would."""
    whole = state_on(mesh_of(2, 4), seed=3)
    twice: list[Any] = [capture(whole), capture(whole)]
    stored = stored_step(twice)
    halves = [b for b in stored.contents.boxes if b.owner == b.offsets[0] // 4]
    stored.contents = replace(stored.contents, boxes=halves)
    like = state_on(mesh_of(4, 2), seed=5)
    adapter = JaxState({})
    adapter.offer(like)
    assert adapter.restore_stored(stored, rank=0, world_size=1) == 3
    check(adapter.restored(), whole, like)
    assert "there are now 1: state['step'] have" in adapter.warnings[0]
    lost = [box for box in halves if box.offsets != (4, 0)]
    stored.contents = replace(stored.contents, boxes=lost)
    adapter.offer(like)
    with pytest.raises(StateError, match="stored only in part"):
        adapter.restore_stored(stored, rank=0, world_size=1)


def another_sharding_is_another_layout() -> None:
    adapter = JaxState({})
    adapter.offer(state_on(mesh_of(2, 4), seed=3))
    adapter.layout()
    adapter.offer(state_on(mesh_of(4, 2), seed=3))
    with pytest.raises(LayoutChanged, match=r"state\['\w+'\] has NamedSharding"):
        adapter.hold(4)


def a_shape_with_a_sharding_is_enough() -> None:
    expected = state_on(mesh_of(2, 4), seed=3)
    slots = capture(expected)
    real = state_on(mesh_of(4, 2), seed=5)
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        if isinstance(x, jax.Array)
        else x
        for name, x in real.items()
    }
    adapter = JaxState({})
    adapter.offer(like)
    adapter.restore(slots.own, [])
    check(adapter.restored(), expected, like)


def every_device_of_a_sharded_state_copies_its_own_when_it_is_donated() -> None:
    mesh = mesh_of(2, 4)
    update = jax.jit(
        lambda s: {"a": jnp.sort(s["a"] + 1, axis=1), "b": s["b"] + 1}, donate_argnums=0
    )
    sharded = NamedSharding(mesh, PartitionSpec("x", None))
    state = {
        "a": jax.device_put(jnp.zeros((8, 4096)), sharded),
        "b": jax.device_put(jnp.ones(3), NamedSharding(mesh, PartitionSpec())),
    }
    adapter = JaxState({})
    adapter._keeper.donates = True
    adapter.offer(state)
    layout = adapter.layout()
    for step in range(1, 4):
        expected = numpy.array(state["a"])
        adapter.offer(state)
        held = adapter.hold(step)
        donated, state = state, update(state)
        own = memoryview(bytearray(layout.own_bytes))
        empty = memoryview(bytearray())
        adapter.copy(held, own=own, shared=empty, shared_range=range(0))()
        assert donated["a"].is_deleted()
        reader = JaxState({})
        reader.offer({"a": jnp.zeros((8, 4096)), "b": jnp.zeros(3)})
        reader.restore(own, [])
        found: Any = reader.restored()
        assert numpy.array_equal(found["a"], expected)
        assert isinstance(found["a"].sharding, SingleDeviceSharding)


CHECKS = (
    a_box_is_captured_once,
    any_mesh_restores_from_memory_and_storage,
    one_process_goes_on_from_the_boxes_of_two,
    another_sharding_is_another_layout,
    a_shape_with_a_sharding_is_enough,
    every_device_of_a_sharded_state_copies_its_own_when_it_is_donated,
)

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    for each in CHECKS:
        each()
        print(each.__name__, flush=True)
