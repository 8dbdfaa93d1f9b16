"""Faults of frames on a machine's cable: late, damaged, doubled, out of order.

Damage is such that TCP's checksum does not see it (hosts/relay.py), and only where
twinstep has a checksum of its own: at the ports of agents and of the embedded store.
Gradients have none; whoever damaged those would train something else, with or without
twinstep. An etcd has none either towards its clients, and is left alone.
"""

from __future__ import annotations

from random import Random

from twinstep import inject
from twinstep.agent.status import MachineStatus
from twinstep.demo.faults import Blow, Scene, training
from twinstep.demo.hosts.ground import STORE_PORT
from twinstep.demo.hosts.network import SWITCH, Network
from twinstep.demo.hosts.relay import Wrong
from twinstep.errors import UsageError

BAD_S = (3.0, 6.0)
DELAY_S = 0.05
SWAP = 0.01
"""One in a hundred frames is damaged: some tens a second."""
TWICE = 0.2
LATE = 0.1
LATE_S = 0.005
"""Later than many that were sent after it: a frame passes in 0.1 ms."""


def delay(scene: Scene, random: Random) -> Blow:
    what = f"{DELAY_S * 1e3:.0f} ms late"
    return _mangle(scene, random, Wrong(delay_s=DELAY_S), what, hurts=False)


def duplicate(scene: Scene, random: Random) -> Blow:
    wrong = Wrong(twice=TWICE, seed=random.getrandbits(32))
    return _mangle(scene, random, wrong, f"{TWICE:.0%} of frames twice")


def reorder(scene: Scene, random: Random) -> Blow:
    wrong = Wrong(late=LATE, late_s=LATE_S, seed=random.getrandbits(32))
    return _mangle(scene, random, wrong, f"{LATE:.0%} of frames overtaken")


def corrupt_flight(scene: Scene, random: Random) -> Blow:
    """What a machine sends and receives is damaged such that TCP lets it through."""
    return _mangle(scene, random, _damage(scene, random), f"{SWAP:.0%} damaged")


def corrupt_fetch(scene: Scene, random: Random) -> Blow:
    """A machine is lost, and one that has copies of its shards sends them damaged."""
    status = scene.status
    pairs = [
        (lost, holder.machine)
        for lost in training(status)
        for holder in _others(training(status), lost)
        if lost.machine != status.root
    ]
    if not pairs:
        raise UsageError("no machine holds copies of another's shards")
    lost, holder = random.choice(pairs)
    wrong = _damage(scene, random)
    blow = _mangle(
        scene, random, wrong, f"damages, {lost.machine} lost", machine=holder
    )
    try:
        inject.kill_machine(status, lost.machine)
    except BaseException:
        assert blow.mend is not None
        blow.mend()
        raise
    return blow


def _others(machines: list[MachineStatus], lost: MachineStatus) -> list[MachineStatus]:
    """Those that hold copies of what a machine's ranks own."""
    return [
        each
        for each in machines
        if each.machine != lost.machine and set(lost.ranks) & set(each.holds)
    ]


def _damage(scene: Scene, random: Random) -> Wrong:
    ends: list[list[str | int]] = [[m.host, m.port] for m in scene.status.machines]
    if scene.ground.etcd is None:
        ends.append([Network.address(SWITCH), STORE_PORT])
    return Wrong(swap=SWAP, ends=ends, seed=random.getrandbits(32))


def _mangle(
    scene: Scene,
    random: Random,
    wrong: Wrong,
    what: str,
    *,
    machine: str = "",
    hurts: bool = True,
) -> Blow:
    """The cable of a machine's host is so for a while."""
    network = scene.ground.network
    if network is None:
        raise UsageError("links fail on hosts only")
    names = [each.machine for each in training(scene.status)]
    machine = machine or random.choice(names)
    host = scene.ground.host_of(machine)
    scene.ground.out_of_reach(machine)
    lasts_s, struck_s = random.uniform(*BAD_S), scene.now_s()
    network.relay(host, wrong)

    def mend() -> None:
        if not network.unrelay(host) and hurts:
            raise UsageError(f"no frame was hurt in {lasts_s:.1f} s at {machine}")

    return Blow(
        who=machine,
        what=f"{machine} {what}",
        detail=f"in each direction, for {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=mend,
    )
