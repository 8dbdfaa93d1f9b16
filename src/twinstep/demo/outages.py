"""Faults that end by themselves: links that fail, etcd's leader, clocks, a pause.

Each gives back how long it lasts and how it is mended. What it leaves behind then is
the point: a machine that was only away is still there, and others have gone on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from random import Random

from twinstep.demo import victims
from twinstep.demo.faults import Blow, Scene, not_root, training
from twinstep.demo.hosts.links import Links
from twinstep.demo.hosts.network import Network
from twinstep.errors import UsageError

AWAY_S = (3.0, 5.0)
"""Longer than a lease lives: a machine that is away so long is lost."""
BAD_S = (3.0, 6.0)
"""Links are bad for so long."""
LOSS = 0.2
SHIFTS_S = (3600.0, -3600.0)


def _network(scene: Scene) -> Network:
    if scene.ground.network is None:
        raise UsageError("links fail on hosts only")
    return scene.ground.network


def _injure(
    scene: Scene,
    machine: str,
    worse: Callable[[Links, int], Links],
    *,
    what: str,
    lasts_s: float,
    lost: bool,
) -> Blow:
    """The links of a machine's host are worse for a while."""
    network, host = _network(scene), scene.ground.host_of(machine)
    if lost:
        scene.ground.out_of_reach(machine)
    struck_s = scene.now_s()
    network.set(worse(network.links, host))
    return Blow(
        who=machine,
        what=f"{machine} {what}",
        detail=f"{what} for {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=lambda: network.set(network.links.healed(host)),
    )


def partition_machine(scene: Scene, random: Random) -> Blow:
    machine = random.choice(not_root(scene.status))
    lasts_s = random.uniform(*AWAY_S)
    return _injure(
        scene, machine, Links.but_cut, what="cut off", lasts_s=lasts_s, lost=True
    )


def partition_root(scene: Scene, random: Random) -> Blow:
    lasts_s, root = random.uniform(*AWAY_S), scene.status.root
    what = "(root) cut off"
    return _injure(scene, root, Links.but_cut, what=what, lasts_s=lasts_s, lost=True)


def mute_machine(scene: Scene, random: Random) -> Blow:
    """It hears everybody, and nobody hears it."""
    machine = random.choice([each.machine for each in training(scene.status)])
    lasts_s = random.uniform(*AWAY_S)
    return _injure(
        scene, machine, Links.but_mute, what="mute", lasts_s=lasts_s, lost=True
    )


def shut_machine(scene: Scene, random: Random) -> Blow:
    """Everybody hears it, and it hears nobody."""
    machine = random.choice([each.machine for each in training(scene.status)])
    lasts_s = random.uniform(*AWAY_S)
    return _injure(
        scene, machine, Links.but_shut, what="hears nobody", lasts_s=lasts_s, lost=True
    )


def one_way_loss(scene: Scene, random: Random) -> Blow:
    """One machine does not hear another, which hears it."""
    source, target = random.sample(training(scene.status), 2)
    far = scene.ground.host_of(target.machine)
    return _injure(
        scene,
        source.machine,
        lambda links, host: links.but_deaf(host, far),
        what=f"not heard by {target.machine}",
        lasts_s=random.uniform(*BAD_S),
        lost=True,
    )


def loss(scene: Scene, random: Random) -> Blow:
    machine = random.choice([each.machine for each in training(scene.status)])
    return _injure(
        scene,
        machine,
        lambda links, host: links.but_lossy(host, LOSS),
        what=f"loses {LOSS:.0%} of packets",
        lasts_s=random.uniform(*BAD_S),
        lost=True,
    )


def pause_root(scene: Scene, random: Random) -> Blow:
    """The root's machine stands still, and goes on as if nothing had been."""
    root = scene.status.root
    (found,) = (each for each in scene.status.machines if each.machine == root)
    if found.group <= 0:
        raise UsageError(f"{root} is gone")
    scene.ground.out_of_reach(root)
    lasts_s, struck_s = random.uniform(*AWAY_S), scene.now_s()
    os.killpg(found.group, signal.SIGSTOP)

    def mend() -> None:
        try:
            os.killpg(found.group, signal.SIGCONT)
        except ProcessLookupError:
            return  # it was ended meanwhile, where it could be reached

    return Blow(
        who=root,
        what=f"{root} (root) paused",
        detail=f"SIGSTOP, and SIGCONT after {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=mend,
    )


def pause_agent(scene: Scene, random: Random) -> Blow:
    """An agent stands still and its ranks do not, longer than its lease lives."""
    machine = random.choice([each.machine for each in training(scene.status)])
    victim = victims.agent_of(scene.status, machine)
    scene.ground.out_of_reach(machine)
    lasts_s, struck_s = random.uniform(*AWAY_S), scene.now_s()
    victim.stop()
    return Blow(
        who=victim.who,
        what=f"{victim.who} paused",
        detail=f"SIGSTOP, and SIGCONT after {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=victim.let_go,
    )


def kill_etcd_leader(scene: Scene, random: Random) -> Blow:
    etcd = scene.ground.etcd
    if etcd is None:
        raise UsageError("this job has no etcd")
    leader = etcd.leader()
    lasts_s, struck_s = random.uniform(*AWAY_S), scene.now_s()
    etcd.signal(leader, signal.SIGKILL)
    return Blow(
        who=f"etcd {leader}",
        what=f"etcd's leader e{leader} killed",
        detail=f"SIGKILL, and started again after {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=lambda: etcd.start(leader),
    )


def partition_etcd_leader(scene: Scene, random: Random) -> Blow:
    etcd, network = scene.ground.etcd, _network(scene)
    if etcd is None:
        raise UsageError("this job has no etcd")
    leader = etcd.leader()
    host = int(etcd.places[leader].host.rpartition(".")[2])
    lasts_s, struck_s = random.uniform(*AWAY_S), scene.now_s()
    network.set(network.links.but_cut(host))
    return Blow(
        who=f"etcd {leader}",
        what=f"etcd's leader e{leader} cut off",
        detail=f"for {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=lambda: network.set(network.links.healed(host)),
    )


def skew_clock(scene: Scene, random: Random) -> Blow:
    """A machine's wall clock jumps by an hour, beside the error it has anyway."""
    machine = random.choice([each.machine for each in training(scene.status)])
    shift_s, struck_s = random.choice(SHIFTS_S), scene.now_s()
    scene.ground.shift_clock(machine, shift_s)
    return Blow(
        who=machine,
        what=f"{machine}'s clock jumps",
        detail=f"by {shift_s:+.0f} s",
        struck_s=struck_s,
        lasts_s=2.0,
        mend=lambda: None,
    )
