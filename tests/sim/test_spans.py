"""Copies of a simulated cluster keep to the spans of its steps, and wait in bounds."""

from __future__ import annotations

import pytest

from tests.sim.test_world import trained, world
from twinstep.schedule.gate import Go, Wait
from twinstep.sim.check import Violation
from twinstep.sim.pattern import Offsets, Pattern

ROOMY = ((0.2, 0.3), (0.7, 0.8))
FULL = ((0.12, 0.5), (0.4, 1.0))


def pattern(first: Offsets, second: Offsets | None = None, **others: int) -> Pattern:
    return Pattern(operations=(first, first if second is None else second), **others)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_whose_steps_have_room_captures_them_all(ranks: int) -> None:
    made = trained(world(pattern=pattern(ROOMY, withhold_every=0), ranks=ranks), 20)
    root = made.root
    assert root is not None and len(root.traffic.said) == 3
    assert root.traffic.every == 1
    plans = [agent.pacing.plan for agent in made.training]
    assert all(p and p.profile.operations == 2 * ranks for p in plans)
    assert made.events.probes["spans: a copy is held to the bound"] == 0


def test_steps_without_room_become_safe_all_the_same() -> None:
    made = trained(world(pattern=pattern(FULL, meets=1), chunk_s=0.02), 40)
    assert made.root is not None and made.root.traffic.every == 4
    probes = made.events.probes
    assert probes["spans: a machine says that not all fits"] > 0
    late = probes["spans: a copy is held to the bound"]
    at_last = probes["spans: a copy goes at last, whatever training does"]
    assert late + at_last > 0


def test_every_step_is_captured_again_once_steps_have_room() -> None:
    # No step is withheld: the budget would need hundreds of steps to judge anew.
    drifts = pattern(FULL, ROOMY, drifts_at=40, withhold_every=0)
    made = world(pattern=drifts, chunk_s=0.005)
    root = trained(made, 20).root
    assert root is not None and root.traffic.every > 1
    trained(made, 80)
    assert root is made.root and root.traffic.every == 1
    assert made.events.probes["pacing: steps have drifted from the profile"] > 0


def test_what_may_not_happen_to_traffic_is_a_violation_by_number() -> None:
    made = trained(world(pattern=pattern(ROOMY)), 10)
    (agent, *_) = made.training

    def busy() -> bool:
        now = [rank.beats.now for rank in agent.pacing.present()]
        at_s = made.events.now_s
        return any(s <= at_s < e for n in now if n for s, e in n.operations)

    while busy():
        made.events.next()
    with pytest.raises(Violation, match="5: .* no span holds that"):
        made.spans.goes(agent, Go(10**9, 0), held_s=0.0)
    late = Wait(1.0, "for no reason")
    made.spans.free_s.clear()
    made.spans.waits(agent, late, held_s=0.0)
    with pytest.raises(Violation, match="6: .* for no reason"):
        made.spans.waits(agent, late, held_s=10.0)
    while not busy():
        made.events.next()
    with pytest.raises(Violation, match="5: .* while training uses its link"):
        made.spans.goes(agent, Go(1, 0), held_s=0.0)
