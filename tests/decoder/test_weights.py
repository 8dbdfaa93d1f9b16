"""Weights come back bit for bit, and weights of another model are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.decoder.train.double import CONFIG, SPEC
from twinstep.decoder import weights
from twinstep.decoder.spec import Param, init
from twinstep.errors import UsageError


@pytest.fixture(scope="module")
def params() -> Any:
    return init(SPEC, jax.random.key(3))


def test_weights_come_back(params: Any, tmp_path: Path) -> None:
    about = weights.save(tmp_path / "model", params, CONFIG, step=7)
    assert weights.about(tmp_path / "model") == about
    assert (about.step, about.digest) == (7, weights.digest(params))
    found, config = weights.load(tmp_path / "model", SPEC)
    assert config == CONFIG
    assert weights.digest(found) == weights.digest(params)
    assert jax.tree.structure(found) == jax.tree.structure(params)


def test_a_digest_sees_one_bit_and_one_name(params: Any) -> None:
    other = jax.tree.map(np.array, params)
    other["embed"].view(np.uint32)[0, 0] ^= 1
    assert weights.digest(other) != weights.digest(params)
    renamed = {name.upper(): leaf for name, leaf in params.items()}
    assert weights.digest(renamed) != weights.digest(params)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SPEC | {"more": Param((3,), (None,))}, "more is missing"),
        ({"embed": SPEC["embed"], "norm": SPEC["norm"]}, "output belongs to no"),
        (SPEC | {"norm": Param((9,), (None,))}, "norm has shape"),
    ],
)
def test_weights_of_another_model_are_refused(
    params: Any, tmp_path: Path, spec: Any, says: str
) -> None:
    weights.save(tmp_path, params, CONFIG, step=1)
    with pytest.raises(UsageError, match=says):
        weights.load(tmp_path, spec)


def test_what_is_no_model_is_refused(params: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no model"):
        weights.load(tmp_path, SPEC)
    weights.save(tmp_path, params, CONFIG, step=1)
    (tmp_path / weights.TENSORS).write_bytes(b"\xff" * 100)
    with pytest.raises(UsageError, match="cannot be read"):
        weights.load(tmp_path, SPEC)
