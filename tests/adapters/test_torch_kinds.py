"""Every kind of object and tensor is captured to the bit, or refused by name."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.adapters.small_runs import Net, Slots, capture
from twinstep.adapters.torch import TorchState
from twinstep.adapters.torch_values import DTYPES
from twinstep.capture.manifest import read_manifest
from twinstep.errors import StateError


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random bytes, NaNs of every kind among them; bools are bools."""
    raw = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    return raw > 127 if dtype is torch.bool else raw.view(dtype).reshape(shape)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (300, 70)])
def test_tensors_of_every_dtype_and_shape(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = noise(shape, dtype).reshape(shape)
    module = nn.Module()
    module.register_buffer("buffer", tensor.clone())
    differentiable = dtype.is_floating_point or dtype.is_complex
    module.parameter = nn.Parameter(tensor.clone(), requires_grad=differentiable)
    state = TorchState({"module": module, "tensor": tensor})
    slots = capture(state)
    before = bits(tensor)
    live = [tensor, module.buffer, module.parameter.data]
    for item in live:
        item.copy_(torch.zeros_like(item))
    state.restore(slots.own, [])
    assert [bits(item) for item in live] == [before] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(6, 8).t(),
        lambda: torch.randn(12, 8)[::2],
        lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.randn(4, 4, dtype=torch.complex64).conj(),
        lambda: torch.randn(4, 4, dtype=torch.complex64).conj().imag,
        lambda: torch.randn(1, 7).expand(1, 7),
    ],
)
def test_tensors_that_are_not_contiguous(make: Any) -> None:
    module = nn.Module()
    module.parameter = nn.Parameter(make())
    module.register_buffer("buffer", make())
    live = [module.parameter.data, module.buffer]
    state = TorchState({"module": module})
    slots = Slots.of(state.layout())
    held = state.hold(1)
    before = [bits(item) for item in live]
    module.buffer.zero_()
    slots.write(state, held)
    module.parameter.data.zero_()
    state.restore(slots.own, [])
    assert [bits(item) for item in live] == before


def test_tied_parameters_are_captured_once() -> None:
    net = Net()
    state = TorchState({"net": net, "again": net, "inner": [net.inner]})
    entries = read_manifest(capture(state).own).entries
    names = [entry.name for entry in entries]
    assert "net.embed.weight" in names
    assert "net.out.weight" not in names
    assert not [name for name in names if not name.startswith("net.")]


def test_parameters_that_only_an_optimizer_has() -> None:
    tensor = nn.Parameter(torch.randn(4))
    state = TorchState({"optimizer": torch.optim.SGD([tensor], lr=0.1)})
    slots, before = capture(state), bits(tensor)
    tensor.data.zero_()
    state.restore(slots.own, [])
    assert bits(tensor) == before


def test_lists_and_dicts_of_objects() -> None:
    def make() -> tuple[list[nn.Module], TorchState]:
        nets = [nn.Linear(2, 2), nn.Linear(2, 2)]
        rates = {"a": torch.optim.SGD(nets[0].parameters(), lr=0.5)}
        return nets, TorchState({"nets": nets, "optimizers": rates})

    nets, state = make()
    slots = capture(state)
    names = [entry.name for entry in read_manifest(slots.own).entries]
    assert names[:2] == ["nets[0].weight", "nets[0].bias"]
    others, fresh = make()
    fresh.restore(slots.own, [])
    assert bits(others[1].weight) == bits(nets[1].weight)


def test_a_compiled_module_has_the_names_of_the_plain_one() -> None:
    net = nn.Linear(2, 2)
    slots = capture(TorchState({"net": torch.compile(net)}))
    other = nn.Linear(2, 2)
    TorchState({"net": other}).restore(slots.own, [])
    assert bits(other.weight) == bits(net.weight)


def test_a_gradient_scaler_comes_back() -> None:
    def make() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    scaler, weight = make(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for value in (1.0, 2.0, float("inf"), 3.0):
        weight.grad = scaler.scale(torch.full((2,), value))
        scaler.step(optimizer)
        scaler.update()
    slots = capture(TorchState({"scaler": scaler}))
    fresh = make()
    TorchState({"scaler": fresh}).restore(slots.own, [])
    assert fresh.state_dict() == scaler.state_dict()


def test_all_generators_go_on_where_they_stood() -> None:
    own = torch.Generator().manual_seed(1)
    objects = {
        "own": own,
        "py": random.Random(2),
        "np": numpy.random.default_rng(3),
    }
    state = TorchState(objects)

    def draw() -> list[Any]:
        return [
            random.random(),
            random.gauss(0, 1),
            numpy.random.rand(),
            numpy.random.randn(),
            torch.rand(1).item(),
            torch.rand(1, generator=own).item(),
            objects["py"].random(),
            objects["np"].random(),
        ]

    draw()
    slots = capture(state)
    first = draw()
    assert draw() != first
    state.restore(slots.own, [])
    assert draw() == first


class Position:
    """An object of the user's, with tensors, arrays and odd keys in its state."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}

    def state_dict(self) -> dict[Any, Any]:
        return self.state

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        self.state = state


def test_objects_with_a_state_dict_come_back() -> None:
    position = Position()
    position.state = {
        "tensor": torch.randn(3, 2, dtype=torch.bfloat16),
        "array": numpy.arange(6, dtype=">i2").reshape(2, 3),
        "number": numpy.float32(0.1),
        "none": torch.empty(0, 3),
        3: {"big": 2**80, (1, "a"): {1, 2}},
    }
    slots = capture(TorchState({"position": position}))
    fresh = Position()
    TorchState({"position": fresh}).restore(slots.own, [])
    found, given = fresh.state, position.state
    assert bits(found["tensor"]) == bits(given["tensor"])
    assert found["array"].dtype == given["array"].dtype
    assert (found["array"] == given["array"]).all()
    assert type(found["number"]) is numpy.float32
    assert found["none"].shape == (0, 3)
    assert found[3] == given[3]


class Extra(nn.Module):
    """A module with state beside its tensors."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value
        self.register_buffer("table", torch.randn(2), persistent=False)

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


def test_extra_state_comes_back_and_derived_buffers_stay() -> None:
    slots = capture(TorchState({"net": nn.Sequential(Extra({"scale": 0.5}))}))
    assert not read_manifest(slots.own).entries
    fresh = nn.Sequential(Extra(None))
    TorchState({"net": fresh}).restore(slots.own, [])
    assert fresh[0].value == {"scale": 0.5}


def loader() -> tuple[StatefulDataLoader[Any], torch.Generator]:
    shuffle = torch.Generator().manual_seed(5)
    data = list(range(40))
    return StatefulDataLoader(data, batch_size=4, shuffle=True, generator=shuffle), (
        shuffle
    )


def test_a_stateful_loader_goes_on_with_the_next_batch() -> None:
    batches, _ = loader()
    stream = iter(batches)
    for _ in range(3):
        next(stream)
    slots = capture(TorchState({"loader": batches}))
    rest, after = [item.tolist() for item in stream], torch.rand(3)

    again, _ = loader()
    TorchState({"loader": again}).restore(slots.own, [])
    assert [item.tolist() for item in again] == rest
    assert torch.equal(torch.rand(3), after), "iterating drew from the global generator"


class Silent:
    """Nothing can be asked of it."""


REFUSED = [
    (torch.utils.data.DataLoader([1, 2]), "StatefulDataLoader"),
    (Silent(), "state_dict"),
    (3, "state_dict"),
    (lambda: None, "state_dict"),
]


@pytest.mark.parametrize(("value", "way_out"), REFUSED)
def test_objects_that_cannot_be_captured_are_refused(value: Any, way_out: str) -> None:
    with pytest.raises(StateError) as caught:
        TorchState({"parts": {"x": [value]}})
    assert str(caught.value).startswith("parts['x'][0] is a ")
    assert way_out in str(caught.value)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.LazyLinear(3), "net.weight is not initialised"),
        (nn.Linear(2, 2, device="meta"), "net.weight is on meta"),
    ],
)
def test_tensors_that_cannot_be_captured_are_refused(
    module: nn.Module, name: str
) -> None:
    with pytest.raises(StateError) as caught:
        TorchState({"net": module}).layout()
    assert str(caught.value).startswith(name)


def test_a_sparse_tensor_is_refused() -> None:
    module = nn.Module()
    module.register_buffer("table", torch.eye(3).to_sparse())
    with pytest.raises(StateError, match=r"net\.table is a tensor of .*sparse"):
        TorchState({"net": module}).layout()


def test_values_that_are_not_plain_are_refused_by_path() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    scheduler.fn = len
    with pytest.raises(StateError, match=r"scheduler\.state\['fn'\] is a builtins"):
        TorchState({"optimizer": optimizer, "scheduler": scheduler}).layout()
    optimizer.param_groups[0]["hook"] = print
    with pytest.raises(StateError, match=r"optimizer\['groups'\]\[0\]\['hook'\]"):
        TorchState({"optimizer": optimizer}).layout()
