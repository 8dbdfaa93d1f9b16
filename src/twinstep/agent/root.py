"""Decides for the cluster: who trains, from which step, and what is kept.

One agent at a time is root. It keeps nothing that the next root cannot read from the
store (its plan) or ask the agents for (what they hold). Every round goes the same
way, whether it is the first, follows a failure, or is a new root's first:

    STOPPING   ranks end, every member says which copies it holds
    PLACING    vacant machine ranks get a standby, else one from the operator
    LOADING    Begin was sent: missing copies are fetched, ranks come up
    TRAINING   a new step was reached: the vote, step by step
    OVER       the job has a result

A failure in any of them begins the next round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from twinstep.agent import (
    actions as do,
    blame,
    border,
    filing,
    messages as say,
    relief,
    resizing,
    verdicts,
)
from twinstep.agent.ballot import Ballot
from twinstep.agent.chronicle import Chronicle
from twinstep.agent.deadlines import overdue
from twinstep.agent.draining import Draining
from twinstep.agent.inventories import choose_from
from twinstep.agent.layouts import Layouts
from twinstep.agent.phase import Phase, Seen
from twinstep.agent.plans import begin_of, plan_of, recall
from twinstep.agent.record import Plan
from twinstep.agent.requests import Requests
from twinstep.agent.resizing import Resizing
from twinstep.agent.roster import Roster
from twinstep.agent.suspicion import Suspicion
from twinstep.agent.traffic import Traffic
from twinstep.config import Job
from twinstep.recovery.choice import CopyName
from twinstep.values import Grid

Actions = list[do.RootAction]
Inventories = dict[str, say.Inventory]


@dataclass(slots=True, kw_only=True)
class Root:
    """The decisions of the cluster, for one term."""

    job: Job
    grid: Grid
    """Of the present round: as many machines as train."""
    holders: list[list[int]]
    """Per machine rank the machine ranks that hold its shards, owner first."""
    term: int
    now_s: float
    """The time of what happens now, set by every event."""
    guests: bool = False
    """Another launcher starts the ranks, and gives the places."""
    phase: Phase = Phase.GATHERING
    phase_since_s: float = 0.0
    round: int = 0
    roster: Roster = field(init=False)
    requests: Requests = field(init=False)
    chronicle: Chronicle = field(default_factory=Chronicle)
    inventories: Inventories = field(default_factory=dict[str, say.Inventory])
    layouts: Layouts = field(init=False)
    begin: say.Begin | None = None
    ballot: Ballot = field(init=False)
    suspicion: Suspicion = field(init=False)
    traffic: Traffic = field(init=False)
    draining: Draining = field(init=False)
    resizing: Resizing = field(init=False)
    bad: set[CopyName] = field(default_factory=set[CopyName])
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        self.roster = Roster(machines=self.grid.machines)
        self.requests = Requests(
            asks_max=self.job.asks_max, ask_again_s=self.job.timing.ask_again_s
        )
        self.layouts = Layouts(machines=self.grid.machines)
        self.traffic = Traffic(settings=self.job.schedule)
        self.draining = Draining(settings=self.job.storage)
        self.resizing = Resizing(seats=list(range(self.grid.machines)))
        self.ballot = Ballot(
            machines=self.grid.machines, captures=self.traffic.budget.captures
        )
        self.suspicion = Suspicion(job=self.job, now_s=self.now_s)
        self.phase_since_s = self.now_s

    # Who is there.

    def elected(self, plan: Plan | None, *, alive: set[str]) -> Actions:
        """This agent is root now: it continues where the plan left off."""
        if plan is None:
            return []
        if not plan.members:  # the job had not begun
            return [*self.requests.recall(plan)]
        recall(self, plan)
        gone = self.roster.recall(plan, alive=alive)
        who = ", ".join(gone) or "root"
        reason = f"a new root (term {self.term}); lost: {', '.join(gone) or 'nobody'}"
        why = "its lease lapsed"
        done: Actions = [do.GiveBack(machine=name, reason=why) for name in gone]
        done += [*self.requests.recall(plan), *self.ask()]
        return done + self.new_round("root", who, reason)

    def joins(self, join: say.Join) -> Actions:
        """A machine's agent has connected."""
        self.roster.joined[join.machine] = join
        self.roster.kept.clear()
        if self.phase is Phase.OVER:
            return []
        if self.requests.joined(join.machine):
            return [self.save(), *self._joins(join)]
        return self._joins(join)

    def _joins(self, join: say.Join) -> Actions:
        if self.phase is Phase.GATHERING:
            # Even the plan of a first round may have gone with its root.
            self.round = max(self.round, join.round)
            start = self.roster.gather()
            return self.new_round("start", "", "the job starts") if start else []
        if join.round > self.round or (
            join.round == self.round and join.term < self.term
        ):
            # It heard of a round that the store did not: start after it. Two rounds
            # of one number would make copies that nobody can tell apart.
            self.round = join.round
            return self.new_round("root", "root", f"round {join.round} is known")
        member = join.machine in self.roster.members
        if not member and join.machine_rank >= 0 and join.round == self.round:
            return [self._stop(join.machine, "its place was given away")]
        if self.phase in (Phase.STOPPING, Phase.PLACING) or not member:
            stop = self._stop(join.machine, f"round {self.round}")
            return [stop, *relief.planned(self)]
        if self.begin is not None and join.round == self.round and not join.ended:
            again = [self.begin, *self.layouts.missed(self.begin)]
            return [do.TellAgent(machine=join.machine, message=m) for m in again]
        what = "was cut off in" if join.ended else "knows only"
        why = f"{join.machine} {what} round {join.round}"
        return self.new_round("machine", join.machine, why)

    def machine_lost(self, machine: str, reason: str) -> Actions:
        """Its lease lapsed, or it did not do what it was told in time."""
        join = self.roster.joined.get(machine)
        self.roster.forget(machine)
        self.inventories.pop(machine, None)
        if self.phase is Phase.OVER:
            return []
        if machine not in self.roster.members:
            if join is None:
                return [*self.requests.ended(machine, reason)]
            if self.phase is Phase.GATHERING and not join.standby:
                why = f"{machine} was lost before the job began"
                ask = self.requests.first(machine, why)
                return [ask] if ask is not None else []
            self.roster.spare_lost(machine)
            return self._place() if self._gathers_copies() else []
        if self.phase is Phase.STOPPING:
            self.suspicion.strikes.excuse(since_s=self.phase_since_s)
        self.roster.vacate(machine)
        back = do.GiveBack(machine=machine, reason=reason)
        done: Actions = [do.Log(text=f"{machine} lost: {reason}"), back, *self.ask()]
        return done + self.new_round("machine", machine, reason)

    # Rounds.

    def new_round(self, kind: str, who: str, reason: str) -> Actions:
        """All ranks end; every machine that is here says what it holds."""
        self.round += 1
        if kind != "start":
            self.chronicle.failed(
                kind,
                who,
                reason,
                now_s=self.now_s,
                round=self.round,
                reached=self.ballot.reached,
            )
        self.inventories.clear()
        self.layouts.laid.clear()
        self.begin = None
        self.suspicion.ends()
        self.resizing.ends()
        self.enter(Phase.STOPPING)
        saved, given_up = self.save(), self.draining.begins()
        stops = [self._stop(name, reason) for name in sorted(self.roster.joined)]
        begun = do.Log(text=f"round {self.round}: {reason}")
        return [begun, *given_up, saved, *stops]

    def _stop(self, machine: str, reason: str) -> do.TellAgent:
        stop = say.Stop(round=self.round, term=self.term, reason=reason)
        return do.TellAgent(machine=machine, message=stop)

    def save(self) -> do.SavePlan:
        return do.SavePlan(plan=msgspec.msgpack.encode(plan_of(self)))

    def enter(self, phase: Phase) -> None:
        self.phase, self.phase_since_s = phase, self.now_s

    def inventory(self, inventory: say.Inventory) -> Actions:
        if inventory.round != self.round:
            return []
        self.inventories[inventory.machine] = resizing.counted(self, inventory)
        again = resizing.told_again(self, inventory.machine)
        return again + (self._place() if self._gathers_copies() else [])

    def _gathers_copies(self) -> bool:
        return self.phase in (Phase.STOPPING, Phase.PLACING)

    def _place(self) -> Actions:
        """Goes on once every member has answered and every place is taken."""
        if any(name not in self.inventories for name in self.roster.present()):
            return []
        if relief.waits(self) or resizing.waits(self):
            return []
        if self.resizing.writing:
            return resizing.interrupted(self)
        done: Actions = relief.relieve(self)
        done += [
            do.Log(text=f"{name} takes machine rank {place}")
            for name, place in self.roster.seat(self.inventories, guests=self.guests)
        ]
        if not self.roster.vacant():
            grows = resizing.may_grow(self)
            return done + (resizing.begin(self) if grows else self.start())
        if self.phase is not Phase.PLACING:
            self.enter(Phase.PLACING)
        return [*done, *self.ask(), self.save()]

    def ask(self) -> Actions:
        """Asks for a machine for each lost one, at once: where a standby takes the
        place, the new machine is the next standby (paper section 6.2)."""
        if self.guests:
            return []  # its launcher sees to it
        asks = [
            self.requests.first(lost, f"{lost}, machine rank {place}, was lost")
            for lost, place in self.roster.to_ask()
        ]
        return [ask for ask in asks if ask is not None]

    def start(self) -> Actions:
        """All places are taken: chooses the step and says Begin."""
        self.layouts.learn(self.inventories.values(), grid=self.grid)
        inventories = [self.inventories[name] for name in self.roster.members]
        choice = choose_from(
            inventories, grid=self.grid, shared=self.layouts.shared, bad=self.bad
        )
        choice = self.draining.better(choice) or choice
        if choice.step == 0 and self.draining.waits:
            return []  # until it is known what the storage holds
        if refusal := self.draining.refusal(choice.step):
            return self.finish(1, refusal)
        texts = [choice.reason] if choice.step else []
        known = max(i.reached for i in self.inventories.values())
        reached = self.chronicle.decided(choice, reached=known, now_s=self.now_s)
        if choice.step == 0 and reached > 0:
            texts = [f"starting again from step 0: {choice.reason}"]
        extra: Actions = [do.Log(text=text) for text in texts + choice.differing]
        port = inventories[0].master_port
        self.begin = begin_of(self, choice, master_port=port)
        self.ballot.start(choice.step)
        self.traffic.begins(self.roster.members)
        self.seen = Seen()
        reached = max(i.reached for i in inventories)
        self.suspicion.begins(reached=reached, now_s=self.now_s)
        self.enter(Phase.LOADING)
        begins = self.tell_members(self.begin)
        return [*extra, self.save(), *begins, *self.chronicle.saved()]

    # A round under way.

    def hears(self, message: say.ToRoot) -> Actions:
        """Takes what an agent says; words of another round or term are old."""
        if not border.counts(self, message):
            return []
        match message:
            case say.Join():
                return self.joins(message)
            case say.Condition():
                return relief.condition(self, message)
            case say.Stored():
                return filing.stored(self, message)
            case say.StoredBad():
                return filing.bad(self, message)
            case say.Inventory():
                return self.inventory(message)
            case say.Report():
                return verdicts.report(self, message)
            case say.Laid():
                return self._laid_out(message)
            case say.RankEnded():
                return blame.rank_ended(self, message)
            case say.Looked():
                return blame.looked(self, message)
            case say.RanksUp():
                self.seen.up.add(message.machine)
                self.seen.pids.update(message.pids)
                all_up = len(self.seen.up) == self.grid.machines
                return self.moment("ranks_up_s") if all_up else []
            case say.Loaded():
                return verdicts.loaded(self, message)
            case say.CopyBad():
                return verdicts.copy_bad(self, message)
            case say.Profiled():
                return [do.Log(text=text) for text in self.traffic.hears(message)]
            case say.Unable():
                if self.phase is Phase.OVER:
                    return []  # others say the same
                return self.finish(2, f"{message.machine}: {message.reason}")

    def is_active(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.TRAINING)

    def moment(self, name: str) -> Actions:
        return [*self.chronicle.moment(name, self.now_s)]

    def tell_members(self, message: say.FromRoot) -> Actions:
        members = self.roster.present()
        return [do.TellAgent(machine=name, message=message) for name in members]

    def _laid_out(self, laid: say.Laid) -> Actions:
        if not self.layouts.take(laid):
            return []
        assert self.begin is not None
        reserve = self.layouts.reserve(self.begin)
        return [self.save(), *self.tell_members(reserve)]

    def _machine_loaded(self, loaded: say.Loaded) -> Actions:
        self.seen.loaded.add(loaded.machine)
        self.chronicle.read_from(loaded.sources.values())
        all_loaded = len(self.seen.loaded) == self.grid.machines
        return self.moment("loaded_s") if all_loaded else []

    def tick(self) -> Actions:
        """Looks at what has taken too long, and names whom it waits for."""
        late = (
            None
            if self.resizing.writing
            else overdue(
                self.phase,
                self.now_s - self.phase_since_s,
                roster=self.roster,
                answered=self.inventories,
                timing=self.job.timing,
            )
        )
        if late is not None and late.machine:
            return self.machine_lost(late.machine, late.reason)
        if late is not None:
            return self.finish(1, late.reason)
        if filed := filing.tick(self) or resizing.tick(self):
            return filed
        if asks := self.requests.due(self.now_s):
            return [self.save(), *asks]
        placed = self.phase is Phase.STOPPING or not self.roster.vacant()
        if self._gathers_copies() and placed and not relief.waits(self):
            return self._place()
        if not self.is_active() or self.seen.ended:
            return []
        return blame.look(self) if self.suspicion.to_look(self.now_s) else []

    def finish(self, status: int, reason: str) -> Actions:
        self.enter(Phase.OVER)
        finish = say.Finish(
            round=self.round, term=self.term, status=status, reason=reason
        )
        names = sorted(self.roster.joined)
        tell = [do.TellAgent(machine=name, message=finish) for name in names]
        return [do.SaveResult(status=status, reason=reason), *tell]
