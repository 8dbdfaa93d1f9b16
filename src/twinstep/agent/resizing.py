"""Decides, for the root, when a job goes on with fewer machines, and with more again.

Another number of machines means other shards: no copy in memory is of any use then. So
the way leads through storage. While all ranks are dead, the newest step that memory has
whole is written there, unless that very step is in storage already: of each rank's
shard by the first machine that holds it, a lost machine's too. Then all slots are given
up, and the ranks of the new number read what they need.

    a place is vacant, nobody comes ──► enough are left? ──► write ──► begin with fewer
    a machine is here without a place ──► stop all ────────► write ──► begin with more

If the step cannot be written, nothing is given up: a job that lacks a machine goes on
waiting for one, a job that would have grown goes on as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from twinstep.agent import actions as do, messages as say
from twinstep.agent.ballot import Ballot
from twinstep.agent.inventories import choose_from
from twinstep.agent.layouts import Layouts
from twinstep.agent.phase import Phase
from twinstep.agent.record import Plan
from twinstep.config import Job
from twinstep.errors import ConfigError
from twinstep.placement.strategy import place
from twinstep.recovery.choice import Choice
from twinstep.store.contents import part_name
from twinstep.values import Grid

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


@dataclass(slots=True, kw_only=True)
class Resizing:
    """How many machines train, and the step that is written to make that others.

    Invariant: a round in which a step was told to be written begins with another number
    of machines, or not at all: nobody writes to a slot that may still be read."""

    seats: list[int]
    """Per machine rank the one of the whole job's whose place it has."""
    since: int = 0
    """The round in which so many began to train; 0: from the start."""
    grows: bool = False
    """The present round was begun to take more machines in."""
    writing: int = 0
    """The step that is being written in the present round; 0: none."""
    captured_in: int = 0
    began_s: float = 0.0
    told: dict[str, say.Store] = field(default_factory=dict[str, say.Store])
    not_before_s: float = 0.0
    """After an attempt that failed."""
    here_s: dict[str, float] = field(default_factory=dict[str, float])
    """Since when each machine without a place is here."""
    short_s: float = -1.0
    """Since when fewer machines are on their way than the job lacks; below 0: enough
    are."""
    trouble: str = ""
    """Why the number of machines stays, as it was last said."""

    def ends(self) -> None:
        """The round ends, and what was being written for its sake is given up."""
        self.writing, self.grows = 0, False
        self.told.clear()

    def kept(self) -> list[int]:
        """What the plan says of the seats."""
        return list(self.seats) if self.since else []


def recall(root: Root, plan: Plan) -> None:
    """A new root knows how many machines train."""
    if plan.seats:
        _size(root, plan.seats)
        root.resizing.since = plan.resized_in


def _size(root: Root, seats: list[int]) -> None:
    """So many machines train from now on."""
    root.resizing.seats = list(seats)
    ranks, machines = root.grid.ranks_per_machine, len(seats)
    root.grid = Grid(machines=machines, ranks_per_machine=ranks)
    root.holders = placed(root.job, seats)
    root.roster.machines = root.suspicion.machines = machines
    may_share = root.layouts.may_share
    root.layouts = Layouts(machines=machines, may_share=may_share, shared=may_share)
    captures, reached = root.traffic.budget.captures, root.ballot.reached
    root.ballot = Ballot(machines=machines, captures=captures, reached=reached)


def placed(job: Job, seats: list[int]) -> list[list[int]]:
    """Returns who holds whose shards when only these machine ranks of the job train:
    as it is set up or, where that does not go with so few, as well as it goes.

    Raises: ConfigError when all do, and it does not go as it is set up."""
    machines = len(seats)
    domains = [job.domains[seat] for seat in seats] if job.domains else []
    copies = min(job.copies_held, machines)
    for strategy, apart in (
        (job.placement, domains),
        ("mixed", domains),
        ("mixed", ()),
    ):
        try:
            found = place(machines, copies=copies, strategy=strategy, domains=apart)
        except ConfigError:
            if machines == job.machines:
                raise
            continue
        return [list(holders) for holders in found.holders]
    raise AssertionError(f"{copies} copies have no place on {machines} machines")


def counted(root: Root, inventory: say.Inventory) -> say.Inventory:
    """What a machine holds of the present shards: of another number of machines'
    nothing."""
    if inventory.resized_in == root.resizing.since:
        return inventory
    return replace(inventory, copies=[], sizes={}, resized_in=root.resizing.since)


# When.


def tick(root: Root) -> Actions:
    """Looks whether the job had better go on with another number of machines."""
    resizing, now_s = root.resizing, root.now_s
    spares = root.roster.fit_spares()
    resizing.here_s = {name: resizing.here_s.get(name, now_s) for name in spares}
    if not root.job.min_machines or root.guests:
        return []
    if resizing.writing:
        late = now_s - resizing.began_s > root.job.storage.write_s_max
        return _fails(root, "the storage takes too long") if late else []
    if asks := _ask(root):
        return asks
    if now_s < resizing.not_before_s:
        return []
    if _is_short(root):
        return begin(root)
    ready = [n for n, at_s in resizing.here_s.items() if _long(root, at_s)]
    if not ready or not _can_stop(root):
        return []
    names = ", ".join(ready)
    text = f"to go on with more than {root.grid.machines} machines: {names} is here"
    done = root.new_round("resize", ready[0], text)
    resizing.grows = True
    return done


def _long(root: Root, since_s: float) -> bool:
    return root.now_s - since_s >= root.job.timing.resize_after_s


def _is_short(root: Root) -> bool:
    """Whether places stay vacant, and enough machines are left to go on without."""
    roster = root.roster
    present, vacant = roster.present(), roster.vacant()
    if root.phase is not Phase.PLACING or not vacant or root.draining.step:
        return False
    if len(present) < root.job.min_machines or not _told(root, present):
        return False
    lost = [roster.vacated.get(seat, "") for seat in vacant]
    final = all(name in root.requests.refused for name in lost)
    return final or _long(root, root.phase_since_s)


def _told(root: Root, names: Collection[str]) -> bool:
    return all(name in root.inventories for name in names)


def _can_stop(root: Root) -> bool:
    """Whether training may be stopped to take more machines in: nothing hangs on it,
    since every copy exists."""
    if root.phase is not Phase.TRAINING or root.begin is None or root.seen.ended:
        return False
    fewer = root.grid.machines < root.job.machines
    whole = root.ballot.keep > root.begin.step
    return fewer and whole and root.draining.known and not root.draining.making


def _newcomers(root: Root) -> list[str]:
    """The machines without a place that could take one, and have said so."""
    return [name for name in root.roster.fit_spares() if name in root.inventories]


def waits(root: Root) -> bool:
    """Whether the machines that the job is to grow by have yet to say that they are
    ready."""
    spares = root.roster.fit_spares()
    if not root.resizing.grows or root.phase is not Phase.STOPPING:
        return False
    late = root.now_s - root.phase_since_s > root.job.timing.stop_s_max
    return not late and not _told(root, spares)


def may_grow(root: Root) -> bool:
    """Whether the round that begins now takes more machines in."""
    ready = root.resizing.grows and bool(_newcomers(root))
    return ready and root.draining.known and not root.draining.step


def _ask(root: Root) -> Actions:
    """Too few machines are on their way for all to train again; another is asked for,
    if that has been so for a while."""
    resizing, requests = root.resizing, root.requests
    short = root.job.machines - root.grid.machines
    coming = len(requests.open) + len(root.roster.fit_spares())
    if coming >= short or root.phase is not Phase.TRAINING:
        resizing.short_s = -1.0
        return []
    if resizing.short_s < 0:
        resizing.short_s = root.now_s
    if not _long(root, resizing.short_s):
        return []
    free = [seat for seat in range(root.job.machines) if seat not in resizing.seats]
    names = [f"seat{seat}" for seat in free if f"seat{seat}" not in requests.open]
    return [*(requests.more(name) for name in names[: short - coming]), root.save()]


# How.


def begin(root: Root) -> Actions:
    """All ranks are dead: the step that is gone on from is in storage, or is written
    there."""
    resizing, draining = root.resizing, root.draining
    if not draining.known:
        return _stays(root, f"storage cannot be read: {draining.trouble or 'silent'}")
    choice = choose_from(
        [root.inventories[name] for name in root.roster.present()],
        grid=root.grid,
        shared=root.layouts.shared,
        bad=root.bad,
    )
    newest = draining.newest()
    newer = newest is not None and newest.step > choice.step
    if newer or not choice.step or draining.holds(choice.step, choice.captured_in):
        return _resize(root)
    told = _orders(root, choice)
    if not told:
        why = f"no machine holds all shared state of step {choice.step}"
        return _stays(root, why)
    resizing.writing, resizing.captured_in = choice.step, choice.captured_in
    resizing.began_s, resizing.told = root.now_s, told
    draining.write(choice.step, _parts(told), now_s=root.now_s)
    text = f"writes step {choice.step} to storage, to go on with "
    text += f"{len(_seated(root))} machines instead of {root.grid.machines}"
    tells = [do.TellAgent(machine=name, message=one) for name, one in told.items()]
    return [do.Log(text=text), *tells]


def _orders(root: Root, choice: Choice) -> dict[str, say.Store]:
    """Returns what each machine is told to write: shards of its own ranks, and of those
    it is the first to hold; and a portion of the shared ones, if it holds all."""
    grid, members = root.grid, root.roster.members
    own: dict[str, list[int]] = {}
    for rank in range(grid.world_size):
        sources = choice.sources[rank]
        owner = members[grid.machine_rank(rank)]
        own.setdefault(owner if owner in sources else sources[0], []).append(rank)
    shared = [names for s, names in choice.sources.items() if grid.is_shared(s)]
    alike = [n for n in own if shared and all(n in names for names in shared)]
    if shared and not alike:
        return {}
    return {
        name: say.Store(
            round=root.round,
            term=root.term,
            step=choice.step,
            captured_in=choice.captured_in,
            machines=grid.machines,
            place=members.index(name),
            own=ranks,
            index=alike.index(name) if name in alike else -1,
            parts=max(1, len(alike)),
        )
        for name, ranks in own.items()
    }


def _parts(told: dict[str, say.Store]) -> dict[str, str]:
    return {
        name: part_name(round=one.round, term=one.term, machine_rank=one.place)
        for name, one in told.items()
    }


def told_again(root: Root, machine: str) -> Actions:
    """A machine has come anew, and may not have heard what it is to write."""
    order = root.resizing.told.get(machine)
    if order is None or machine in root.draining.told:
        return []
    return [do.TellAgent(machine=machine, message=order)]


def heard(root: Root, said: say.Stored) -> None:
    """A copy that did not verify is never counted again."""
    if said.bad >= 0 and said.step == root.resizing.writing:
        name = (said.machine, said.bad, said.step, root.resizing.captured_in)
        root.bad.add(name)


def follows(root: Root) -> Actions:
    """Goes on once it is known what became of the step that was to be written."""
    resizing, draining = root.resizing, root.draining
    if not resizing.writing or draining.step == resizing.writing:
        return []
    if draining.holds(resizing.writing, resizing.captured_in):
        return _resize(root)
    return _fails(root, draining.trouble)


def interrupted(root: Root) -> Actions:
    """A step is being written since a machine lacks, and now one is here: what was
    captured is gone on from in memory, once nobody reads it any more."""
    if not root.roster.vacant() or not _newcomers(root):
        return []
    name = _newcomers(root)[0]
    return root.new_round("resize", name, f"{name} is here after all")


def _stays(root: Root, why: str) -> Actions:
    """The number of machines stays as it is for a while."""
    resizing = root.resizing
    resizing.not_before_s = root.now_s + root.job.storage.retry_s
    news, resizing.trouble = why != resizing.trouble, why
    text = f"stays with {root.grid.machines} machines: {why}"
    done: Actions = [do.Log(text=text)] if news else []
    grows, resizing.grows = resizing.grows, False
    return done + (root.start() if grows else [])


def _fails(root: Root, why: str) -> Actions:
    """The step is not in storage: memory keeps it, and all is as it was."""
    step, root.resizing.writing = root.resizing.writing, 0
    root.resizing.not_before_s = root.now_s + root.job.storage.retry_s
    text = f"step {step} is not in storage, and stays in memory: {why}"
    return root.new_round("resize", "storage", text)


def _seated(root: Root) -> dict[int, str]:
    """Per seat of the whole job who has it from now on."""
    roster, seats = root.roster, root.resizing.seats
    here = zip(seats, roster.members, strict=True)
    seated = {seat: name for seat, name in here if name}
    if not roster.vacant():
        free = [seat for seat in range(root.job.machines) if seat not in seated]
        seated |= dict(zip(free, _newcomers(root), strict=False))
    return dict(sorted(seated.items()))


def _resize(root: Root) -> Actions:
    """The round begins with another number of machines: no copy in memory counts."""
    resizing, roster, before = root.resizing, root.roster, root.grid.machines
    seated = _seated(root)
    took_s = root.now_s - resizing.began_s if resizing.writing else 0.0
    resizing.ends()
    if list(seated) == resizing.seats:  # whoever was here is gone again
        return root.new_round("resize", "", "nobody is here to go on with more")
    why = _why(root, seated)
    roster.members = list(seated.values())
    roster.vacated.clear()
    _size(root, list(seated))
    resizing.since, resizing.trouble = root.round, ""
    root.bad.clear()
    root.inventories = {n: counted(root, i) for n, i in root.inventories.items()}
    newest = root.draining.newest()
    step = newest.step if newest is not None else 0
    how = f"state is resharded from step {step}" if step else "from step 0"
    wrote = f", which took {took_s:.2f} s to write" if took_s else ""
    text = f"goes on with {len(seated)} machines instead of {before}: {why}; {how}"
    return [do.Log(text=text + wrote), *root.start()]


def _why(root: Root, seated: dict[int, str]) -> str:
    """In words, before it is done."""
    vacant = root.roster.vacant()
    if not vacant:
        return ", ".join(
            f"{name} is here"
            for name in seated.values()
            if name not in root.roster.members
        )
    ranks = ", ".join(map(str, vacant))
    waited_s = root.now_s - root.phase_since_s
    return f"no machine came for machine rank {ranks} within {waited_s:.1f} s"
