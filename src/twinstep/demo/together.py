"""Two blows at once, and which machines may be lost together.

Two copies survive the loss of any one machine, and of some pairs: with placement in
groups, those that are not of one group. Which ones is read off the status: a shard has
lived where one of its holders has.
"""

from __future__ import annotations

from itertools import combinations
from random import Random

from twinstep.agent.status import Status
from twinstep.demo import victims
from twinstep.demo.faults import Blow, Scene, training
from twinstep.demo.victims import Victim
from twinstep.errors import UsageError


def survives(status: Status, lost: set[str]) -> bool:
    """Whether every shard is in the memory of a machine that is not lost."""
    machines = training(status)
    return all(
        any(
            shard in (*each.ranks, *each.holds)
            for each in machines
            if each.machine not in lost
        )
        for machine in machines
        for shard in machine.ranks
    )


def pairs(status: Status) -> list[tuple[str, str]]:
    """Returns the machines that train and may be lost together."""
    names = [each.machine for each in training(status)]
    return [pair for pair in combinations(names, 2) if survives(status, set(pair))]


def companions(status: Status, machine: str) -> list[str]:
    """Returns the machines that train and may be lost together with this one.

    Raises: UsageError when there is none."""
    found = [
        left if right == machine else right
        for left, right in pairs(status)
        if machine in (left, right)
    ]
    if not found:
        raise UsageError(f"no machine can be lost together with {machine}")
    return found


def kill_two_ranks(scene: Scene, random: Random) -> Blow:
    machines = [each for each in training(scene.status) if each.ranks]
    if len(machines) < 2:
        raise UsageError("two ranks on two machines do not train now")
    chosen = random.sample(machines, 2)
    numbers = [random.choice(sorted(each.ranks)) for each in chosen]
    return _all(scene, [victims.rank_of(scene.status, n) for n in numbers])


def kill_two_machines(scene: Scene, random: Random) -> Blow:
    """Neither is the root."""
    root = scene.status.root
    found = [pair for pair in pairs(scene.status) if root not in pair]
    if not found:
        raise UsageError("no two machines can be lost together now")
    left, right = random.choice(found)
    return _all(scene, [victims.all_of(scene.status, name) for name in (left, right)])


def kill_machine_and_root(scene: Scene, random: Random) -> Blow:
    root = scene.status.root
    other = random.choice(companions(scene.status, root))
    return _all(scene, [victims.all_of(scene.status, name) for name in (other, root)])


def kill_group(scene: Scene, random: Random) -> Blow:
    """A machine and all others that hold its shards: memory has no whole step then."""
    machines = training(scene.status)
    owner = random.choice(machines)
    names = [
        each.machine
        for each in machines
        if each is owner or set(owner.ranks) & set(each.holds)
    ]
    if len(names) == len(machines):
        raise UsageError("every machine holds a copy of every shard")
    return _all(scene, [victims.all_of(scene.status, name) for name in names])


def _all(scene: Scene, struck: list[Victim]) -> Blow:
    """All stand still before any is killed: none can react to the others."""
    struck_s = scene.now_s()
    stopped: list[Victim] = []
    try:
        for victim in struck:
            victim.stop()
            stopped.append(victim)
    except UsageError:
        for victim in stopped:
            victim.let_go()
        raise
    for victim in struck:
        victim.kill()
    who = ", ".join(victim.who for victim in struck)
    return Blow(
        who=who,
        what=f"{who} killed",
        detail="SIGKILL to all at once",
        struck_s=struck_s,
    )
