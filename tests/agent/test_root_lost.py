"""The root is lost, paused, or without a store: real agents on a real etcd.

Paper section 3.2: when the root's status is not updated for a threshold, an alive
worker is promoted by the store's leader election, and a new worker machine is
initialised in its place. Where the paper is silent: what the old root had begun, and
what it still says when it was only paused.
"""

from __future__ import annotations

import signal
import time

from tests.agent.etcd_nodes import needs_etcd
from tests.agent.fleet import Fleet, fleet, trial
from twinstep.agent.status import Status

__all__ = ["fleet", "trial"]
pytestmark = needs_etcd


def others(status: Status) -> list[str]:
    return [m.machine for m in status.machines if m.machine != status.root]


def lose_the_root(
    fleet: Fleet, status: Status, *, also: tuple[str, ...] = ()
) -> Status:
    """The root is dead; the next one continues. One machine is asked for each."""
    fleet.kill(status.root)
    after = fleet.served(term=status.term + 1, step=status.safe)
    assert after.root not in (status.root, *also)
    for lost in (status.root, *also):
        asked = [r for r in fleet.requests() if r.startswith(f"for-{lost}")]
        assert asked == [f"for-{lost}"], f"exactly one machine for {lost}"
    recovery = fleet.recoveries()[-1]
    # What was safe is not lost. How far behind that is depends on the machine's load.
    assert recovery.step >= status.safe, recovery
    return after


def test_a_root_that_is_lost_in_any_phase_is_continued(fleet: Fleet) -> None:
    fleet.begin(machines=3)
    _stopping(fleet)
    _placing(fleet)
    _loading(fleet)
    _first_step(fleet)
    fleet.training()
    assert len(fleet.given) == 5, "four roots and one more machine were lost"
    fleet.ends_well()


def _stopping(fleet: Fleet) -> None:
    """Ranks end: one machine is slow to say what it holds."""
    status = fleet.training(step=10)
    slow, hurt = others(status)
    before, _ = fleet.plan()
    fleet.send(slow, signal.SIGSTOP)
    try:
        fleet.kill_rank(status, hurt)
        fleet.until(lambda: fleet.plan()[0].round > before.round, "a round to begin")
        fleet.kill(status.root)
    finally:
        fleet.send(slow, signal.SIGCONT)
    assert "all ranks" not in fleet.out(status.root)
    lose_the_root(fleet, status)


def _placing(fleet: Fleet) -> None:
    """A machine is lost, was asked for, and does not come."""
    status = fleet.training(step=fleet.made())
    lost, _ = others(status)
    fleet.kill(lost)
    fleet.until(lambda: f"for-{lost}" in fleet.requests(), "a machine to be asked for")
    fleet.until(
        lambda: (s := fleet.view().status()) and s.phase == "placing", "the wait for it"
    )
    lose_the_root(fleet, status, also=(lost,))


def _loading(fleet: Fleet) -> None:
    """Everybody was told to begin, and no rank is up yet."""
    status = fleet.training(step=fleet.made())
    hurt, _ = others(status)
    count = len(fleet.recoveries())
    fleet.kill_rank(status, hurt)
    fleet.until(
        lambda: len(r := fleet.recoveries()) > count and r[-1].decided_s,
        "the new round to begin",
    )
    lose_the_root(fleet, status)


def _first_step(fleet: Fleet) -> None:
    """The first step of a round was made, and is not safe."""
    status = fleet.training(step=fleet.made())
    hurt, _ = others(status)
    count = len(fleet.recoveries())
    fleet.kill_rank(status, hurt)
    fleet.until(
        lambda: len(r := fleet.recoveries()) > count and r[-1].first_step_s,
        "the first step of the new round",
    )
    lose_the_root(fleet, status)


def test_a_paused_root_harms_nobody(fleet: Fleet) -> None:
    fleet.begin(machines=3)
    status = fleet.training(step=10)
    old = status.root
    fleet.send(old, signal.SIGSTOP)
    after = fleet.served(term=status.term + 1, step=status.safe)
    assert fleet.requests() == [f"for-{old}"] and fleet.returned() == {old}
    plan, revision = fleet.plan()
    fleet.send(old, signal.SIGCONT)
    fleet.until(lambda: "taken its seat again" in fleet.out(old), f"{old} to be back")
    fleet.until(lambda: "no longer root" in fleet.out(old), f"{old} to step down")
    fleet.until(
        lambda: old in [m.machine for m in (fleet.view().status() or after).machines],
        f"{old} to follow the new root",
    )
    spare = next(m for m in fleet.training().machines if m.machine == old)
    assert (spare.machine_rank, spare.ranks) == (-1, {}), "its place was given away"
    assert fleet.plan() == (plan, revision), "nobody wrote over it"
    assert fleet.requests() == [f"for-{old}"]
    root = fleet.root()
    assert root is not None and (root.machine, root.term) == (after.root, after.term)
    assert len(fleet.recoveries()) == 1, "its return disturbed nothing"
    _stillborn(fleet)
    fleet.ends_well()


def _stillborn(fleet: Fleet) -> None:
    """A replacement dies before it has joined: another is asked for, once."""
    status = fleet.training(step=fleet.made())
    spare = next(m.machine for m in status.machines if m.machine_rank < 0)
    fleet.kill(spare)  # or it would take the place
    lost = next(
        m.machine
        for m in status.machines
        if m.machine_rank >= 0 and m.machine != status.root
    )
    fleet.kill(lost)
    fleet.until(lambda: f"for-{lost}" in fleet.requests(), "the first request")
    fleet.serve(stillborn=True)
    fleet.until(lambda: f"for-{lost}.2" in fleet.requests(), "the second one")
    fleet.served(term=status.term, step=status.safe)
    assert len(fleet.requests()) == 3


AWAY_S = 4.0  # longer than a lease lives, twice; seen with 10 s as well


def test_training_goes_on_while_the_store_is_away(fleet: Fleet) -> None:
    fleet.begin(machines=3)
    (node,) = fleet.etcd.nodes
    before = fleet.training(step=10)
    # Killed, and started again on its data: leases live on, and nothing happens at all.
    node.kill()
    made = fleet.made()
    time.sleep(AWAY_S / 2)
    assert fleet.made() > made + AWAY_S * 5
    node.start()
    after = fleet.training(step=fleet.made())
    assert (after.term, after.round, after.recoveries) == (before.term, before.round, 0)
    # Stopped for longer than leases live: it ends them all when it goes on.
    hurt = others(after)[0]
    node.send(signal.SIGSTOP)
    try:
        stopped = fleet.made()
        time.sleep(AWAY_S)
        assert fleet.made() > stopped + AWAY_S * 10
        fleet.kill_rank(after, hurt)
        time.sleep(1.0)
        # Nobody may decide, and nobody does.
        made = fleet.made()
        time.sleep(0.5)
        assert fleet.made() == made
    finally:
        node.send(signal.SIGCONT)
    back = fleet.training(step=made + 1)
    assert fleet.requests() == [], "nobody was lost, and nobody replaced"
    assert {m.machine for m in back.machines} == {"m0", "m1", "m2"}
    recovery = fleet.recoveries()[-1]
    assert recovery.step > stopped, f"steps became safe without the store: {recovery}"
    fleet.ends_well()
