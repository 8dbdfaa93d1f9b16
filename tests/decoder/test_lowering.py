"""Large presets are laid out and lowered for 4,096 devices that are not here.

The whole step, compiled, is what `python -m benchmarks.decoder_lowering` does in
minutes; here are the loss, lowered, and what the record says of the compiled steps.
"""

from __future__ import annotations

import json
import math
import re

import jax
import pytest

from benchmarks.decoder_lowering import COMPILERS, GOLDEN, MESH, PRESETS, ROWS, TOKENS
from twinstep.decoder import shard
from twinstep.decoder.config import preset
from twinstep.decoder.model.decoder import decoder_spec, loss
from twinstep.decoder.model.segments import BatchShape, empty
from twinstep.decoder.spec import abstract, count, names

OTHERS_BYTES_MAX = 1e6
"""Of numbers that describe a batch's positions; of the state a device has more."""
SHARDS = MESH["data"] * MESH["model"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_device_of_a_pod_has_its_share_of_the_parameters(name: str) -> None:
    spec = decoder_spec(preset(name))
    mesh = shard.abstract_mesh(**MESH)
    laid = jax.tree.leaves(shard.shardings(spec, mesh))
    params = jax.tree.leaves(abstract(spec))
    here = sum(
        math.prod(sharding.shard_shape(param.shape))
        for sharding, param in zip(laid, params, strict=True)
    )
    assert count(spec) / SHARDS <= here < 2 * count(spec) / SHARDS
    whole = {key: found.whole for key, found in shard.layouts(spec, mesh).items()}
    assert set(whole) == set(names(spec))
    assert "kv_heads has 1" in whole["periods/0/attention/key"][0]


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_lowers_for_4096_devices(name: str) -> None:
    config, mesh = preset(name), shard.abstract_mesh(**MESH)
    spec = decoder_spec(config)
    laid = shard.shardings(spec, mesh)
    shape = BatchShape(rows=ROWS, tokens=TOKENS, images=0, audio=0)
    batch = jax.eval_shape(lambda: empty(shape, config.tower))
    compiled = jax.jit(
        lambda params, batch: loss(params, batch, config, backend="ring"),
        in_shardings=(laid, shard.batch_shardings(mesh, ROWS, TOKENS)),
        out_shardings=shard.whole(mesh),
    )
    with shard.on(mesh):
        lowered = compiled.trace(abstract(spec), batch).lower(
            lowering_platforms=("tpu",)
        )
    text = lowered.as_text()
    assert "mhlo.num_partitions = 4096" in text
    axes = r'"pod"=4, "data"=64, "model"=16, "context"=1'
    assert re.search(rf"sdy.mesh @mesh = <\[{axes}\]>", text)
    # Attention is computed by each device for its own rows and heads.
    assert text.count("sdy.manual_computation") >= 1


def test_on_record_nothing_of_the_state_crosses_pods() -> None:
    """Of the compiled steps: what goes between pods is sums, of gradients and norms."""
    if not GOLDEN.exists():
        pytest.skip("python -m benchmarks.decoder_lowering --write has not been run")
    recorded = json.loads(GOLDEN.read_text())
    compiled = [one for name in COMPILERS for one in recorded.get(name, {}).values()]
    assert compiled
    for one in compiled:
        assert one["devices"] == 4096
        assert one["parameters"] == count(decoder_spec(preset(one["preset"])))
        others = sum(
            traffic["bytes"]
            for key, traffic in one["collectives"].items()
            if "pod" in key.split(" over ")[1].split()
            and not key.startswith(("all-reduce", "reduce-scatter"))
        )
        assert others < OTHERS_BYTES_MAX, one["preset"]
