"""What people are told of a cluster."""

from __future__ import annotations

from tests.agent.scenes import join
from tests.agent.test_root import new_root, training
from twinstep.agent.phase import Phase
from twinstep.agent.status import status_of, waiting_for


def test_machines_are_listed_by_place_and_standbys_after_them() -> None:
    status = status_of(training(), machine="m0")
    assert [(m.machine, m.machine_rank) for m in status.machines] == [
        ("m0", 0),
        ("m1", 1),
        ("s", -1),
    ]
    assert [m.holds for m in status.machines] == [[1], [0], []]
    assert (status.root, status.phase, status.step, status.safe) == (
        "m0",
        "training",
        5,
        4,
    )
    assert status.waiting_for == []


def test_every_wait_names_whom_it_waits_for() -> None:
    root = new_root()
    root.joins(join("m0"))
    assert waiting_for(root) == ["1 more machines to join"]
    root = training()
    root.roster.joined.pop("s")
    root.machine_lost("m1", "silent")
    assert waiting_for(root) == ["m0 to stop its ranks"]
    root.phase = Phase.PLACING
    assert waiting_for(root) == ["a machine for machine rank 1"]
    root.phase = Phase.OVER
    assert waiting_for(root) == []
