"""Recoveries, blows, failures and statuses to test with."""

from __future__ import annotations

from typing import Any

from twinstep.agent.record import Recovery
from twinstep.agent.status import MachineStatus, Status
from twinstep.demo.faults import Blow
from twinstep.demo.kinds import FAULTS
from twinstep.demo.record import Failure, failure_of


def recovery(**changes: Any) -> Recovery:
    """A lost machine, detected at 101.5 s and back at 104 s."""
    facts: dict[str, Any] = {
        "number": 1,
        "round": 2,
        "kind": "machine",
        "who": "m02",
        "reason": "silent",
        "detected_s": 101.5,
        "decided_s": 102.0,
        "machine_ready_s": 102.0,
        "ranks_up_s": 103.0,
        "loaded_s": 103.5,
        "first_step_s": 104.0,
        "redundant_s": 104.5,
        "reached": 21,
        "step": 20,
        "sources": {"own memory": 3, "memory of m03": 1},
    }
    return Recovery(**facts | changes)


def blow(**changes: Any) -> Blow:
    facts: dict[str, Any] = {
        "who": "m02",
        "what": "m02 lost",
        "detail": "SIGKILL",
        "struck_s": 100.0,
    }
    return Blow(**facts | changes)


def failure(
    *recoveries: Recovery,
    kind: str = "kill-machine",
    settled: bool = True,
    safe_before: int = 0,
    **changes: Any,
) -> Failure:
    return failure_of(
        kind,
        blow(**changes),
        recoveries or (recovery(),),
        style="fsdp2",
        began_s=90.0,
        at_step=21,
        settled=settled,
        safe_before=safe_before,
        cost_max=FAULTS[kind].cost_max,
    )


def status(*, shared: bool = False, root: str = "m00", **changes: Any) -> Status:
    """Four machines with a rank each, twins in pairs, and a standby m04."""
    twins = {0: 1, 1: 0, 2: 3, 3: 2}
    machines = [
        MachineStatus(
            machine=f"m{place:02}",
            machine_rank=place,
            host="127.0.0.1",
            port=1,
            group=1000 + place,
            ranks={place: 2000 + place},
            holds=[twins[place]],
        )
        for place in twins
    ]
    standby = MachineStatus(
        machine="m04",
        machine_rank=-1,
        host="127.0.0.1",
        port=1,
        group=1004,
        ranks={},
        holds=[],
    )
    sizes = dict.fromkeys(range(4), 1 << 20) | ({4: 1 << 22} if shared else {})
    facts: dict[str, Any] = {
        "at_s": 200.0,
        "phase": "training",
        "phase_since_s": 150.0,
        "root": root,
        "round": 1,
        "term": 1,
        "step": 30,
        "safe": 29,
        "waiting_for": [],
        "machines": [*machines, standby],
        "sizes": sizes,
        "shared": shared,
        "copies": 2,
        "recoveries": 0,
        "restored_step": 0,
    }
    return Status(**facts | changes)
