"""What a simulated agent does about the root: stands for it, follows it, or is it.

The rules of agent/rooting.py around the shipped Election and Root.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from twinstep.agent import actions as do, messages as say, seat
from twinstep.agent.begins import Begins
from twinstep.agent.election import Abdicate, Campaign, Election, Follow, RootKey
from twinstep.agent.phase import Phase
from twinstep.agent.record import Plan
from twinstep.agent.resizing import placed
from twinstep.agent.root import Actions, Root
from twinstep.errors import TwinstepError
from twinstep.sim import storage
from twinstep.sim.events import Process
from twinstep.sim.network import Link

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent

COUNTED = (say.Report, say.Laid, say.Loaded, say.RanksUp)


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimRooting:
    """An agent's part in the election, and the root while it is one."""

    agent: SimAgent
    election: Election = field(init=False)
    root: Root | None = None
    links: dict[str, Link] = field(default_factory=dict[str, Link])
    alive: set[str] = field(default_factory=set[str])
    held: deque[say.ToRoot] = field(default_factory=deque[say.ToRoot])
    requests: dict[str, do.AskMachine] = field(default_factory=dict[str, do.AskMachine])
    begins: Begins = field(default_factory=Begins)
    campaigned_s: float = 0.0

    def __post_init__(self) -> None:
        self.election = Election(machine=self.agent.name)

    # The election.

    def observe(self, root: RootKey | None, term: int) -> None:
        for action in self.election.observe(root, term=term):
            match action:
                case Campaign(term=wanted):
                    self._campaign(wanted)
                case Abdicate():
                    self.agent.events.probe("root: abdicates")
                    self._end()
                case Follow(root=followed):
                    self._follow(followed)
        if root is not None and self.root is not None:
            self.agent.world.check.follows(self.agent.name, root)

    def _campaign(self, term: int) -> None:
        agent = self.agent
        self.campaigned_s = agent.events.now_s
        key = RootKey(machine=agent.name, host="", port=0, term=term)
        worker = agent.worker
        if worker.machine_rank >= 0 or not (worker.standby or worker.round):
            agent.seat.campaign(key)
        else:
            agent.start(self._late(key))

    def _late(self, key: RootKey) -> Process:
        yield self.agent.job.timing.campaign_s
        if self.election.root is None and self.election.term < key.term:
            self.agent.events.probe("root: a standby stands for it")
            self.agent.seat.campaign(key)

    def _campaign_again(self) -> None:
        if self.election.root is not None or not self.campaigned_s:
            return
        timing = self.agent.job.timing
        patience_s = 2 * (timing.call_s_max + timing.silence_s_max)
        if self.agent.events.now_s - self.campaigned_s > patience_s:
            self.agent.events.probe("root: every election had failed")
            self._campaign(self.election.term + 1)

    def _follow(self, root: RootKey) -> None:
        self._end()
        if root.machine == self.agent.name:
            self.agent.start(self._begin(root))
        else:
            self.agent.follow(root, lambda: self.election.root == root)

    def _begin(self, key: RootKey) -> Process:
        agent, timing = self.agent, self.agent.job.timing
        while not agent.seat.holds(key.term):
            if self.election.root != key:
                return
            yield timing.tick_s / 10
        until_s = agent.events.now_s + timing.retake_s
        while self.election.root == key:
            try:
                raw = yield from agent.seat.plan()
                alive = yield from agent.seat.machines()
            except TwinstepError:
                yield timing.tick_s
                continue
            if self.election.root != key:
                return
            plan = msgspec.msgpack.decode(raw, type=Plan) if raw else None
            members = {name for name in plan.members if name} if plan else set[str]()
            late = agent.events.now_s > until_s
            here = agent.name in alive and agent.seat.may_decide
            if here and (late or not members - alive):
                self._reign(key, plan, alive)
                return
            yield timing.tick_s / 10

    def _reign(self, key: RootKey, plan: Plan | None, alive: set[str]) -> None:
        agent = self.agent
        self.root = Root(
            job=agent.job,
            grid=agent.world.grid,
            holders=placed(agent.job, list(range(agent.job.machines))),
            term=key.term,
            now_s=agent.now_s(),
        )
        agent.world.check.elected(agent.name, key.term)
        agent.world.spans.elected(self.root)
        agent.log(f"root of term {key.term}")
        self.act(self.root.elected(plan, alive=alive))
        agent.carry(agent.worker.root_here())

    def _end(self) -> None:
        self.root = None
        self.held.clear()
        self.requests.clear()
        self.begins = Begins()
        for link in self.links.values():
            link.end()
        self.links.clear()

    # While root.

    def attend(self, machine: str, link: Link) -> bool:
        """Another machine's agent has connected; False when it is turned away."""
        if self.root is None or machine not in self.alive:
            link.end()
            return False
        former = self.links.pop(machine, None)
        if former is not None:
            former.end()
        self.links[machine] = link
        return True

    def hear(self, link: Link, machine: str, message: say.ToRoot) -> None:
        """A machine speaks, on a connection that may have been replaced since."""
        if self.root is None or self.links.get(machine) is not link:
            return
        self.hear_own(message)

    def hear_own(self, message: say.ToRoot) -> None:
        if self.root is None:
            return
        self._catch_up()
        decides = self.agent.seat.may_decide and not self.held
        if decides or isinstance(message, COUNTED):
            self._take(message)
        else:
            self.agent.events.probe("root: waits to know whether it still is one")
            self.held.append(message)

    def _take(self, message: say.ToRoot) -> None:
        if self.root is not None:
            self.root.now_s = self.agent.now_s()
            self.act(self.root.hears(message))
            if isinstance(message, say.Profiled):
                self.agent.world.spans.hears(self.root, message)

    def _catch_up(self) -> None:
        while self.held and self.root is not None and self.agent.seat.may_decide:
            self._take(self.held.popleft())

    def machine_seen(self, machine: str, here: bool) -> None:
        if here:
            self.alive.add(machine)
            return
        self.alive.discard(machine)
        if self.root is None or machine == self.agent.name:
            return
        link = self.links.get(machine)
        connected = link is not None and link.open
        wait_s = self.agent.job.timing.retake_s if connected else 0.0
        self.agent.start(self._judge(machine, self.root, wait_s))

    def _judge(self, machine: str, root: Root, wait_s: float) -> Process:
        yield wait_s
        while self.root is root and not self.agent.seat.may_decide:
            self.agent.events.probe("root: who may be none declares nobody lost")
            yield self.agent.job.timing.tick_s
        if self.root is not root:
            return
        if machine in self.alive:
            self.agent.events.probe("root: a machine took its seat again in time")
            return
        link = self.links.pop(machine, None)
        if link is not None:
            link.end()
        root.now_s = self.agent.now_s()
        self.act(root.machine_lost(machine, "its lease lapsed"))

    def tick(self) -> None:
        self._campaign_again()
        self._catch_up()
        if self.root is not None and self.agent.seat.may_decide:
            self.root.now_s = self.agent.now_s()
            self.act(self.root.tick())

    def act(self, actions: Actions) -> None:
        agent = self.agent
        for action in actions:
            match action:
                case do.TellAgent(machine=machine, message=message):
                    agent.world.check.acts(agent.name, message)
                    held = self.begins.holds(machine, message)
                    if not agent.events.probe("root: a round waits for its plan", held):
                        self._tell(machine, message)
                case do.AskMachine():
                    self.requests[action.request] = action
                    agent.world.operator.ask(action.request, self._answered)
                case do.GiveBack(machine=machine):
                    agent.world.operator.give_back(machine)
                case do.SavePlan(plan=plan):
                    self.begins.saves()
                    agent.seat.save(seat.PLAN, plan, self.begins)
                case do.SaveRecovery():
                    pass
                case do.LookInStorage() | do.MakeWhole() | do.TidyStorage():
                    agent.start(storage.serve(self, action))
                case do.SaveResult(status=status, reason=reason):
                    value = msgspec.json.encode({"status": status, "reason": reason})
                    agent.seat.save(seat.RESULT, value)
                case do.Log(text=text):
                    agent.log(text)

    def _tell(self, machine: str, message: say.FromRoot) -> None:
        agent = self.agent
        if machine == agent.name:
            agent.events.after(0.0, agent.hears_root, message)
        elif machine in self.links:
            agent.tell(self.links[machine], message)

    def plan_saved(self, begins: Begins) -> None:
        """The next root knows of this round: it may begin, if it is still to."""
        if begins is not self.begins:
            return
        for machine, begin in self.begins.saved():
            if self.root is not None and self.root.begin is begin:
                self._tell(machine, begin)

    def _answered(self, request: str, machine: str, reason: str) -> None:
        asked, root = self.requests.get(request), self.root
        if root is None or asked is None or root.phase is Phase.OVER:
            return
        root.now_s = self.agent.now_s()
        self.act(
            [
                *root.requests.answered(
                    asked.lost,
                    asked.attempt,
                    machine,
                    reason,
                    here=machine in root.roster.joined,
                    now_s=root.now_s,
                )
            ]
        )

    def machine_ended(self, machine: str, reason: str) -> None:
        """A machine that was given has ended; of one that joined its lease tells."""
        root = self.root
        if root is None or root.phase is Phase.OVER or machine in root.roster.joined:
            return
        self.agent.events.probe("operator: a machine died before it joined")
        self.act([*root.requests.ended(machine, reason)])
