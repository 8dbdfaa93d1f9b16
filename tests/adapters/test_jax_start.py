"""A run starts from what plain Orbax has written, or from a step of twinstep's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from tests.store.trees import write_tree
from twinstep.adapters.jax import JaxState
from twinstep.adapters.jax_start import start_from
from twinstep.errors import StateError


def state(fill: float) -> dict[str, Any]:
    params = {"w": jnp.full((4, 2), fill), "b": jnp.full((2,), fill, jnp.bfloat16)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    return {"params": params, "opt": optimizer.init(params), "epoch": int(fill)}


def saved(folder: Path, tree: Any) -> str:
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
    return str(folder)


def assert_same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert type(one) is type(other)
        assert np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("deeper", ["", "default"])
def test_the_state_of_one_tree(tmp_path: Path, deeper: str) -> None:
    """As it was saved alone, or under the Session's name for it."""
    saved(tmp_path / "alone" / deeper, state(3.0))
    saved(tmp_path / "named" / deeper, {"state": state(3.0), "more": {"x": 1}})
    for name in ("alone", "named"):
        found = start_from({"state": state(1.0)}, str(tmp_path / name), {})
        assert_same(found, {"state": state(3.0)})


def test_a_session_s_state_begins_there(tmp_path: Path) -> None:
    live = JaxState({})
    live.offer(state(1.0))
    live.start_from(saved(tmp_path / "it", state(3.0)), {})
    assert_same(live.restored(), state(3.0))


def test_a_step_of_twinsteps_with_a_key_of_random_numbers(tmp_path: Path) -> None:
    key = jax.random.key(5)
    arrays = {
        "state/w": (np.arange(8.0, dtype=np.float32).reshape(4, 2), (2, 1)),
        "state/key": (np.asarray(jax.random.key_data(key)), (1,)),
    }
    folder, _ = write_tree(tmp_path, arrays, ranks=2, plain={"state/epoch": 7})
    live = {"w": jnp.zeros((4, 2)), "key": jax.random.key(0), "epoch": 0}
    found = start_from({"state": live}, str(folder), {})["state"]
    assert found["w"].tolist() == arrays["state/w"][0].tolist()
    assert found["epoch"] == 7
    assert jax.random.uniform(found["key"]) == jax.random.uniform(key)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "there", {"w": jnp.ones((4, 2))})
    with pytest.raises(StateError, match=r"has no a/b; it has: w\. Pass the state"):
        start_from({"state": {"a": {"b": jnp.ones(1)}}}, path, {})
    with pytest.raises(StateError, match=r"w of shape \(4, 2\), the live state of"):
        start_from({"state": {"w": jnp.ones((2, 4))}}, path, {})
    with pytest.warns(UserWarning, match=r"w \(float32 to bfloat16\)"):
        found = start_from({"s": {"w": jnp.ones((4, 2), jnp.bfloat16)}}, path, {})
    assert found["s"]["w"].dtype == jnp.bfloat16


def test_what_is_no_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StateError, match="does not exist"):
        start_from({"state": {}}, str(tmp_path / "none"), {})
    with pytest.raises(StateError, match="name the folder of one checkpoint"):
        start_from({"state": {}}, str(tmp_path), {})
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(StateError, match=r"pip install 'twinstep\[orbax\]'"):
        start_from({"state": {}}, str(tmp_path), {})
