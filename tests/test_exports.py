"""What is public is what `__all__` lists, and importing it costs no framework."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import twinstep

NOT_OURS = {"annotations", "TYPE_CHECKING"}


def public_names(module: ModuleType) -> set[str]:
    """Names without underscore that are not modules, `Session` among them."""
    return {
        name
        for name in dir(module)
        if not name.startswith("_")
        and name not in NOT_OURS
        and not isinstance(getattr(module, name), ModuleType)
    }


def test_all_is_sorted_and_is_every_public_name() -> None:
    assert twinstep.__all__ == sorted(twinstep.__all__)
    assert public_names(twinstep) == set(twinstep.__all__)


def test_a_name_that_leaks_is_found() -> None:
    leaky = ModuleType("leaky")
    leaky.__dict__.update(Session=object, _private=1, forgotten=2, part=ModuleType("m"))
    assert public_names(leaky) == {"Session", "forgotten"}


def test_public_means_documented() -> None:
    for name in twinstep.__all__:
        assert getattr(twinstep, name).__doc__, name


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        _ = twinstep.Sesion  # type: ignore[attr-defined]


def frameworks_after(code: str) -> str:
    """The frameworks that a fresh interpreter has imported after `code`."""
    names = ("torch", "jax", "lightning", "transformers", "matplotlib")
    show = f"print([n for n in {names} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{show}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["twinstep", "twinstep.cli"])
def test_import_brings_no_framework(module: str) -> None:
    assert frameworks_after(f"import {module}") == "[]"


def test_a_framework_would_be_seen() -> None:
    planted = "import types; sys.modules['torch'] = types.ModuleType('torch')"
    assert frameworks_after(planted) == "['torch']"
