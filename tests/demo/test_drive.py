"""When a blow may fall."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.demo import records
from twinstep.demo import drive
from twinstep.demo.drive import Planned, is_ready, is_settled, is_training
from twinstep.demo.faults import Missed
from twinstep.demo.job import Loss, Sight
from twinstep.errors import UsageError


def sight(*, recoveries: Any = (), step: int = 30, **changes: Any) -> Sight:
    return Sight(
        at_s=200.0,
        status=records.status(**changes),
        recoveries=list(recoveries),
        losses=[Loss(step=step, loss=1.0, wall_s=0.0)],
    )


def test_an_undisturbed_job_is_settled() -> None:
    assert is_training(sight())
    assert is_settled(sight())


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "loading"},
        {"step": 30, "safe": 27},
        {"recoveries": [records.recovery(first_step_s=0.0)]},
        {"recoveries": [records.recovery(redundant_s=0.0)]},
        {"recoveries": [records.recovery()], "at_s": 103.0},
    ],
)
def test_a_job_is_not_settled(changes: dict[str, Any]) -> None:
    step = changes.pop("step", 30)
    assert not is_settled(sight(**changes | {"step": step}))


def test_a_status_of_before_the_recovery_is_not_of_now() -> None:
    old = sight(recoveries=[records.recovery()], at_s=103.9)
    assert not is_training(old)
    assert is_training(sight(recoveries=[records.recovery()], at_s=104.1))


def test_no_status_is_no_training() -> None:
    assert not is_training(Sight(at_s=1.0))
    assert not is_settled(Sight(at_s=1.0))


def test_a_blow_waits_for_its_steps_and_a_soon_one_does_not() -> None:
    later = Planned(kind="kill-rank", after_steps=5, moment_s=0.0)
    assert is_ready(sight(step=30), later, 25)
    assert not is_ready(sight(step=29), later, 25)
    soon = Planned(kind="kill-rank", after_steps=5, moment_s=0.0, soon=True)
    bare = sight(recoveries=[records.recovery(redundant_s=0.0)], safe=0)
    assert is_ready(bare, soon, 30)
    assert not is_ready(bare, later, 25)


def test_a_blow_that_never_falls_is_named_and_one_that_did_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = [Planned(kind="kill-rank", after_steps=1, moment_s=0.0)] * 2
    came: list[Any] = [Missed("too late"), "a failure"]

    def strike(*_: Any) -> Any:
        one = came.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(drive, "strike", strike)
    told: list[Any] = []
    missed = drive.injure(None, plan, Random(0), told.append)  # type: ignore[arg-type]
    assert (missed, told) == (["kill-rank: too late"], ["a failure"])
    came[:] = [UsageError("it fell, and its victim cannot go on")]
    with pytest.raises(UsageError, match="it fell"):
        drive.injure(None, plan, Random(0), told.append)  # type: ignore[arg-type]
