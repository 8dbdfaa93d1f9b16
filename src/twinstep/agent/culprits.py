"""Tells who holds the others up from those who wait, by what all ranks were seen doing.

A rank in a collective waits for the others: it is a victim. A rank in its framework
(backward, a stream) that uses no processor waits too; whether it computes is seen
between two looks. Who is neither is suspected. That names a culprit, but proves
nothing: a rank that evaluates while the others wait looks the same.

A deadlock is proven only where nobody can be about to go on: every rank has shown the
same stack, and used no processor, in several looks in a row; all but the suspects wait
in collectives; and every suspect waits for a lock or sleeps. Somebody else's process,
a data loader or a connection may yet answer, so a rank that waits for one proves none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twinstep.agent.messages import Sight
from twinstep.agent.stacks import Doing

STOPPED = ("T", "t")
IDLE_SHARE_MAX, IDLE_S_MAX = 0.02, 0.02
"""A rank that used less of one processor than this share between two looks, and this
time (of which the kernel counts hundredths) to answer them, did nothing; the threads
that poll in a framework use less."""
RANKS_NAMED_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whom all wait for, how that was told, and how sure it is."""

    ranks: tuple[int, ...]
    how: str
    stopped: bool = False
    """By a signal: it does not move until somebody wakes it."""
    proven: bool = False
    """A deadlock: nobody can be about to go on."""

    @property
    def who(self) -> str:
        return ", ".join(f"rank {rank}" for rank in self.ranks)


@dataclass(slots=True, kw_only=True)
class Stillness:
    """For how many looks in a row each rank has shown the same stack, using nothing."""

    looks: dict[int, int] = field(default_factory=dict[int, int])
    last: dict[int, tuple[Sight, float]] = field(
        default_factory=dict[int, tuple[Sight, float]]
    )

    def seen(self, sights: Mapping[int, Sight], now_s: float) -> None:
        """All ranks were looked at once more."""
        for rank, sight in sights.items():
            former = self.last.get(rank)
            still = former is not None and _still(*former, sight, now_s)
            self.looks[rank] = self.looks.get(rank, 0) + 1 if still else 0
            self.last[rank] = (sight, now_s)

    def clear(self) -> None:
        self.looks.clear()
        self.last.clear()


def _still(former: Sight, then_s: float, sight: Sight, now_s: float) -> bool:
    used_s = sight.cpu_s - former.cpu_s
    return (
        bool(sight.digest)
        and sight.digest == former.digest
        and sight.state == "S"
        and 0.0 <= used_s <= IDLE_S_MAX + IDLE_SHARE_MAX * (now_s - then_s)
    )


def judge(
    sights: Mapping[int, Sight], looks: Mapping[int, int], *, looks_min: int
) -> Verdict:
    """Returns whom all wait for. `looks` are those of Stillness; a deadlock is proven
    by no fewer than `looks_min` of every rank."""
    assert sights, "nobody was looked at"
    stopped = [rank for rank in sorted(sights) if sights[rank].state in STOPPED]
    if stopped:
        how = _told(sights, stopped, looks)
        return Verdict(ranks=tuple(stopped), how=how, stopped=True)
    still = all(looks.get(rank, 0) >= looks_min for rank in sights)
    waiting = [rank for rank in sorted(sights) if _waits(sights[rank], looks, rank)]
    others = [rank for rank in sorted(sights) if rank not in waiting]
    if waiting and others:
        proven = still and all(
            sights[rank].doing in (Doing.LOCK, Doing.SLEEP) for rank in others
        )
        how = _told(sights, others, looks)
        return Verdict(ranks=tuple(others), how=how, proven=proven)
    odd = _odd(sights)
    if odd:
        return Verdict(ranks=tuple(odd), how=_told(sights, odd, looks), proven=still)
    return _by_steps(sights, looks)


def _waits(sight: Sight, looks: Mapping[int, int], rank: int) -> bool:
    if sight.doing == Doing.FRAMEWORK:
        return looks.get(rank, 0) > 0
    return sight.doing == Doing.COLLECTIVE


def _odd(sights: Mapping[int, Sight]) -> list[int]:
    """All wait, but not in one collective: those in the one that fewest are in, or all
    where that cannot be told."""
    calls: dict[str, list[int]] = {}
    for rank in sorted(sights):
        calls.setdefault(sights[rank].call, []).append(rank)
    if len(calls) < 2 or any(s.doing != Doing.COLLECTIVE for s in sights.values()):
        return []
    few = min(calls.values(), key=len)
    alone = sum(len(ranks) == len(few) for ranks in calls.values()) == 1
    return few if alone else sorted(sights)


def _by_steps(sights: Mapping[int, Sight], looks: Mapping[int, int]) -> Verdict:
    """The stacks tell nothing apart; perhaps the steps do."""
    least = min(sight.step for sight in sights.values())
    behind = [rank for rank in sorted(sights) if sights[rank].step == least]
    if len(behind) < len(sights):
        how = f"still at step {least} while others went on"
        seen = _told(sights, behind, looks)
        return Verdict(ranks=tuple(behind), how=f"{_name(behind)} {how}; {seen}")
    seen = _told(sights, [], looks)
    how = f"all ranks stand at step {least}; no culprit can be told; {seen}"
    return Verdict(ranks=tuple(behind), how=how)


def _told(
    sights: Mapping[int, Sight], first: Sequence[int], looks: Mapping[int, int]
) -> str:
    """What every rank is doing: those in `first` before the others, alike together."""
    groups: dict[tuple[bool, str, str], list[int]] = {}
    for rank in sorted(sights, key=lambda rank: (rank not in first, rank)):
        single, plural = _words(sights[rank], idle=looks.get(rank, 0) > 0)
        groups.setdefault((rank in first, single, plural), []).append(rank)
    return "; ".join(
        f"{_name(ranks)} {single if len(ranks) == 1 else plural}"
        for (_, single, plural), ranks in groups.items()
    )


def _name(ranks: Sequence[int]) -> str:
    named = ", ".join(map(str, ranks[:RANKS_NAMED_MAX]))
    left = len(ranks) - RANKS_NAMED_MAX
    more = f" and {left} more" if left > 0 else ""
    return f"rank {named}" if len(ranks) == 1 else f"ranks {named}{more}"


def _words(sight: Sight, *, idle: bool) -> tuple[str, str]:
    """What a rank is doing, said of one and of several."""
    at = f" in {sight.place}" if sight.place else ""
    line = f" ({sight.call})" if sight.call else ""
    if sight.state in STOPPED:
        words = "is", "are", f"stopped by a signal{at}"
    elif sight.state in ("X", "Z"):
        words = "is", "are", "gone"
    else:
        match sight.doing:
            case Doing.COLLECTIVE:
                words = "waits", "wait", f"in {sight.call}"
            case Doing.FRAMEWORK if idle:
                words = "waits", "wait", f"in {sight.call}"
            case Doing.FRAMEWORK:
                words = "is", "are", f"in {sight.call}"
            case Doing.SLEEP:
                words = "sleeps", "sleep", f"in {sight.place}{line}"
            case Doing.LOCK:
                words = "waits", "wait", f"for a lock{at}{line}"
            case Doing.DATA:
                words = "waits", "wait", f"for data{at}"
            case Doing.AGENT:
                words = "waits", "wait", "for the agent of its machine"
            case Doing.OWN:
                words = "is", "are", f"in {sight.place}{line}"
            case _:
                words = "shows", "show", f"no stack (state {sight.state})"
    return f"{words[0]} {words[2]}", f"{words[1]} {words[2]}"
