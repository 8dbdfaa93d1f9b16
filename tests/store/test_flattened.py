"""Names of manifests become the paths that torch's own checkpoints have."""

from __future__ import annotations

import pytest

from twinstep.capture.plain import Blob
from twinstep.store.flattened import Path, key_path, key_paths, plain_items, settled


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("theta", ("theta",)),
        ("model.weight", ("model", "weight")),
        ("model.inner.weight", ("model", "inner.weight")),
        ("models[0].a.b", ("models", 0, "a.b")),
        ("models['a.b[0]\\'s'][1].w", ("models", "a.b[0]'s", 1, "w")),
        ('models["it\'s"].w', ("models", "it's", "w")),
        ("models[None].w", ("models", "None", "w")),
        ("models[(1, 2)].w", ("models", "(1, 2)", "w")),
        ("tensors[2]", ("tensors", 2)),
        ("model.odd['x].w", ("model", "odd['x].w")),
        ("models[[.w", ("models[[.w",)),
        (
            "optimizer[3:model.inner.weight].exp_avg",
            ("optimizer", "state", "inner.weight", "exp_avg"),
        ),
        ("opts['a'][0:models[1].w].step", ("opts", "a", "state", "w", "step")),
        ("optimizer[0:model.odd]x.w].step", ("optimizer", "state", "odd]x.w", "step")),
        ("optimizer[4:theta].step", ("optimizer", "state", "theta", "step")),
        ("optimizer[4:optimizer[4]].step", ("optimizer", "state", "4", "step")),
        ("optimizer[4].parameter", ("optimizer", 4, "parameter")),
    ],
)
def test_a_name_is_a_path(name: str, path: Path) -> None:
    assert key_path(name) == path


def test_an_optimizer_of_two_modules_keeps_their_names() -> None:
    names = ["opt[0:a.w].step", "opt[1:b.w].step", "opt[2:opt[2]].step"]
    assert list(key_paths(names).values()) == [
        ("opt", "state", "a.w", "step"),
        ("opt", "state", "b.w", "step"),
        ("opt", "state", "2", "step"),
    ]


def test_a_parameter_of_no_module_leaves_the_others_names_short() -> None:
    names = ["opt[0:a.w].step", "opt[1:opt[1]].step"]
    assert key_paths(names)[names[0]] == ("opt", "state", "w", "step")


def test_numbers_stay_only_where_a_list_can_be() -> None:
    paths: dict[str, Path] = {
        "a": ("list", 0, "w"),
        "b": ("list", 1),
        "c": ("opt", 0, "parameter"),
        "d": ("opt", "state", "0"),
        "e": ("far", 1 << 40, "w"),
    }
    assert list(settled(paths).values()) == [
        ("list", 0, "w"),
        ("list", 1),
        ("opt", "0", "parameter"),
        ("opt", "state", "0"),
        ("far", str(1 << 40), "w"),
    ]


def test_no_key_comes_twice() -> None:
    paths: dict[str, Path] = {"first": ("a", "b.c"), "second": ("a", "b", "c")}
    assert settled(paths) == {"first": ("a", "b.c"), "second": ("second",)}


TENSOR = Blob(kind="tensor", dtype="float32", shape=(), data=b"1234")
NUMBER = Blob(kind="number", dtype="<f4", shape=(), data=b"1234")


def test_values_are_flattened_as_dcp_does() -> None:
    state = {
        "empty": {},
        "list": [],
        "deep": [{"a": 1}, 3],
        "tensors": [TENSOR, 1],
        "nested": [[TENSOR], [1]],
        "numbers": [NUMBER],
        "tuple": (TENSOR,),
        3: 4,
    }
    items = plain_items({"others": {"x['y']": state, "rng": TENSOR}}, ())
    assert items == [
        (("x", "y", "list"), []),
        (("x", "y", "deep", 0, "a"), 1),
        (("x", "y", "deep", 1), 3),
        (("x", "y", "tensors", 0), TENSOR),
        (("x", "y", "tensors", 1), 1),
        (("x", "y", "nested", 0, 0), TENSOR),
        (("x", "y", "nested", 1), [1]),
        (("x", "y", "numbers"), [NUMBER]),
        (("x", "y", "tuple"), (TENSOR,)),
        (("x", "y", "3"), 4),
        (("rng",), TENSOR),
    ]


def test_extra_state_is_in_its_module() -> None:
    values = {"extra": {"model": 1, "model.gate": {"a": 2}}, "random": {"random": 3}}
    assert plain_items(values, ()) == [
        (("model", "_extra_state"), 1),
        (("model", "gate._extra_state", "a"), 2),
    ]


def test_groups_name_their_parameters() -> None:
    optimizer = {
        "groups": [{"lr": 0.1}, {"lr": 0.2}],
        "state": {1: {"calls": 7}},
        "params": [["model.a.w"], ["model.a.b", "opt[2]"]],
    }
    assert plain_items({"optimizers": {"opt": optimizer}}, ()) == [
        (("opt", "state", "a.b", "calls"), 7),
        (("opt", "param_groups", 0, "lr"), 0.1),
        (("opt", "param_groups", 0, "params"), ["a.w"]),
        (("opt", "param_groups", 1, "lr"), 0.2),
        (("opt", "param_groups", 1, "params"), ["a.b", "2"]),
    ]


def test_an_older_manifest_tells_what_it_can() -> None:
    names = ["opt[0:model.w].step", "opt[2:model.b].step"]
    optimizer = {"groups": [{"lr": 0.1}], "state": {}}
    items = dict(plain_items({"optimizers": {"opt": optimizer}}, names))
    assert items[("opt", "param_groups", 0, "params")] == ["w", "1", "b"]
    optimizer["groups"].append({"lr": 0.2})
    items = dict(plain_items({"optimizers": {"opt": optimizer}}, names))
    assert list(items) == [
        ("opt", "param_groups", 0, "lr"),
        ("opt", "param_groups", 1, "lr"),
    ]
