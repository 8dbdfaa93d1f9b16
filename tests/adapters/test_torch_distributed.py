"""State under DDP is shared and under FSDP2 sharded; both come back to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.adapters.ranks import run_ranks
from tests.adapters.small_runs import Net, Slots
from twinstep.adapters.torch import TorchState
from twinstep.capture.manifest import read_manifest
from twinstep.capture.snapshot import cut
from twinstep.errors import StateError


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_go_on_alike(kind: str, tmp_path: Path) -> None:
    run_ranks("distributed_run", kind, folder=tmp_path, seconds_max=90)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    dist.destroy_process_group()


def replica() -> tuple[DistributedDataParallel, TorchState]:
    """Parameters of odd sizes, one not contiguous, so that cuts fall inside them."""
    torch.manual_seed(1)
    net = Net()
    net.wide = torch.nn.Linear(70, 90)
    net.wide.weight = torch.nn.Parameter(torch.randn(70, 90).t())
    model = DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, TorchState({"model": model, "optimizer": optimizer})


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.usefixtures("alone")
def test_a_shared_region_may_be_cut_inside_a_tensor(ranks: int) -> None:
    model, state = replica()
    slots = Slots.of(state.layout(), ranks=ranks)
    slots.write(state, state.hold(4))
    entries = read_manifest(slots.own).entries
    total = slots.layout.shared_bytes
    cuts = [cut(total, parts=ranks, index=index).start for index in range(1, ranks)]
    for at in cuts:
        assert any(e.offset < at < e.offset + e.size for e in entries), "no cut inside"
    before = [item.detach().clone() for item in model.parameters()]
    digest = state.shared_digest()
    for item in model.parameters():
        item.data.zero_()
    assert state.restore(slots.own, slots.shared) == 4
    assert all(map(torch.equal, before, model.parameters()))
    assert state.shared_digest() == digest


@pytest.mark.usefixtures("alone")
def test_what_no_tensor_has_of_the_shared_region_is_blank() -> None:
    """A bit that was flipped there would make one machine's digests differ for ever."""
    _, state = replica()
    layout = state.layout()
    clean, damaged = (Slots.of(layout, ranks=2, fill=fill) for fill in (0, 0xFF))
    for slots in (clean, damaged):
        slots.write(state, state.hold(4))
    assert all(map(bytes, clean.shared))
    assert clean.shared == damaged.shared


@pytest.mark.usefixtures("alone")
def test_names_are_those_of_the_plain_model() -> None:
    _, state = replica()
    slots = Slots.of(state.layout())
    slots.write(state, state.hold(4))
    names = [entry.name for entry in read_manifest(slots.own).entries]
    assert "model.wide.weight" in names
    assert not [name for name in names if "module" in name]


@pytest.mark.usefixtures("alone")
def test_shared_slots_that_are_missing_are_named() -> None:
    _, state = replica()
    slots = Slots.of(state.layout())
    slots.write(state, state.hold(4))
    with pytest.raises(StateError, match="no shared slots were given"):
        state.restore(slots.own, [])
    with pytest.raises(StateError, match="a shared slot of"):
        state.restore(slots.own, [slots.shared[0][:-1]])


@pytest.mark.usefixtures("alone")
def test_rebuilt_buckets_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twinstep.adapters.torch.ddp_size", lambda _: 3)
    _, state = replica()
    assert len(state.warnings) == 1
    assert "docs/bits.md" in state.warnings[0]
    steady = DistributedDataParallel(Net(), find_unused_parameters=True)
    assert TorchState({"model": steady}).warnings == []
