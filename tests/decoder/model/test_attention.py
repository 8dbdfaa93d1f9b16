"""Every backend computes the same attention, and the same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinstep.decoder.model import attention, blockwise
from twinstep.decoder.model.structure import Structure, allowed
from twinstep.errors import UsageError


def rows(seed: int, count: int, length: int) -> Structure:
    """Packed rows: examples of random length, media in them, padding at the end."""
    random = np.random.default_rng(seed)
    made = np.zeros((3, count, length), np.int32)
    for row in range(count):
        at = number = 0
        while at < length - 3:
            size = int(random.integers(2, max(3, length // 2)))
            size, number = min(size, length - 2 - at), number + 1
            steps = random.random(size) < 0.7
            steps[0] = False
            span = slice(at, at + size)
            made[0, row, span] = number
            made[1, row, span] = np.cumsum(steps)
            made[2, row, span] = np.arange(size)
            at += size
    return Structure(*made)


def parts(seed: int, shape: tuple[int, ...], kv_heads: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    b, t, _, d = shape
    sizes = shape, (b, t, kv_heads, d), (b, t, kv_heads, d), shape
    return [random.normal(size=size).astype(np.float32) for size in sizes]


def by_loops(q, k, v, structure: Structure, window: int | None) -> np.ndarray:
    """The docstring of attend(), one query and one head at a time."""
    out = np.zeros_like(q)
    share = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(q.shape[:3]):
        segment, block, position = (np.asarray(part[b]) for part in structure)
        seen = (segment == segment[i]) & (block <= block[i]) & (segment > 0)
        if window is not None:
            seen &= position > position[i] - window
        if seen.any():
            scores = k[b, seen, h // share] @ q[b, i, h] / np.sqrt(q.shape[3])
            share_of = np.exp(scores - scores.max())
            out[b, i, h] = share_of @ v[b, seen, h // share] / share_of.sum()
    return out


@functools.cache
def _both(backend: str, window: int | None, chunks: tuple[int, int]):
    def run(q, k, v, d_out, structure):
        one = attention.BACKENDS[backend]
        if backend == "blockwise":
            one = functools.partial(one, chunks=chunks)
        call = functools.partial(one, queries=structure, keys=structure, window=window)
        out, back = jax.vjp(call, q, k, v)
        return out, back(d_out)

    return jax.jit(run)


CASES = [(4, 1, None), (4, 2, 3), (2, 2, 1)]


@pytest.mark.parametrize(("heads", "kv_heads", "window"), CASES)
def test_backends_are_equal(heads: int, kv_heads: int, window: int | None) -> None:
    # 22 is no whole number of chunks of 8 or 4.
    shape = (2, 22, heads, 8)
    for seed in range(4):
        structure = rows(seed, 2, 22)
        given = parts(seed, shape, kv_heads)
        out, gradients = _both("reference", window, (8, 4))(*given, structure)
        expected = by_loops(*given[:3], structure, window)
        np.testing.assert_allclose(out, expected, atol=2e-6, err_msg=f"{seed=}")
        found, others = _both("blockwise", window, (8, 4))(*given, structure)
        np.testing.assert_allclose(found, out, atol=2e-6, err_msg=f"{seed=}")
        for one, other in zip(others, gradients, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5, err_msg=f"{seed=}")


def test_chunks_are_skipped_only_where_nobody_attends() -> None:
    way = blockwise.Way(kv_heads=1, window=6, queries=4, keys=8)
    skipped = total = 0
    for seed in range(40):
        structure = rows(seed, 1, 48)
        seen = np.asarray(allowed(*[Structure(*map(jnp.asarray, structure))] * 2, 6))
        pairs = seen.reshape(1, 12, 4, 6, 8).any((0, 2, 4))
        kept = np.asarray(blockwise.needed(structure, structure, way))
        assert not (pairs & ~kept).any(), f"{seed=}"
        skipped, total = skipped + (~kept).sum(), total + (~pairs).sum()
    assert skipped > 0.9 * total


def test_long_rows_never_hold_all_scores() -> None:
    shape = (1, 4096, 2, 8)
    q = jax.ShapeDtypeStruct(shape, jnp.float32)
    k = jax.ShapeDtypeStruct((1, 4096, 1, 8), jnp.float32)
    line = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def total(q, k, v, structure):
        return attention.attend(q, k, v, structure).sum()

    step = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    memory = step.lower(q, k, k, Structure(line, line, line)).compile()
    used = memory.memory_analysis().temp_size_in_bytes
    assert used < 4096 * 4096 / 2, used


def test_an_unknown_backend_is_refused() -> None:
    q = jnp.zeros((1, 1, 1, 2))
    line = jnp.ones((1, 1), jnp.int32)
    with pytest.raises(UsageError, match="no attention backend 'flash'.*blockwise"):
        attention.attend(q, q, q, Structure(line, line, line), backend="flash")


def test_cudnn_is_asked_only_for_what_its_kernel_takes() -> None:
    def fits(length: int, size: int, dtype) -> bool:
        q = jax.ShapeDtypeStruct((1, length, 4, size), dtype)
        return attention.fits_cudnn(q, q)

    assert fits(8192, 128, jnp.bfloat16)
    assert not fits(8192, 128, jnp.float32)
    assert not fits(8192, 256, jnp.bfloat16)
    assert not fits(32_768, 128, jnp.bfloat16)
