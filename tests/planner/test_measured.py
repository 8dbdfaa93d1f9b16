"""Costs out of the file that a soak writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twinstep.errors import ConfigError
from twinstep.planner.measured import costs_of
from twinstep.planner.policies import Costs


def failure(kind: str, **moments: float) -> dict[str, Any]:
    named = {name.replace("_", " "): value for name, value in moments.items()}
    return {"kind": kind, "recoveries": 1, "moments": named, "style": "ddp"}


def soak(*, ranks: int = 3, machines: int = 3) -> bytes:
    killed = [
        failure(
            "kill-rank",
            detected=0.07,
            decided=0.1,
            ranks_up=0.6,
            loaded=0.9,
            first_step=1.4,
        )
    ] * ranks
    lost = [
        failure(
            "kill-machine",
            detected=1.17,
            decided=1.2,
            ranks_up=2.0,
            loaded=2.5,
            first_step=3.1,
        )
    ] * machines
    went_on = {"kind": "kill-rank", "recoveries": 0, "moments": {}}
    return json.dumps({"failures": [*killed, *lost, went_on], "steps": 7}).encode()


def test_the_parts_of_a_recovery_are_told_apart() -> None:
    costs = costs_of(soak(), Costs(connect_s=5.0), option="a.json")
    assert costs.detect_process_s == pytest.approx(0.07)
    assert costs.detect_machine_s == pytest.approx(1.17)
    assert costs.decide_s == pytest.approx(0.03)
    # From decided to the first step, without 0.3 s of reading.
    assert costs.start_s == pytest.approx(1.0)
    assert costs.standby_s == pytest.approx(0.4)
    assert costs.connect_s == 5.0
    assert costs.source == "a.json: 3 killed ranks, 3 killed machines"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no file that `twinstep soak"),
        (b"{}", "no file that `twinstep soak"),
        (b'{"failures": [{"kind": 1}]}', "no file that `twinstep soak"),
        (soak(ranks=2), "has 2 killed ranks"),
        (soak(machines=0), "has 0 killed machines"),
    ],
)
def test_a_file_that_does_not_do_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        costs_of(text, Costs(), option="--costs a.json")
    assert "--costs a.json" in str(refused.value)
