"""A whole job trains to identical bits while a machine of its own has gone mad."""

from __future__ import annotations

import pytest

from tests.fuzz.attack import NAME, attacked
from tests.trial import Trial, takes_long, trial, undisturbed

__all__ = ["trial"]

STEPS = 100
GROWN_BYTES_MAX = 64 * 1024 * 1024


@takes_long
@pytest.mark.timeout(300)
def test_training_does_not_notice_a_mad_machine(trial: Trial) -> None:
    attack, grown = attacked(trial, steps=STEPS, seed=1)
    assert trial.wait() == 0, str(trial)
    same = undisturbed(ranks=2, arguments=("--steps", str(STEPS), "--pause-s", "0"))
    assert trial.digests() == same, str(trial)
    assert "round 2" not in trial.out, f"a round was ended{trial}"
    assert "Traceback" not in trial.out + trial.err, str(trial)
    named = [line for line in trial.out.splitlines() if "dropped" in line]
    assert any(f"{NAME}: " in line for line in named), f"the mad one is named{trial}"
    assert all(attack.counts.values()), attack.counts
    assert max(grown.values()) < GROWN_BYTES_MAX, grown
    trial.clean()
