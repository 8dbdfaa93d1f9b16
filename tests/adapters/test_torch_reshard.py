"""A stored step is loaded by any number of ranks, sharded in any other way.

Ranks pretend to be in a group (sharded_runs.py), so that one process is all of them,
one after the other; distributed_reshard.py is the same with real ones that train on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.ranks import ROOT
from tests.adapters.sharded_runs import (
    STEP,
    captured,
    expected,
    make_moments,
    rank_of,
    state_of,
    stored,
    whole,
)
from tests.adapters.stored_steps import InMemory, stored_step
from twinstep.adapters.sampler import GlobalSampler
from twinstep.adapters.torch import TorchState
from twinstep.adapters.torch_values import for_devices_here
from twinstep.capture.manifest import read_manifest
from twinstep.errors import Corrupt, StateError

MOMENT = "optimizer[2:model.narrow.weight].exp_avg"
kept = cache(stored)


def load(
    kind: str, world: int, step: InMemory, *ranks: int, **others: Any
) -> Iterator[tuple[int, TorchState]]:
    """Yields each rank, or those given, after it has loaded `step`."""
    for rank in ranks or range(world):
        with rank_of(rank, world):
            state = state_of(kind, **others)
            step.reads.clear()
            assert state.restore_stored(step, rank=rank, world_size=world) == STEP
            yield rank, state


@pytest.mark.parametrize(
    ("source", "kind", "world", "ranks"),
    [
        (("fsdp", 4), "fsdp", 4, (3,)),
        (("fsdp", 4), "fsdp", 3, ()),
        (("fsdp", 4), "fsdp", 2, (1,)),
        (("fsdp", 4), "fsdp", 6, (1, 2, 5)),
        (("fsdp", 4), "plain", 1, ()),
        (("hsdp", 4), "fsdp", 3, ()),
        (("hsdp", 4), "hsdp", 4, (0, 3)),
        (("hsdp", 4), "tp+fsdp", 4, (1, 2)),
        (("tp+fsdp", 4), "fsdp", 3, (1,)),
        (("tp+fsdp", 4), "tp", 3, (2,)),
        (("tp", 2), "tp", 3, ()),
        (("tp", 2), "plain", 1, ()),
        (("ddp", 2), "ddp", 3, (2,)),
        (("ddp", 2), "fsdp", 3, (0, 2)),
        (("plain", 1), "hsdp", 4, (2,)),
    ],
    ids=str,
)
def test_every_rank_gets_its_part_of_the_whole(
    source: tuple[str, int], kind: str, world: int, ranks: tuple[int, ...]
) -> None:
    step = kept(*source)
    boxes = {(box.file, box.data_at): box.name for box in step.contents.boxes}
    for rank, state in load(kind, world, step, *ranks):
        cells = state.inventory.survey(sharing=False)
        names = {cell.place.name for cell in cells}
        assert names == set(boxes.values())
        for cell in cells:
            right = expected(cell, rank % source[1])
            assert torch.equal(cell.local, right), cell.place
        assert set(step.reads.values()) == {1}
        assert {boxes[key] for key in step.reads} >= {
            cell.place.name for cell in cells if cell.local.numel()
        }


def test_a_rank_reads_only_what_it_wants() -> None:
    step = kept("fsdp", 4)
    for _ in load("fsdp", 2, step, 1):
        keys = {(b.file, b.data_at) for b in step.contents.boxes if b.name == MOMENT}
        assert len(keys & set(step.reads)) == 3 < len(keys)


def test_a_box_that_fills_two_places_is_read_once() -> None:
    """Columns from the middle come first, so that a row has its two ends left."""
    step = stored_step([captured("tp", 3)[1], *captured("fsdp", 2)])
    for _, state in load("plain", 1, step):
        for cell in state.inventory.survey(sharing=False):
            assert torch.equal(cell.local, expected(cell, 1)), cell.place
        assert set(step.reads.values()) == {1}


def test_replicas_are_counted_and_written_once() -> None:
    replicas = [
        {e.name: e.replica for e in read_manifest(slots.own).entries}
        for slots in captured("hsdp", 4)
    ]
    assert [found["model.wide.weight"] for found in replicas] == [0, 0, 1, 1]
    assert [found[MOMENT] for found in replicas] == [0, 0, 1, 1]
    assert {found["model.norm.running_mean"] for found in replicas} == {0}
    tp = [
        {e.name: e.replica for e in read_manifest(slots.own).entries}
        for slots in captured("tp", 2)
    ]
    assert [found["model.narrow.bias"] for found in tp] == [0, 1]
    assert [found["model.narrow.weight"] for found in tp] == [0, 0]


def test_moments_that_will_come_know_their_replica() -> None:
    with rank_of(3, 4):
        state = state_of("hsdp")
        state.layout()
        assert state._plan is not None
        before = dict(state._plan.entries)
        make_moments(state)
        state.layout()
        assert {n: e.replica for n, e in before.items()} == {
            n: e.replica for n, e in state._plan.entries.items()
        }


def live(state: TorchState, name: str) -> Any:
    return next(
        c for c in state.inventory.survey(sharing=False) if name in c.place.name
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: setattr(m, "late", torch.nn.Linear(2, 2)),
            "late.weight is live but",
        ),
        (
            lambda m: setattr(m, "norm", None),
            "norm.weight float32 .* is not in the live",
        ),
        (
            lambda m: setattr(m, "wide", torch.nn.Linear(6, 13)),
            r"wide.weight float32 \(12, 6\) was captured but is live as .* \(13, 6\)",
        ),
        (lambda m: m.wide.to(torch.float64), "wide.weight float32 .* live as float64"),
    ],
)
def test_what_differs_is_named_and_nothing_is_written(
    change: Callable[[Any], object], says: str
) -> None:
    step = kept("fsdp", 4)
    with rank_of(0, 1):
        model = state_of("plain").inventory.modules["model"]
        change(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        state = TorchState({"model": model, "optimizer": optimizer})
        before = [item.clone() for item in model.state_dict().values()]
        step.reads.clear()
        with pytest.raises(StateError, match=says):
            state.restore_stored(step, rank=0, world_size=1)
        assert all(map(torch.equal, before, model.state_dict().values()))
        assert not step.reads
        assert not optimizer.state


def without(step: InMemory, name: str, owner: int) -> InMemory:
    boxes = [b for b in step.contents.boxes if (b.name, b.owner) != (name, owner)]
    contents = {f: getattr(step.contents, f) for f in step.contents.__struct_fields__}
    kind = type(step.contents)
    return InMemory(contents=kind(**(contents | {"boxes": boxes})), files=step.files)


def test_a_box_that_is_missing_is_named() -> None:
    step = without(kept("fsdp", 4), "model.wide.weight", 2)
    with rank_of(0, 1), pytest.raises(StateError, match="wide.weight .* only in part"):
        state_of("plain").restore_stored(step, rank=0, world_size=1)


def test_a_box_that_is_not_what_was_captured_is_found() -> None:
    step = stored("tp", 2)
    box = next(box for box in step.contents.boxes if box.name == MOMENT)
    step.files[box.file][box.data_at] ^= 1
    with rank_of(0, 1), pytest.raises(Corrupt, match="narrow"):
        state_of("plain").restore_stored(step, rank=0, world_size=1)


def test_the_same_number_of_ranks_gives_each_its_own_without_a_warning() -> None:
    for rank, state in load("ddp", 2, kept("ddp", 2)):
        mean = live(state, "running_mean")
        assert torch.equal(
            mean.local, whole(mean.place.name, (7,), torch.float32) + rank
        )
        assert state.warnings == []


def test_another_number_of_ranks_is_warned_of() -> None:
    for rank, state in load("ddp", 3, kept("ddp", 2), 2):
        numbers, apart = (text for text in state.warnings if "stored by" in text)
        assert rank == 2
        assert "stored by 2 ranks and there are now 3: random numbers" in numbers
        assert "seed them anew" in numbers
        assert "model.norm.running_mean" in apart
        assert "exp_avg" not in apart
        assert "rank 0 had" in apart


def test_a_name_that_ranks_use_for_different_parts_is_refused() -> None:
    """As stages of a pipeline may, whose layers are counted from 0 in each."""
    slots = captured("tp", 2)
    step = stored_step([*slots, *captured("tp", 2)])
    for box in step.contents.boxes:
        if box.owner == 3 and box.name == MOMENT:
            step.contents.boxes.remove(box)
            changed = {f: getattr(box, f) for f in box.__struct_fields__}
            step.contents.boxes.append(type(box)(**(changed | {"digest": b"other"})))
            break
    with rank_of(0, 1), pytest.raises(StateError, match="captured differently by"):
        state_of("plain").restore_stored(step, rank=0, world_size=1)


class Position:
    """A loader, for what matters here."""

    def __init__(self, at: int = -1) -> None:
        self.at = at

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.at))

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Merged(Position):
    def load_state_dicts(
        self, states: list[dict[str, int]], *, rank: int, world_size: int
    ) -> None:
        self.found = [state["at"] for state in states], rank, world_size


def test_an_object_may_take_the_states_of_all_ranks() -> None:
    step = stored("plain", 2, loader=Merged)
    for _, state in load("plain", 3, step, 2, loader=Merged()):
        assert state.inventory.others["loader"].found == ([0, 1], 2, 3)
        assert not [text for text in state.warnings if "skipped" in text]
    for _, state in load("plain", 2, step, 1, loader=Merged()):
        assert state.inventory.others["loader"].at == 1


def test_a_loader_that_cannot_is_named() -> None:
    step = stored("plain", 2, loader=Position)
    for _, state in load("plain", 4, step, 3, loader=Position()):
        assert state.inventory.others["loader"].at == 1
        assert [text for text in state.warnings if "loader continued from" in text]


def test_random_numbers_go_on_from_the_rank_of_the_same_number() -> None:
    def seeded(rank: int) -> Position:
        torch.manual_seed(rank)
        return Position(rank)

    step = stored("plain", 2, loader=seeded)
    for rank, _ in load("plain", 4, step, loader=Position()):
        found = torch.get_rng_state()
        torch.manual_seed(rank % 2)
        fresh = Position(rank)
        state_of("plain", loader=fresh)  # draws as it did when it was captured
        assert torch.equal(torch.get_rng_state(), found)


@pytest.mark.parametrize(
    ("devices", "found"), [(0, None), (1, ["a"]), (2, ["a", "b"]), (3, ["a", "b", "a"])]
)
def test_generators_of_another_number_of_devices_go_on(
    devices: int, found: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    states = for_devices_here({"torch": "t", "cuda": ["a", "b"]})
    assert (states["torch"], states.get("cuda")) == ("t", found)


def test_ranks_train_on_as_if_their_number_were_what_it_was(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.distributed_reshard", "3", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("ok\n"), done.stdout


def test_the_sampler_fits() -> None:
    def sampler(rank: int, world: int = 2) -> GlobalSampler:
        made = GlobalSampler(20, batch=6, seed=1, rank=rank, world=world)
        for _ in zip(range(2), made.counted([0, 1, 2]), strict=False):
            pass
        return made

    step = stored("plain", 2, sampler=sampler)
    fresh = GlobalSampler(20, batch=6, seed=1, rank=2, world=3)
    for _ in load("plain", 3, step, 2, sampler=fresh):
        assert fresh.state_dict()["consumed"] == 12
