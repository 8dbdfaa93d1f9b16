"""A run that is captured and restored goes on with the same bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.adapters.small_runs import (
    OPTIMIZERS,
    SCHEDULERS,
    Run,
    Slots,
    capture,
    differing,
    in_thread,
)
from twinstep.adapters import torch_state
from twinstep.capture.manifest import read_manifest
from twinstep.capture.snapshot import LayoutChanged
from twinstep.errors import StateError


def test_capturing_beside_training_and_restoring_changes_no_bit() -> None:
    """The copy runs in a thread during the next passes, for many starts."""
    for seed in range(6):
        run = Run()
        run.train(1 + seed)
        slots = Slots.of(run.state.layout())
        run.train(seed % 3)
        held = run.state.hold(7)
        before = run.bits()
        thread = in_thread(partial(slots.write, run.state, held))
        for _ in range(3):
            run.pass_through()
        thread.join()
        torch.set_rng_state(torch.ByteTensor(list(before[-1])))

        fresh = Run()
        assert fresh.state.restore(slots.own, slots.shared) == 7
        assert not differing(fresh.bits(), before), f"seed={seed}"


@pytest.mark.parametrize("optimizer_kind", list(OPTIMIZERS))
def test_every_optimizer_goes_on_alike(optimizer_kind: str) -> None:
    run = Run(optimizer_kind=optimizer_kind)
    run.train(4)
    slots = capture(run.state)
    run.train(4)
    fresh = Run(optimizer_kind=optimizer_kind)
    fresh.state.restore(slots.own, slots.shared)
    fresh.train(4)
    assert not differing(fresh.bits(), run.bits())


@pytest.mark.parametrize("scheduler_kind", list(SCHEDULERS))
def test_every_scheduler_goes_on_alike(scheduler_kind: str) -> None:
    run = Run(scheduler_kind=scheduler_kind)
    run.train(2)
    slots = capture(run.state)
    run.train(5)
    fresh = Run(scheduler_kind=scheduler_kind)
    fresh.state.restore(slots.own, slots.shared)
    fresh.train(5)
    assert not differing(fresh.bits(), run.bits())
    assert fresh.scheduler.state_dict().keys() == run.scheduler.state_dict().keys()


def test_restoring_into_a_run_that_went_on_takes_it_back() -> None:
    run = Run()
    run.train(2)
    slots, before = capture(run.state), run.bits()
    run.train(3)
    kept = [id(item) for item in run.optimizer.state.values()]
    run.state.restore(slots.own, slots.shared)
    assert not differing(run.bits(), before)
    assert [id(item) for item in run.optimizer.state.values()] == kept


def test_state_of_another_dtype_than_its_parameter_keeps_its_bits() -> None:
    """Optimizer.load_state_dict would cast it to bfloat16."""
    run = Run(dtype=torch.bfloat16)
    run.train(2)
    weight = run.model.inner.weight
    run.optimizer.state[weight]["exp_avg"] = torch.randn(6, 6)
    slots = capture(run.state)
    fresh = Run(dtype=torch.bfloat16)
    fresh.state.restore(slots.own, slots.shared)
    restored = fresh.optimizer.state[fresh.model.inner.weight]["exp_avg"]
    assert restored.dtype is torch.float32
    assert torch.equal(restored, run.optimizer.state[weight]["exp_avg"])


def torn_buffers(fault: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the buffers that a forward pass between hold and copy has changed."""
    if fault:
        honest = torch_state.cell_of

        def late(*arguments: Any, staged: bool = False, **options: Any) -> Any:
            return honest(*arguments, **options)

        monkeypatch.setattr(torch_state, "cell_of", late)
    run = Run()
    run.train(2)
    slots = Slots.of(run.state.layout())
    held = run.state.hold(2)
    before = {name: item.clone() for name, item in run.model.named_buffers()}
    run.pass_through()
    slots.write(run.state, held)
    fresh = Run()
    fresh.state.restore(slots.own, slots.shared)
    buffers = dict(fresh.model.named_buffers())
    return [name for name in before if not torch.equal(before[name], buffers[name])]


def test_buffers_are_those_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torn_buffers(False, monkeypatch) == []


def test_buffers_copied_late_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torn_buffers(True, monkeypatch)
    assert set(found) == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


def test_values_are_those_of_the_step() -> None:
    run = Run()
    run.train(2)
    slots = Slots.of(run.state.layout())
    held = run.state.hold(2)
    rate, noise = run.optimizer.param_groups[0]["lr"], torch.get_rng_state()
    run.scheduler.step()
    torch.rand(3)
    slots.write(run.state, held)
    fresh = Run()
    fresh.state.restore(slots.own, slots.shared)
    assert fresh.optimizer.param_groups[0]["lr"] == rate
    assert torch.equal(torch.get_rng_state(), noise)


def test_the_fence_runs_before_each_update_until_removed() -> None:
    run = Run()
    seen: list[torch.Tensor] = []
    weight = run.model.inner.weight
    remove = run.state.fence(lambda: seen.append(weight.detach().clone()))
    before = weight.detach().clone()
    run.train(2)
    assert len(seen) == 2
    assert torch.equal(seen[0], before)
    assert not torch.equal(seen[1], before)
    remove()
    run.train(1)
    assert len(seen) == 2


def test_with_a_closure_the_fence_runs_between_gradients_and_update() -> None:
    run = Run()
    weight = run.model.inner.weight
    seen: list[str] = []
    run.state.fence(lambda: seen.append("fence"))

    class Own(torch.optim.SGD):
        """May change parameters before it calls its closure."""

    own = Own([weight], lr=0.1)
    type(run.state)({"optimizer": own}).fence(lambda: seen.append("fence"))
    for optimizer, order in (
        (run.optimizer, ["gradients", "fence"]),
        (own, ["fence", "gradients"]),
    ):
        before = weight.detach().clone()

        def gradients() -> torch.Tensor:
            seen.append("gradients")
            weight.grad = torch.ones_like(weight)
            assert torch.equal(weight, before)  # noqa: B023
            return weight.sum()

        optimizer.step(gradients)
        assert seen == order
        assert not torch.equal(weight, before)
        seen.clear()


def test_replaced_tensors_are_found_again() -> None:
    for replace in (
        lambda run: run.optimizer.load_state_dict(run.optimizer.state_dict()),
        lambda run: setattr(
            run.model.inner.weight, "data", run.model.inner.weight.data.clone() + 1
        ),
        lambda run: run.optimizer.state[run.model.inner.weight].update(
            exp_avg=torch.randn(6, 6)
        ),
    ):
        run = Run()
        run.train(2)
        slots = Slots.of(run.state.layout())
        replace(run)
        held = run.state.hold(2)
        slots.write(run.state, held)
        before = run.bits()
        fresh = Run()
        fresh.state.restore(slots.own, slots.shared)
        assert not differing(fresh.bits(), before)


def test_memory_that_was_replaced_is_still_copied() -> None:
    """The addresses of a running copy stay valid when a parameter gets new memory."""
    run = Run()
    run.train(1)
    slots = Slots.of(run.state.layout())
    held, before = run.state.hold(1), run.bits()
    for parameter in run.model.parameters():
        parameter.data = torch.full_like(parameter, 9.0)
    slots.write(run.state, held)
    fresh = Run()
    fresh.state.restore(slots.own, slots.shared)
    assert not differing(fresh.bits(), before)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda run: run.model.register_buffer("more", torch.ones(2)), "model.more"),
        (lambda run: delattr(run.model, "late"), "model.late.weight"),
        (
            lambda run: run.optimizer.add_param_group(
                {"params": [torch.nn.Parameter(torch.ones(2))]}
            ),
            "optimizer[7].parameter",
        ),
        (lambda run: setattr(run.model.inner, "bias", None), "model.inner.bias"),
    ],
)
def test_a_changed_layout_is_named(change: Any, name: str) -> None:
    run = Run()
    run.train(1)
    run.state.layout()
    change(run)
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    with pytest.raises(LayoutChanged) as caught:
        run.state.hold(2)
    assert name in str(caught.value)


def test_values_that_outgrow_the_head_are_refused() -> None:
    run = Run()
    run.train(1)
    run.state.layout()
    run.scheduler.extra = list(range(100_000))
    with pytest.raises(LayoutChanged, match="the values grew"):
        run.state.hold(2)
    run.state.layout()
    assert run.state.hold(2).step == 2


def test_state_that_comes_later_has_room() -> None:
    """First no parameter has state, then some, then all, and back again."""
    run = Run(late=True)
    layout = run.state.layout()
    captured: list[tuple[Slots, list[bytes]]] = []
    for stage in range(3):
        if stage:
            run.model.use_late = stage == 2
            run.update()
        slots = Slots.of(layout, fill=0xFF)
        slots.write(run.state, run.state.hold(stage))
        captured.append((slots, run.bits()))
    entries = [len(read_manifest(slots.own).entries) for slots, _ in captured]
    assert entries[0] < entries[1] < entries[2]
    for slots, bits in reversed(captured):
        run.state.restore(slots.own, slots.shared)
        assert not differing(run.bits(), bits)
        fresh = Run()
        fresh.state.restore(slots.own, slots.shared)
        assert not differing(fresh.bits(), bits)


def test_room_that_is_not_used_is_blank() -> None:
    """So that the shared slots of all machines have equal digests after a roll-back."""
    run = Run(late=True)
    run.state.layout()
    run.update()
    slots = Slots.of(run.state.layout(), fill=0xFF)
    slots.write(run.state, run.state.hold(1))
    plan = run.state._plan
    assert plan is not None
    present = {entry.name for entry in read_manifest(slots.own).entries}
    rooms = [item for name, item in plan.entries.items() if name not in present]
    assert {item.name for item in rooms} == {
        f"optimizer[{index}:model.late.{part}].{key}"
        for index, part in ((5, "weight"), (6, "bias"))
        for key in ("exp_avg", "exp_avg_sq", "step")
    }
    for item in rooms:
        assert bytes(slots.own[item.offset : item.offset + item.size]).count(0) == (
            item.size
        )


def test_what_differs_is_named_and_nothing_is_changed() -> None:
    run = Run()
    run.train(2)
    slots = capture(run.state)
    other = Run()
    other.train(1)
    other.model.inner = torch.nn.Linear(6, 7)
    other.model.register_buffer("more", torch.ones(1))
    before = [item.clone() for item in other.model.state_dict().values()]
    noise = torch.get_rng_state()
    with pytest.raises(StateError) as caught:
        other.state.restore(slots.own, slots.shared)
    text = str(caught.value)
    assert "model.more is live but was not captured" in text
    assert "model.inner.weight float32 (6, 6) was captured but is live as" in text
    after = list(other.model.state_dict().values())
    assert all(map(torch.equal, before, after))
    assert torch.equal(noise, torch.get_rng_state())


def test_objects_of_other_names_are_refused() -> None:
    run = Run()
    run.train(1)
    slots = capture(run.state)
    other = Run()
    other.state.inventory.others["plan"] = other.state.inventory.others.pop("scheduler")
    with pytest.raises(StateError, match=r"captured others: \['scheduler'\]"):
        other.state.restore(slots.own, slots.shared)
