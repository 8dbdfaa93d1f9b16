"""Blows that fall while a copy is made: captured, sent, or received and verified.

That a copy is under way is seen in the memory that it is written into (watch.py). The
victim is stopped, and the memory looked at again: only where the copy is torn for good
the blow falls, and its detail says how far the copy had come. Else the victim goes on,
and the next copy is waited for.

    phase        who writes            torn slot is
    capturing    the victim's rank     the victim's, of its own shard
    sending      a neighbour's agent   the neighbour's, of the victim's shard
    verifying    the victim's agent    the victim's, of a neighbour's shard

A receiver hashes chunk by chunk as they come, so receiving and verifying are one phase.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from twinstep.agent.status import Status
from twinstep.clock import monotonic_s
from twinstep.demo import victims
from twinstep.demo.faults import Blow, Missed, Scene, Strike, training
from twinstep.demo.victims import Victim
from twinstep.demo.watch import Eyes
from twinstep.errors import UsageError
from twinstep.inject import find_machine, live_group, slots_of

AIM_S_MAX = 20.0
"""A moment is waited for as long as this; some thirty copies are made meanwhile."""
LOOK_S = 0.0002
DRAIN_S = 0.03
"""What a stopped sender left in the sockets has been read after this time."""
PAUSE_S = (0.2, 4.0)
"""Shorter and longer than a lease lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Whom to injure, and which copy to watch meanwhile."""

    victim: Victim
    watched: str
    """The machine in whose memory the copy is written."""
    shard: int
    writer: Victim | None = None
    """Who writes, where it would finish the copy without the victim: it stands still
    while the blow falls, so that the blow falls in the middle."""


def strike(who: str, phase: str, *, kill: bool) -> Strike:
    """Returns the strike at a rank, an agent, a machine or the root, in a phase."""
    return partial(_strike, AIMS[phase], who, phase, kill)


def _strike(
    choose: Callable[[Status, str, Random], Aim],
    who: str,
    phase: str,
    kill: bool,
    scene: Scene,
    random: Random,
) -> Blow:
    aim = choose(scene.status, who, random)
    machine = find_machine(scene.status, aim.watched)
    paths = slots_of(live_group(machine), aim.shard)
    with caught(aim.victim, paths, writer=aim.writer) as catch:
        where = f"{aim.watched}'s copy of shard {aim.shard}"
        return blow_of(
            scene,
            aim.victim,
            random,
            kill=kill,
            detail=f"{phase}: {catch.share:.0%} of {where} written",
            struck_s=scene.now_s() - catch.ago_s,
            aims=catch.aims,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Catch:
    """A victim was stopped `ago_s` seconds ago, when this share was written."""

    share: float
    ago_s: float
    aims: int
    """How often it was stopped until a copy was torn then."""


@contextlib.contextmanager
def caught(
    victim: Victim,
    paths: Sequence[Path],
    *,
    writer: Victim | None = None,
    within_s: float = AIM_S_MAX,
) -> Generator[Catch]:
    """The victim is stopped, and a copy in one of these slots is torn; a writer stands
    still until the end of the block.

    Raises: Missed when no aim met a copy; UsageError when somebody is gone."""
    until_s, aims = monotonic_s() + within_s, 0
    with Eyes(paths) as eyes:
        while (at_s := monotonic_s()) < until_s:
            time.sleep(LOOK_S)
            if not eyes.look(at_s):
                continue
            aims, stopped_s = aims + 1, monotonic_s()
            with standing_still(writer):
                victim.stop()
                time.sleep(DRAIN_S)
                share = eyes.look(monotonic_s())
                if share:
                    ago_s = monotonic_s() - stopped_s
                    yield Catch(share=share, ago_s=ago_s, aims=aims)
                    return
                victim.let_go()
    raise Missed(f"{victim.who}: {aims} aims in {within_s:g} s met no torn copy")


@contextlib.contextmanager
def standing_still(writer: Victim | None) -> Generator[None]:
    """Somebody else does nothing meanwhile."""
    if writer is None:
        yield
        return
    writer.stop()
    try:
        yield
    finally:
        writer.let_go()


def blow_of(
    scene: Scene,
    victim: Victim,
    random: Random,
    *,
    kill: bool,
    detail: str,
    struck_s: float,
    aims: int = 1,
) -> Blow:
    """The victim, which is stopped, is killed; or a rank stays stopped, and any other
    goes on after a while."""
    if kill:
        victim.kill()
        return Blow(
            who=victim.who,
            what=f"{victim.who} killed",
            detail=f"{detail}; SIGKILL",
            struck_s=struck_s,
            aims=aims,
        )
    if victim.is_rank:
        return Blow(
            who=victim.who,
            what=f"{victim.who} stopped",
            detail=f"{detail}; SIGSTOP",
            struck_s=struck_s,
            aims=aims,
        )
    scene.ground.out_of_reach(victim.machine)
    lasts_s = random.uniform(*PAUSE_S)
    return Blow(
        who=victim.who,
        what=f"{victim.who} paused",
        detail=f"{detail}; SIGSTOP, and SIGCONT after {lasts_s:.1f} s",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=victim.let_go,
        aims=aims,
    )


# Whom to injure, and what to watch.


def _capturing(status: Status, who: str, random: Random) -> Aim:
    machine, rank = _machine_and_rank(status, who, random)
    writer = victims.rank_of(status, rank) if who == "agent" else None
    victim = _victim(status, who, machine, rank)
    return Aim(victim=victim, watched=machine, shard=rank, writer=writer)


def _sending(status: Status, who: str, random: Random) -> Aim:
    machine, rank = _machine_and_rank(status, who, random)
    holders = [each.machine for each in training(status) if rank in each.holds]
    if not holders:
        raise UsageError(f"no machine holds a copy of shard {rank}")
    holder = random.choice(holders)
    writer = victims.agent_of(status, holder) if who == "rank" else None
    victim = _victim(status, who, machine, rank)
    return Aim(victim=victim, watched=holder, shard=rank, writer=writer)


def _verifying(status: Status, who: str, random: Random) -> Aim:
    machine, rank = _machine_and_rank(status, who, random)
    holds = find_machine(status, machine).holds
    if not holds:
        raise UsageError(f"{machine} holds no copies of others")
    writer = victims.agent_of(status, machine) if who == "rank" else None
    victim = _victim(status, who, machine, rank)
    shard = random.choice(holds)
    return Aim(victim=victim, watched=machine, shard=shard, writer=writer)


AIMS: dict[str, Callable[[Status, str, Random], Aim]] = {
    "capturing": _capturing,
    "sending": _sending,
    "verifying": _verifying,
}


def _machine_and_rank(status: Status, who: str, random: Random) -> tuple[str, int]:
    """A machine that trains, and one of its ranks; `who` may ask for the root."""
    trains = {each.machine: each for each in training(status) if each.ranks}
    names = sorted(trains)
    if who in ("root", "machine"):
        names = [name for name in names if (name == status.root) == (who == "root")]
    if not names:
        raise UsageError(f"no {who} trains now")
    machine = random.choice(names)
    return machine, random.choice(sorted(trains[machine].ranks))


def _victim(status: Status, who: str, machine: str, rank: int) -> Victim:
    if who == "rank":
        return victims.rank_of(status, rank)
    if who == "agent":
        return victims.agent_of(status, machine)
    return victims.all_of(status, machine)
