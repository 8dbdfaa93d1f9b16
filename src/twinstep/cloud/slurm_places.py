"""Which machine of a job is which node of Slurm's, as the key-value store has it.

A node may carry several machines, one after another: its agent dies and is started
again, or Slurm gives the node to a replacement. Copies in memory have died with the
agent, so it is another machine each time, and has another name: n2, then n2-2.

    slurm/machines/NAME     put by the machine itself: its node and its Slurm job
    slurm/returned/NAME     it is there again after its agent died; deleted when it was
                            taken for a machine that somebody asked for
    slurm/requests/REQUEST  put by the operator: the Slurm job it started for it
    slurm/bad/NODE          why nothing of this run is to be started there
    slurm/first             the Slurm job that the run began with
"""

from __future__ import annotations

import msgspec

from twinstep.agent.kv import Delete, KeyValueStore, Operation, Put, absent, unchanged
from twinstep.environment import SlurmPlace, slurm_place
from twinstep.errors import ConfigError, DeadlinePassed, UsageError

PREFIX = "slurm/"
MACHINES = f"{PREFIX}machines/"
RETURNED = f"{PREFIX}returned/"
REQUESTS = f"{PREFIX}requests/"
BAD = f"{PREFIX}bad/"
FIRST = f"{PREFIX}first"
LIVES_MAX = 1000
"""Machines on one node in one run; more is a loop that nobody has bounded."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a machine runs."""

    node: str
    job: str
    replacement: bool
    launcher: tuple[str, int]
    """Where the `srun` of its Slurm job listens; no port if unknown."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: a Slurm job or a machine that had returned; then a
    machine or, with `reason`, none."""

    job: str = ""
    machine: str = ""
    reason: str = ""


def here() -> SlurmPlace:
    """Returns where Slurm has started this process. Raises: ConfigError."""
    place = slurm_place()
    if place is None:
        raise ConfigError(
            "the operator slurm is for agents that Slurm has started, and SLURM_JOB_ID "
            "or SLURMD_NODENAME is not set: start them with srun, as in "
            "recipes/slurm/train.sbatch, or use another --operator"
        )
    return place


def take(
    store: KeyValueStore, place: SlurmPlace, *, machines: int, standby: bool
) -> tuple[str, bool]:
    """Returns a name that no other machine of the run has or had, and whether the
    machine stands by: the nodes beyond `machines` do, replacements, and whoever is
    there again.

    Raises: UsageError when the node was found to be bad."""
    _, items = store.get(BAD + place.node)
    if item := items.get(BAD + place.node):
        raise UsageError(
            f"node {place.node} is not used by this run any more: {_text(item.value)}"
        )
    value = Place(
        node=place.node,
        job=place.job,
        replacement=place.replacement,
        launcher=place.launcher,
    )
    for life in range(1, LIVES_MAX + 1):
        name = place.machine if life == 1 else f"{place.machine}-{life}"
        puts: list[Operation] = [
            Put(key=MACHINES + name, value=msgspec.msgpack.encode(value))
        ]
        if life > 1:
            puts.append(Put(key=RETURNED + name, value=b""))
        try:
            done, _ = store.transact(puts, when=[absent(MACHINES + name)])
        except DeadlinePassed:  # perhaps done: a name that is skipped does no harm
            continue
        if done:
            if not place.replacement:
                put = Put(key=FIRST, value=place.job.encode())
                store.transact([put], when=[absent(FIRST)])
            spare = place.replacement or place.node_id >= machines
            return name, standby or spare or life > 1
    raise UsageError(f"{LIVES_MAX} machines of this run were on node {place.node}")


def place_of(store: KeyValueStore, machine: str) -> Place | None:
    """Returns where a machine runs, or ran."""
    item = store.get(MACHINES + machine)[1].get(MACHINES + machine)
    return msgspec.msgpack.decode(item.value, type=Place) if item else None


def launchers(store: KeyValueStore) -> dict[str, tuple[str, int]]:
    """Returns where the `srun` of each Slurm job of the run listens."""
    _, items = store.get(MACHINES)
    found = [msgspec.msgpack.decode(i.value, type=Place) for i in items.values()]
    return {place.job: place.launcher for place in found}


def first_job(store: KeyValueStore) -> str:
    item = store.get(FIRST)[1].get(FIRST)
    return _text(item.value) if item else ""


def bad_nodes(store: KeyValueStore) -> dict[str, str]:
    """Returns the nodes that are not to be used, with the reasons."""
    _, items = store.get(BAD)
    return {key.removeprefix(BAD): _text(i.value) for key, i in items.items()}


def requests(store: KeyValueStore) -> dict[str, Request]:
    _, items = store.get(REQUESTS)
    return {
        key.removeprefix(REQUESTS): msgspec.msgpack.decode(i.value, type=Request)
        for key, i in items.items()
    }


def save(store: KeyValueStore, request: str, what: Request) -> None:
    value = msgspec.msgpack.encode(what)
    store.transact([Put(key=REQUESTS + request, value=value)])


def claim(store: KeyValueStore, request: str, *, alive: set[str]) -> str:
    """A machine that lives and has returned is the answer to a request from now on.

    Returns its name; empty when there is none."""
    _, items = store.get(RETURNED)
    for key, item in items.items():
        name = key.removeprefix(RETURNED)
        if name not in alive:
            continue
        value = msgspec.msgpack.encode(Request(machine=name))
        done, _ = store.transact(
            [Put(key=REQUESTS + request, value=value), Delete(key=key)],
            when=[unchanged(key, item.changed)],
        )
        if done:
            return name
    return ""


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
