"""Decides which words of a machine cannot be, so that no decision has to survive them.

The decoder has refused what no job could say (bounds.py). Here the job is known: a
machine speaks for itself and for no other, shards and ranks are those that there are,
and a list is no longer than there is to tell. Whoever says something else is dropped
and named; it would be believed in the next step of the vote otherwise, or be kept by
the root for as long as the job lasts.

Who has a place, and which ranks are on it, moves from round to round, and a machine
that has just lost its place is not mad: what it says is not heard, and that is all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from twinstep.agent import messages as say
from twinstep.store.slots import SLOTS_MAX
from twinstep.values import Grid

if TYPE_CHECKING:
    from twinstep.agent.root import Root

WARNINGS_MAX = 4096
"""Of one machine's probes."""
ROUNDS_AHEAD_MAX = 1_000_000
"""A machine may know of rounds that the store does not, after that has lost some; of no
more than a job comes to in years, or one word would use up all numbers."""
EVERY_MAX = 1_000_000
"""No machine plans with so few captures."""
BAD_MAX = 65_536
"""Copies that are known to be bad at the same time."""


def refusal(message: say.ToRoot, *, machine: str, grid: Grid, round: int) -> str:
    """Returns why `machine` cannot have said this, or nothing. `round` is the one that
    the root knows of."""
    name = type(message).__name__
    if message.machine != machine:
        return f"{name} in the name of {message.machine!r}"
    ranks, shards = range(grid.world_size), grid.shards
    match message:
        case say.Inventory(copies=copies, sizes=sizes, place=place):
            wrong = _outside((copy.shard for copy in copies), shards)
            wrong = wrong or _outside(sizes, shards)
            wrong = wrong or _many(len(copies), SLOTS_MAX * len(shards), "copies")
            if place >= grid.machines:
                wrong = f"place {place} of {grid.machines}"
        case say.Report(safe=safe, digests=digests):
            wrong = _many(len(safe), SLOTS_MAX, "safe steps")
            wrong = wrong or _many(len(digests), SLOTS_MAX * len(shards), "digests")
            for one in digests.values():
                wrong = wrong or _many(len(one), grid.ranks_per_machine, "digests")
        case say.Laid(sizes=sizes, shared_digests=digests):
            wrong = _outside(sizes, shards)
            wrong = wrong or _many(len(digests), grid.ranks_per_machine, "digests")
        case say.RankEnded(rank=rank):
            wrong = _outside([rank], ranks)
        case say.Looked(ranks=seen):
            wrong = _outside(seen, ranks)
        case say.RanksUp(pids=pids):
            wrong = _outside(pids, ranks)
        case say.Loaded(sources=sources):
            wrong = _outside(sources, shards)
        case say.CopyBad(shard=shard):
            wrong = _outside([shard], shards)
        case say.Condition(warnings=warnings):
            wrong = _many(len(warnings), WARNINGS_MAX, "warnings")
        case say.Join(round=joins):
            far = joins > round + ROUNDS_AHEAD_MAX
            wrong = f"round {joins}, far beyond {round}" if far else ""
        case say.Profiled(every=every):
            wrong = f"a capture in {every} steps" if every > EVERY_MAX else ""
        case say.Unable() | say.Stored() | say.StoredBad():
            wrong = ""
    return f"{name} with {wrong}" if wrong else ""


def counts(root: Root, message: say.ToRoot) -> bool:
    """Whether a message is of the present round and term, and of a machine that has a
    say in it: of its own ranks, if it has a place."""
    if isinstance(message, say.Join | say.Condition):
        return True  # of a machine, in whichever round
    if (message.round, message.term) != (root.round, root.term):
        return False
    roster, grid = root.roster, root.grid
    if isinstance(message, say.Inventory):
        return message.machine in roster.joined
    if message.machine not in roster.members:
        return False
    place = roster.members.index(message.machine)
    match message:
        case say.Laid(sizes=sizes):
            return not set(sizes) - set(grid.captured_by(place))
        case say.RankEnded(rank=rank):
            return rank in grid.ranks(place)
        case say.Looked(ranks=ranks):
            return not set(ranks) - set(grid.ranks(place))
        case say.RanksUp(pids=ranks):
            return not set(ranks) - set(grid.ranks(place))
        case say.CopyBad(corrupt=corrupt):
            return not corrupt or len(root.bad) < BAD_MAX
        case _:
            return True


def _outside(numbers: Iterable[int], there: range) -> str:
    """The first number that is none of those there are."""
    wrong = next((number for number in numbers if number not in there), None)
    return "" if wrong is None else f"number {wrong} of {len(there)}"


def _many(count: int, most: int, what: str) -> str:
    return f"{count} {what}, at most {most}" if count > most else ""
