"""Layouts follow the rules; what a rule cannot give is refused or stays whole."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import PartitionSpec

from twinstep.decoder.shard import (
    RULES,
    abstract_mesh,
    batch_shardings,
    layout,
    make_mesh,
    shardings,
    state_shardings,
)
from twinstep.decoder.spec import Param, abstract
from twinstep.errors import UsageError

MESH = abstract_mesh(pod=2, data=4, model=2)


def test_dimensions_go_where_the_rules_say() -> None:
    spec = {"up": Param((3, 64, 128), ("layers", "embed", "mlp"))}
    found = shardings(spec, MESH)["up"]
    assert found.spec == PartitionSpec(None, "data", "model")
    assert found.mesh.shape["pod"] == 2 and "pod" not in found.spec


def test_a_dimension_that_does_not_divide_stays_whole_and_says_why() -> None:
    found = layout("key", Param((64, 1, 8), ("embed", "kv_heads", "head")), MESH)
    assert found.axes == ("data", None, None)
    assert found.whole == ("kv_heads has 1, which 2 devices along model do not divide",)


@pytest.mark.parametrize(
    ("axes", "rules", "says"),
    [
        (("embed", "mlp"), {**RULES, "mlp": "data"}, "embed and mlp on the mesh axis"),
        (("embed", "embed"), RULES, "embed and embed"),
        (("embed", "wings"), RULES, "no rule for the dimension 'wings'"),
        (("embed", "mlp"), {**RULES, "embed": "pod"}, "whole in every pod"),
        (("embed", "mlp"), {**RULES, "mlp": "tensor"}, "the mesh has pod, data"),
    ],
)
def test_rules_that_cannot_be(axes: tuple[str, ...], rules: dict, says: str) -> None:
    with pytest.raises(UsageError, match=f"layers/0/up.*{says}"):
        layout("layers/0/up", Param((64, 64), axes), MESH, rules)


def test_the_state_is_laid_out_as_the_parameters() -> None:
    spec = {"up": Param((64, 128), ("embed", "mlp"))}
    params = abstract(spec)
    state = {"params": params, "moments": [params, params], "step": 7}
    laid = state_shardings(state, shardings(spec, MESH), MESH)
    assert laid["moments"][1]["up"].spec == PartitionSpec("data", "model")
    assert laid["step"].spec == PartitionSpec()
    assert jax.tree.structure(laid) == jax.tree.structure(state)


def test_a_batch_is_split_by_rows_and_positions() -> None:
    mesh = abstract_mesh(pod=2, data=2, context=4)
    laid = batch_shardings(mesh, rows=8, tokens=64)
    assert laid.token.spec == PartitionSpec(("pod", "data"), "context")
    assert laid.patch.spec == laid.frame_doc.spec == PartitionSpec(("pod", "data"))
    with pytest.raises(UsageError, match="6 rows over pod x data of 4"):
        batch_shardings(mesh, rows=6, tokens=64)
    with pytest.raises(UsageError, match="66 positions"):
        batch_shardings(mesh, rows=8, tokens=66)


def test_too_few_devices_say_how_to_have_more() -> None:
    needed = 2 * len(jax.devices())
    with pytest.raises(UsageError, match=f"device_count={needed}"):
        make_mesh(data=needed)
