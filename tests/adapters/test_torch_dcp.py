"""What DCP saves is in a slot bit by bit, and a plan that needs more is seen."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import numpy
import pytest
import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from tests.adapters.small_runs import Slots
from twinstep.adapters.state import StateAdapter
from twinstep.adapters.torch import TorchState
from twinstep.adapters.torch_dcp_items import (
    About,
    Flat,
    flat_of,
    moved,
    others,
    tensor_metadata,
)
from twinstep.adapters.torch_dcp_state import DcpState
from twinstep.capture.snapshot import LayoutChanged
from twinstep.errors import ProtocolError, StateError
from twinstep.transfer.sender import hash_copy

CHUNK_BYTES = 4096


def nested() -> dict[str, Any]:
    return {
        "model": {
            "weight": torch.randn(40, 70),
            "turned": torch.randn(9, 5).t(),
            "half": torch.randn(33).to(torch.bfloat16),
            "none": torch.empty(0, 4),
            "scalar": torch.tensor(3.5, dtype=torch.float64),
            "flags": torch.tensor([True, False]),
        },
        "epoch": 5,
        "loader": [{"at": 3}, "two"],
    }


def zeros(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: zeros(value) for key, value in state.items()}
    if isinstance(state, list):
        return [zeros(value) for value in state]
    return torch.zeros_like(state) if isinstance(state, torch.Tensor) else None


def flat(state: dict[str, Any], *, step: int | None = 7) -> Flat:
    planner = DefaultSavePlanner()
    planner.set_up_planner(state, is_coordinator=True)
    plan: SavePlan = planner.create_local_plan()
    about = About(step=step, checkpoint_id="here", saved_s=1.5)
    return flat_of(
        plan.items, planner.resolve_data, about=about, mappings=plan.planner_data
    )


def written(state: DcpState, step: int = 3) -> Slots:
    slots = Slots.of(state.layout())
    held = state.hold(step)
    finish = state.copy(
        held,
        own=slots.own,
        shared=memoryview(b""),
        shared_range=range(0),
        chunk_bytes=CHUNK_BYTES,
    )
    assert finish().own == hash_copy(slots.own, len(slots.own), CHUNK_BYTES)
    return slots


def loaded(state: DcpState, target: dict[str, Any]) -> None:
    assert state.restored is not None
    planner = DefaultLoadPlanner()
    planner.set_up_planner(target, Metadata(state.restored.metadata()), True)
    plan = planner.create_local_plan()
    assert state.restored.lacks(plan.items) == ""
    for item in plan.items:
        state.restored.read(item, planner)


def test_what_a_rank_saves_comes_back_bit_by_bit() -> None:
    saved, state = nested(), DcpState()
    assert isinstance(state, StateAdapter)
    state.put(flat(saved))
    slots = written(state)
    fresh = DcpState()
    assert fresh.restore(slots.own, []) == 3
    assert fresh.restored is not None
    assert fresh.restored.about == About(step=7, checkpoint_id="here", saved_s=1.5)
    target = zeros(saved)
    loaded(fresh, target)
    for name, tensor in saved["model"].items():
        assert torch.equal(target["model"][name], tensor), name
    assert (target["epoch"], target["loader"]) == (5, [{"at": 3}, "two"])


def test_the_slot_may_change_once_it_was_restored() -> None:
    saved, state, fresh = nested(), DcpState(), DcpState()
    state.put(flat(saved))
    slots = written(state)
    fresh.restore(slots.own, [])
    slots.own[:] = bytes(len(slots.own))
    target = zeros(saved)
    loaded(fresh, target)
    assert torch.equal(target["model"]["weight"], saved["model"]["weight"])


def test_the_callers_tensors_are_given_up() -> None:
    memory, state = numpy.ones(5), DcpState()
    gone = weakref.ref(memory)
    state.put(flat({"w": torch.from_numpy(memory)}))
    held = state.hold(1) if state.layout() else None
    del memory
    gc.collect()
    assert gone() is not None, "it would not be there for the copy"
    state.give_up()
    gc.collect()
    assert held is not None and gone() is None


def test_another_state_does_not_fit_and_is_laid_out_anew() -> None:
    state = DcpState()
    state.put(flat({"a": torch.zeros(3)}))
    state.layout()
    for other in ({"a": torch.zeros(4)}, {"b": torch.zeros(3)}, {}):
        state.put(flat(other))
        with pytest.raises(LayoutChanged, match="other tensors"):
            state.hold(2)
    state.put(flat({"a": torch.zeros(3), "text": "x" * 200_000}))
    with pytest.raises(LayoutChanged, match="grew to"):
        state.hold(2)
    state.layout()
    assert state.hold(2).step == 2
    state.put(None, why="it is odd")
    with pytest.raises(LayoutChanged, match="it is odd"):
        state.layout()


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(StateError, match=r"odd is a torch\.sparse_coo"):
        flat({"odd": torch.eye(3).to_sparse()})


def test_a_slot_of_something_else_is_refused() -> None:
    other = TorchState({"model": torch.nn.Linear(2, 2)})
    slots = Slots.of(other.layout())
    slots.write(other, other.hold(1))
    with pytest.raises(ProtocolError, match="not a state that DCP saved"):
        DcpState().restore(slots.own, [])


@pytest.mark.parametrize(
    ("whole", "own"),
    [
        ((), [((), ())]),
        ((7,), [((2,), (3,))]),
        ((4, 5), []),
        ((4, 5), [((0, 0), (4, 5))]),
        ((4, 5), [((1, 2), (2, 2))]),
        ((4, 5, 3), [((1, 0, 1), (2, 5, 1)), ((0, 0, 0), (1, 1, 3))]),
        ((0, 4), []),
    ],
)
def test_boxes_and_the_others_cover_a_tensor_once(whole: Any, own: Any) -> None:
    seen = torch.zeros(whole, dtype=torch.int32)
    for first, lengths in [*own, *others(whole, own)]:
        at = tuple(slice(f, f + n) for f, n in zip(first, lengths, strict=True))
        seen[at] += 1
    assert torch.equal(seen, torch.ones(whole, dtype=torch.int32))


def test_a_plan_that_needs_more_than_the_own_part_is_seen_and_moved() -> None:
    """Rows 2 and 3 of 6 were saved; rows 1 to 4 are asked for, and found in files that
    have been cut into columns."""
    half = torch.arange(24.0).reshape(6, 4)
    state = DcpState()
    state.put(flat({"w": half}))
    found = state.layout() and written(state)
    restored = DcpState()
    restored.restore(found.own, [])
    assert restored.restored is not None
    (entry,) = restored.restored.boxes.values()
    del restored.restored.boxes["w", (0, 0)]
    restored.restored.boxes["w", (2, 0)] = type(entry)(
        name=entry.name,
        dtype=entry.dtype,
        global_shape=(6, 4),
        box_offsets=(2, 0),
        box_shape=(2, 4),
        offset=entry.offset,
        size=32,
        region="own",
    )
    planner = DefaultLoadPlanner()
    target = {"w": torch.zeros(6, 4)}
    planner.set_up_planner(target, Metadata(restored.restored.metadata()), True)
    items = planner.create_local_plan().items
    assert restored.restored.lacks(items) == "w"
    columns = [((0, 0), (6, 1)), ((0, 1), (6, 3))]
    there = Metadata({"w": tensor_metadata("float32", (6, 4), columns)})
    for new in itertools.chain.from_iterable(moved(item, there) for item in items):
        corner = new.storage_index.offset
        assert corner is not None and tuple(corner) in [first for first, _ in columns]
        source = half[:, corner[1] :]
        for dim in range(2):
            source = source.narrow(dim, new.storage_offsets[dim], new.lengths[dim])
        planner.resolve_tensor(new).copy_(source)
    assert torch.equal(target["w"], half)
    with pytest.raises(StateError, match="w is not in the directory"):
        moved(items[0], Metadata({}))
    small = Metadata({"w": tensor_metadata("float32", (5, 4), [])})
    with pytest.raises(StateError, match=r"w has shape \(5, 4\)"):
        [moved(item, small) for item in items]
