"""The decoder: packing changes nothing, padding changes nothing, it learns."""

import functools
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoder.model.examples import SMALL, initial, mixes
from twinstep.decoder import spec
from twinstep.decoder.config import TINY
from twinstep.decoder.model import decoder, tower
from twinstep.decoder.model.segments import BatchShape, Segment, Size, fill, size_of

SHAPE = BatchShape(rows=3, tokens=36, images=12, audio=8)
SCANNED = replace(SMALL, layers=5, scan=True)
GOLDEN = Path(__file__).parent / "golden" / "tiny.json"


@pytest.fixture(scope="module")
def params():
    return initial(SMALL)


@functools.cache
def _forward():
    return jax.jit(functools.partial(decoder.forward, config=SMALL))


@functools.cache
def _gradient(**changes):
    config = replace(SMALL, **changes)

    def mean(params, batch):
        nats, weight = decoder.loss(params, batch, config)
        return nats / weight

    return jax.jit(jax.value_and_grad(mean))


def _vectors(params, rows: list[list[list[Segment]]]) -> list[list[np.ndarray]]:
    """forward() of the rows, cut into examples."""
    batch = fill(rows, SHAPE, SMALL.tower)
    x = np.asarray(_forward()(params, batch))
    segment = np.asarray(batch.segment)
    return [
        [x[row][segment[row] == 1 + number] for number in range(len(examples))]
        for row, examples in enumerate(rows)
    ]


def test_packed_examples_are_what_each_is_alone(params) -> None:
    examples = mixes()
    alone = [_vectors(params, [[example]])[0][0] for example in examples]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 2, 1]):
        rows: list[list[list[Segment]]] = [[], [], []]
        for number in order:
            fitting = (r for r in rows if _fits([*r, examples[number]]))
            next(fitting).append(examples[number])
        assert max(map(len, rows)) > 1
        packed = _vectors(params, rows)
        for row, found in zip(rows, packed, strict=True):
            for example, vectors in zip(row, found, strict=True):
                expected = alone[examples.index(example)]
                np.testing.assert_allclose(vectors, expected, atol=2e-5)


def _fits(row: list[list[Segment]]) -> bool:
    sizes = (size_of(example, SMALL.tower) for example in row)
    return sum(sizes, start=Size(0, 0, 0)).fits(SHAPE)


def test_what_stands_in_padding_reaches_nothing(params) -> None:
    batch = fill([mixes()[:2], [mixes()[2]]], SHAPE, SMALL.tower)
    real = np.asarray(batch.segment) > 0
    rubbish = replace(
        batch,
        token=np.where(real, batch.token, 17),
        patch=np.where(batch.patch_doc[..., None, None] > 0, batch.patch, 99),
        patch_at=np.where(batch.patch_doc[..., None, None] > 0, batch.patch_at, 3),
        frame=np.where(batch.frame_at[..., None] >= 0, batch.frame, np.float16(7)),
    )
    clean, dirty = _forward()(params, batch), _forward()(params, rubbish)
    np.testing.assert_array_equal(clean[real], dirty[real])
    assert np.isfinite(np.asarray(dirty)).all()
    for leaf, other in zip(
        jax.tree.leaves(_gradient()(params, batch)),
        jax.tree.leaves(_gradient()(params, rubbish)),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, other)
        assert np.isfinite(np.asarray(leaf)).all()


def test_every_pixel_and_every_frame_is_seen(params) -> None:
    batch = fill([[mixes()[4]]], SHAPE, SMALL.tower)
    used = np.concatenate([batch.patch_doc > 0, batch.frame_doc > 0], axis=1)
    share = np.random.default_rng(0).normal(size=(*used.shape, SMALL.width))

    def heard(patch, frame):
        given = replace(batch, patch=patch, frame=frame)
        soft = tower.soft_tokens(params["tower"], given, SMALL)
        return (soft * share * used[..., None]).sum()

    floats = batch.patch.astype(np.float32), batch.frame.astype(np.float32)
    patch, frame = jax.jit(jax.grad(heard, argnums=(0, 1)))(*floats)
    used = batch.patch_doc > 0
    assert (np.asarray(patch)[used] != 0).all() and not np.asarray(patch)[~used].any()
    used = batch.frame_at >= 0
    assert (np.asarray(frame)[used] != 0).all() and not np.asarray(frame)[~used].any()


def test_a_few_steps_learn_a_batch_and_compile_once(params) -> None:
    step = _gradient()
    batches = [
        fill([mixes(seed)[:2], mixes(seed)[2:4], mixes(seed)[4:]], SHAPE, SMALL.tower)
        for seed in (0, 1)
    ]
    before = [float(step(params, batch)[0]) for batch in batches]
    uniform = np.log(SMALL.vocabulary)
    assert all(uniform - 0.5 < nats < uniform + 1.5 for nats in before)
    for _ in range(5):
        for batch in batches:
            _, gradient = step(params, batch)
            params = jax.tree.map(_moved, params, gradient)
    after = [float(step(params, batch)[0]) for batch in batches]
    assert all(now < 0.9 * then for now, then in zip(after, before, strict=True))
    assert step._cache_size() == 1


def _moved(param, gradient):
    """By NumPy: nothing to compile for each shape."""
    return jnp.asarray(np.asarray(param) - 0.1 * np.asarray(gradient))


def test_the_loss_is_the_weighted_cross_entropy(params) -> None:
    rows = [mixes()[:2], mixes()[2:4], mixes()[4:]]
    batch = fill(rows, SHAPE, SMALL.tower)
    x = np.asarray(_forward()(params, batch), np.float64)
    raw = x @ np.asarray(params["embed"], np.float64).T
    log_p = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    own = np.take_along_axis(log_p[:, :-1], batch.token[:, 1:, None], 2)[..., 0]
    weight = batch.weight[:, 1:]
    assert 10 < weight.sum() == batch.weight.sum() < (batch.segment > 0).sum()
    expected = -(own * weight).sum() / weight.sum()
    mean, _ = _gradient()(params, batch)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_chunks_of_positions_are_the_whole_loss(monkeypatch) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 36, SMALL.width)).astype(np.float32)
    token = random.integers(0, SMALL.vocabulary, (3, 36))
    share = random.random((3, 36)).astype(np.float32)

    def total(x, table):
        nats, _ = decoder.token_nats({"embed": table}, x, token, SMALL)
        return (nats * share).sum()

    found = []
    # Chunks of 8 positions: 36 are no whole number of them.
    for logits_max, shape in ((decoder.LOGITS_MAX, (3, 36)), (3 * 48 * 8, (3, 8))):
        monkeypatch.setattr(decoder, "LOGITS_MAX", logits_max)
        both = jax.jit(jax.value_and_grad(lambda *a: total(*a), argnums=(0, 1)))
        traced = both.trace(x, initial(SMALL)["embed"])
        sizes = [shape for shape in ((3, 36), (3, 8)) if _holds(traced, shape)]
        assert sizes == [shape]
        found.append(traced.lower().compile()(x, initial(SMALL)["embed"]))
    _close(found[1], found[0])


def _holds(traced, shape: tuple[int, int]) -> bool:
    """Whether logits of rows x positions are made."""
    rows, length = shape
    return f"f32[{rows},{length},{SMALL.vocabulary}]" in str(traced.jaxpr)


def _close(found, expected) -> None:
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        scale = np.abs(other).max() + 1e-6
        np.testing.assert_allclose(one, other, atol=1e-5 * scale + 1e-7)


def test_scanned_layers_are_the_unrolled_ones() -> None:
    scanned = replace(SMALL, layers=5, scan=True)
    unrolled = replace(scanned, scan=False)
    assert spec.count(decoder.decoder_spec(scanned)) == spec.count(
        decoder.decoder_spec(unrolled)
    )
    stacked = jax.tree.map(np.asarray, initial(scanned))
    flat = {name: stacked[name] for name in ("embed", "tower", "norm")}
    flat["layers"] = list(decoder.layers_of(stacked, scanned))
    bare = BatchShape(rows=2, tokens=24, images=0, audio=0)
    batch = fill([[mixes()[0], mixes(1)[0]], [mixes(2)[0]]], bare, SMALL.tower)
    run = jax.jit(decoder.forward, static_argnums=2)
    one, other = run(stacked, batch, scanned), run(flat, batch, unrolled)
    np.testing.assert_allclose(one, other, atol=2e-5)
    flat["layers"].reverse()
    assert np.abs(run(flat, batch, unrolled) - one).max() > 0.1


def test_a_batch_without_media_needs_no_tower(params) -> None:
    example = mixes()[0]
    bare = BatchShape(rows=1, tokens=16, images=0, audio=0)
    x = _forward()(params, fill([[example]], bare, SMALL.tower))
    [[expected]] = _vectors(params, [[example]])
    np.testing.assert_allclose(x[0, : len(expected)], expected, atol=2e-5)


def test_a_tower_of_depth_0_has_no_blocks() -> None:
    config = replace(SMALL, tower=replace(SMALL.tower, layers=0))
    params = initial(config)
    assert params["tower"]["layers"] == []
    batch = fill([[mixes()[4]]], SHAPE, config.tower)
    soft = jax.jit(tower.soft_tokens, static_argnums=2)(params["tower"], batch, config)
    assert soft.shape == (3, SHAPE.images + SHAPE.audio, config.width)
    assert np.isfinite(np.asarray(soft)).all()


def test_a_soft_cap_bounds_the_logits(params) -> None:
    capped = replace(SMALL, logit_cap=2.0)
    x = 100.0 * jnp.ones((1, 1, SMALL.width))
    assert float(jnp.abs(decoder.logits(params, x, SMALL)).max()) > 2.0
    assert float(jnp.abs(decoder.logits(params, x, capped)).max()) <= 2.0


def test_the_parameters_of_tiny_have_not_changed() -> None:
    tree = decoder.decoder_spec(TINY)
    leaves = jax.tree.leaves(tree, is_leaf=spec.is_param)
    found = {
        name: [list(leaf.shape), list(leaf.axes), leaf.init]
        for name, leaf in zip(spec.names(tree), leaves, strict=True)
    }
    if os.environ.get("REWRITE"):
        lines = ",\n".join(
            f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()
        )
        GOLDEN.write_text("{\n" + lines + "\n}\n")
    assert found == json.loads(GOLDEN.read_text()), "REWRITE=1 records it again"
