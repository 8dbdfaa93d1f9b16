"""Each framework has a script, settings and styles; others are refused in words."""

from __future__ import annotations

import pytest

from twinstep import config
from twinstep.demo.frameworks import FRAMEWORKS, check_style, framework_of
from twinstep.demo.run import demo
from twinstep.demo.soak import soak
from twinstep.errors import UsageError


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_files_of_a_framework_are_there(name: str) -> None:
    found = framework_of(name)
    assert found.script.exists()
    job = config.load(found.settings)
    assert name in job.preload
    assert f"twinstep.adapters.{name}" in job.preload


def test_the_sharded_style_is_taken_where_none_is_named() -> None:
    assert check_style("torch", "") == "fsdp2"
    assert check_style("jax", "") == "fsdp"
    assert check_style("jax", "dp") == "dp"


def test_another_frameworks_style_is_refused() -> None:
    with pytest.raises(UsageError, match="'fsdp2'; with jax use one of dp, fsdp"):
        check_style("jax", "fsdp2")


def test_what_is_not_known_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="'paddle'; use one of torch, jax"):
        demo(framework="paddle")
    with pytest.raises(UsageError, match="'paddle'; use one of torch, jax"):
        soak(kills=1, framework="paddle")
