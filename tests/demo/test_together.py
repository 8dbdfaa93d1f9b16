"""Two machines are lost together only where every shard survives that."""

from __future__ import annotations

import pytest

from tests.demo import records
from twinstep.demo.together import companions, pairs, survives
from twinstep.errors import UsageError

TWINS = {"m00": "m01", "m01": "m00", "m02": "m03", "m03": "m02"}


def test_a_shard_is_lost_with_both_of_its_holders_only() -> None:
    status = records.status()
    for machine, twin in TWINS.items():
        assert survives(status, {machine})
        assert not survives(status, {machine, twin})
    assert not survives(status, {"m00", "m02", "m03"})


def test_pairs_are_of_different_groups() -> None:
    assert pairs(records.status()) == [
        ("m00", "m02"),
        ("m00", "m03"),
        ("m01", "m02"),
        ("m01", "m03"),
    ]
    assert companions(records.status(), "m03") == ["m00", "m01"]


def test_where_no_pair_survives_that_is_said() -> None:
    lonely = [m for m in records.status().machines if m.machine in ("m00", "m01")]
    status = records.status(machines=lonely)
    assert pairs(status) == []
    with pytest.raises(UsageError, match="together with m00"):
        companions(status, "m00")
