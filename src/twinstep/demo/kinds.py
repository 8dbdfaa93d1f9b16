"""The table of all failures: what the demo, the soak and the tests name them by.

A group is a kind of kinds, and may be asked for like one (`--include moments`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from twinstep.demo import (
    faults,
    frames,
    moments,
    outages,
    pressure,
    recovering,
    together,
)
from twinstep.demo.faults import STEPS_LOST_MAX, Fault
from twinstep.errors import UsageError

_HOSTS = frozenset({"hosts"})
_HERE = frozenset({"loopback"})
_LONG = frozenset({"loopback", "ballast"})
WHO = ("rank", "agent", "machine", "root")

_PROCESSES: dict[str, Fault] = {
    "kill-rank": Fault(strike=faults.kill_rank, takes_machine=False),
    "stop-rank": Fault(strike=faults.stop_rank, takes_machine=False),
    "kill-agent": Fault(strike=faults.kill_agent, takes_machine=True, needs=_HERE),
    "pause-agent": Fault(
        strike=outages.pause_agent, takes_machine=True, recovers=False, needs=_HERE
    ),
    "kill-machine": Fault(strike=faults.kill_machine, takes_machine=True),
    "corrupt-copy": Fault(strike=faults.corrupt_copy, takes_machine=True),
    "kill-root": Fault(strike=faults.kill_root, takes_machine=True),
    "pause-root": Fault(strike=outages.pause_root, takes_machine=True),
}


def _name(who: str, phase: str, *, kill: bool) -> str:
    verb = "kill" if kill else "stop" if who == "rank" else "pause"
    return f"{verb}-{who}-{phase}"


def _moments() -> dict[str, Fault]:
    """Everybody is killed, and stopped, in each phase of a copy."""
    found: dict[str, Fault] = {}
    for phase, who, kill in product(moments.AIMS, WHO, (True, False)):
        found[_name(who, phase, kill=kill)] = Fault(
            strike=moments.strike(who, phase, kill=kill),
            takes_machine=who != "rank",
            recovers=kill or who == "rank",
            # Aimed at copies that are on their way: the next step may be done by then.
            cost_max=STEPS_LOST_MAX + 1,
            needs=_LONG,
        )
    return found


def _recoveries() -> dict[str, Fault]:
    """A machine is lost, and somebody else in a phase of the recovery from that."""
    found: dict[str, Fault] = {}
    for phase, everybody in recovering.WHO.items():
        for who, kill in product(everybody, (True, False)):
            found[_name(who, phase, kill=kill)] = Fault(
                strike=recovering.strike(who, phase, kill=kill),
                takes_machine=True,
                needs=_LONG,
            )
    return found


_TOGETHER: dict[str, Fault] = {
    "kill-two-ranks": Fault(
        strike=together.kill_two_ranks, takes_machine=False, needs=_HERE
    ),
    "kill-two-machines": Fault(
        strike=together.kill_two_machines, takes_machine=True, needs=_HERE
    ),
    "kill-machine-and-root": Fault(
        strike=together.kill_machine_and_root, takes_machine=True, needs=_HERE
    ),
}

_STORE: dict[str, Fault] = {
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
}

_LINKS: dict[str, Fault] = {
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
}

_CLOCKS: dict[str, Fault] = {
    "skew-clock": Fault(
        strike=outages.skew_clock,
        takes_machine=True,
        recovers=False,
        needs=frozenset({"hosts", "clocks"}),
    ),
}

_PRESSURE: dict[str, Fault] = {
    "memory-limit": Fault(
        strike=pressure.memory_limit,
        takes_machine=True,
        needs=frozenset({"hosts", "memory"}),
    ),
    "full-disk": Fault(
        strike=pressure.full_disk,
        takes_machine=True,
        needs=frozenset({"hosts", "disk"}),
    ),
}

_MEMORY: dict[str, Fault] = {
    "kill-group": Fault(
        strike=together.kill_group,
        takes_machine=True,
        loses_memory=True,
        needs=frozenset({"loopback", "storage"}),
    ),
}

GROUPS: dict[str, dict[str, Fault]] = {
    "processes": _PROCESSES,
    "moments": _moments(),
    "recoveries": _recoveries(),
    "together": _TOGETHER,
    "store": _STORE,
    "links": _LINKS,
    "clocks": _CLOCKS,
    "pressure": _PRESSURE,
    "memory": _MEMORY,
}

FAULTS: dict[str, Fault] = {
    kind: fault for group in GROUPS.values() for kind, fault in group.items()
}


def named(words: Iterable[str]) -> list[str]:
    """Returns the kinds that these words name, a group's in its order; each once."""
    found: dict[str, None] = {}
    for word in words:
        found |= dict.fromkeys(GROUPS.get(word, (word,)))
    return list(found)


def check(kinds: Sequence[str]) -> None:
    """Raises: UsageError naming kinds that are not known, and those that are."""
    unknown = sorted(set(kinds) - set(FAULTS))
    if unknown or not kinds:
        known = "; ".join(
            f"{group}: {', '.join(members)}" for group, members in GROUPS.items()
        )
        raise UsageError(
            f"unknown kinds of failure: {', '.join(unknown) or 'none given'}; known, "
            f"by groups, which may be named as well: {known}"
        )


def needs(kinds: Sequence[str]) -> frozenset[str]:
    """Returns what all of these kinds need together."""
    return frozenset[str]().union(*(FAULTS[kind].needs for kind in kinds))
