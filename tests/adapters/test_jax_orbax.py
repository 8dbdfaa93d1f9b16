"""Plain Orbax restores a state of JAX and optax that twinstep captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy
import optax
import orbax.checkpoint as ocp
import pytest

from tests.adapters.test_jax import copied, held
from tests.store.trees import write_slots
from twinstep.adapters.jax import JaxState


class Nothing(NamedTuple):
    pass


def state(seed: int) -> dict[str, Any]:
    """Its tree has nodes without any leaf, in the middle of tuples and at their end."""
    params = {"w": jax.random.normal(jax.random.key(seed), (8, 4)), "b": jnp.ones(4)}
    schedule = optax.cosine_decay_schedule(0.1, 100)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=0.1),
        optax.identity(),
    )
    return {
        "params": params,
        "opt": optimizer.init(params),
        "bare": {"dict": {}, "list": [], "tuple": (), "named": Nothing(), "none": None},
        "position": 7 * seed,
    }


@pytest.mark.parametrize(
    "checkpointer", [ocp.StandardCheckpointer, ocp.PyTreeCheckpointer]
)
def test_a_tree_with_bare_nodes_is_restored_as_it_was(
    tmp_path: Path, checkpointer: Any
) -> None:
    own = copied(adapter := JaxState({}), held(adapter, state(2), step=5))
    folder, _ = write_slots(tmp_path, [own], [], step=5)
    target = {"state": state(0)}
    if checkpointer is ocp.StandardCheckpointer:
        found = checkpointer().restore(folder, target)
    else:
        how = ocp.checkpoint_utils.construct_restore_args(target)
        found = checkpointer().restore(folder, item=target, restore_args=how)
    wanted = state(2)
    assert jax.tree.structure(found["state"]) == jax.tree.structure(wanted)
    for leaf, other in zip(
        *map(jax.tree.leaves, (found["state"], wanted)), strict=True
    ):
        assert numpy.asarray(leaf).tobytes() == numpy.asarray(other).tobytes()
