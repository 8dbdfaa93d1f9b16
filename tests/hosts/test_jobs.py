"""A real job on hosts: links fail, those who were away come back, no bit differs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.hosts.needs import needs_hosts
from tests.trial import A_FEW
from twinstep.demo.drive import Planned
from twinstep.demo.hosts import members
from twinstep.demo.hosts.ground import Hosts
from twinstep.demo.job import Plan
from twinstep.demo.record import compare
from twinstep.demo.show import Screen
from twinstep.demo.trial import train

pytestmark = [
    needs_hosts,
    pytest.mark.skipif(bool(members.lacking()), reason=members.lacking()),
]

KINDS = ("partition-root", "shut-machine")  # the others: twinstep soak
PLAN = Plan(style="ddp", machines=3, steps=1_000_000, stoppable=True)


@pytest.mark.timeout(300)
def test_links_fail_and_no_bit_differs(tmp_path: Path) -> None:
    blows = [Planned(kind=kind, after_steps=2, moment_s=0.0) for kind in KINDS]
    screen = Screen(Console(file=io.StringIO()))
    injured = train(
        PLAN,
        tmp_path / "injured",
        screen,
        blows=blows,
        seed=1,
        ground=Hosts(kv="etcd", replacements=6),
    )
    assert [failure.kind for failure in injured.failures] == list(KINDS)
    first = injured.failures[0]
    assert first.recoveries >= 1 and first.steps_lost <= A_FEW, first
    calm = train(
        Plan(style="ddp", machines=3, standbys=0, steps=injured.steps, step_s=0.0),
        tmp_path / "calm",
        screen,
    )
    comparison = compare("ddp", calm.digests, injured.digests)
    assert comparison.identical, comparison.differing
