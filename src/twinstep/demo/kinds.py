"""The table of all failures: what the demo, the soak and the tests name them by."""

from __future__ import annotations

from collections.abc import Sequence

from twinstep.demo import faults, frames, outages
from twinstep.demo.faults import Fault
from twinstep.errors import UsageError

_HOSTS = frozenset({"hosts"})

FAULTS: dict[str, Fault] = {
    "kill-rank": Fault(strike=faults.kill_rank, takes_machine=False),
    "stop-rank": Fault(strike=faults.stop_rank, takes_machine=False),
    "kill-machine": Fault(strike=faults.kill_machine, takes_machine=True),
    "corrupt-copy": Fault(strike=faults.corrupt_copy, takes_machine=True),
    "kill-root": Fault(strike=faults.kill_root, takes_machine=True),
    "pause-root": Fault(strike=outages.pause_root, takes_machine=True),
    "kill-etcd-leader": Fault(
        strike=outages.kill_etcd_leader,
        takes_machine=True,
        recovers=False,
        needs=frozenset({"etcd"}),
    ),
    "partition-etcd-leader": Fault(
        strike=outages.partition_etcd_leader,
        takes_machine=True,
        recovers=False,
        needs=frozenset({"etcd", "hosts"}),
    ),
    "partition-machine": Fault(
        strike=outages.partition_machine, takes_machine=True, needs=_HOSTS
    ),
    "partition-root": Fault(
        strike=outages.partition_root, takes_machine=True, needs=_HOSTS
    ),
    "mute-machine": Fault(
        strike=outages.mute_machine, takes_machine=True, needs=_HOSTS
    ),
    "shut-machine": Fault(
        strike=outages.shut_machine, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "one-way-loss": Fault(
        strike=outages.one_way_loss, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "loss-20": Fault(
        strike=outages.loss, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "delay": Fault(
        strike=frames.delay, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "duplicate": Fault(
        strike=frames.duplicate, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "reorder": Fault(
        strike=frames.reorder, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "corrupt-flight": Fault(
        strike=frames.corrupt_flight, takes_machine=True, recovers=False, needs=_HOSTS
    ),
    "corrupt-fetch": Fault(
        strike=frames.corrupt_fetch, takes_machine=True, needs=_HOSTS
    ),
    "skew-clock": Fault(
        strike=outages.skew_clock,
        takes_machine=True,
        recovers=False,
        needs=frozenset({"hosts", "clocks"}),
    ),
}


def check(kinds: Sequence[str]) -> None:
    """Raises: UsageError naming kinds that are not known, and those that are."""
    unknown = sorted(set(kinds) - set(FAULTS))
    if unknown or not kinds:
        raise UsageError(
            f"unknown kinds of failure: {', '.join(unknown) or 'none given'}; known: "
            f"{', '.join(FAULTS)}"
        )


def needs(kinds: Sequence[str]) -> frozenset[str]:
    """Returns what all of these kinds need together."""
    return frozenset[str]().union(*(FAULTS[kind].needs for kind in kinds))
