"""Gradients of tables are the sums they should be, in an order that is known."""

import functools

import jax
import numpy as np
import pytest

from twinstep.decoder.model import lookup


@pytest.fixture
def given() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    # Row 3 holds half of all, some rows nothing.
    index = np.where(random.random(301) < 0.5, 3, random.integers(0, 40, 301))
    return index.astype(np.int32), random.normal(size=(301, 5)).astype(np.float32)


@pytest.mark.parametrize("way", [lookup.by_one_hot, lookup.by_sorting])
def test_each_way_adds_up_the_same(given, way) -> None:
    index, gradient = given
    expected = np.zeros((50, 5))
    np.add.at(expected, index, gradient)
    found = jax.jit(functools.partial(way, rows=50))(index, gradient)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_cpu_adds_in_order_to_the_last_bit(given) -> None:
    """What lets the plain scatter be used there: its bits are those of a loop."""
    index, gradient = given
    table = np.zeros((50, 5), np.float32)

    def total(table):
        return (lookup.lookup(table, index) * gradient).sum()

    found = np.asarray(jax.jit(jax.grad(total))(table))
    expected = np.zeros((50, 5), np.float32)
    for row, value in zip(index, gradient, strict=True):
        expected[row] += value
    np.testing.assert_array_equal(found, expected)
    # The order matters: backwards it is other bits.
    backwards = np.zeros((50, 5), np.float32)
    for row, value in zip(index[::-1], gradient[::-1], strict=True):
        backwards[row] += value
    assert (backwards != expected).any()


def test_elsewhere_nothing_is_added_by_a_scatter(given) -> None:
    index, gradient = given
    for rows in (lookup.ONE_HOT_ROWS_MAX, lookup.ONE_HOT_ROWS_MAX + 1):
        table = jax.ShapeDtypeStruct((rows, 5), np.float32)

        def total(table):
            return (lookup.lookup(table, index) * gradient).sum()

        traced = jax.jit(jax.grad(total)).trace(table)
        for platform, found in (("cpu", True), ("cuda", False)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            adds = "stablehlo.add" in text.split("stablehlo.scatter")[-1]
            assert ("stablehlo.scatter" in text and adds) == found, (rows, platform)


def test_placed_slots_come_from_their_pool_and_go_back() -> None:
    pool = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3) + 1
    slot = np.array([[-1, 2, 0, -1, 3], [1, -1, -1, 0, 2]], np.int32)
    share = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)

    def total(pool):
        out = lookup.place(pool, slot)
        return (out * share).sum(), out

    (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(pool)
    expected_out, expected = np.zeros((2, 5, 3)), np.zeros_like(pool)
    for row, at in np.argwhere(slot >= 0):
        expected_out[row, at] = pool[row, slot[row, at]]
        expected[row, slot[row, at]] += share[row, at]
    np.testing.assert_array_equal(out, expected_out)
    np.testing.assert_array_equal(gradient, expected)
