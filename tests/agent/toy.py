"""A cluster of shipped decisions in one thread: messages, slots and a seed.

Links keep their order; everything else is drawn: of all that could happen next, one
thing does. Ranks are toy_ranks.py, copies on their way toy_data.py, what is done to
them toy_faults.py, and what must hold all the same toy_check.py. Contents of slots are
(shard, step, round, term), so that a stale, torn or mixed copy is visible.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from tests.agent.toy_check import ToyCheck
from tests.agent.toy_data import ToyData
from tests.agent.toy_link import ToyLink
from tests.agent.toy_operator import ToyOperator
from tests.agent.toy_ranks import Content, ToyCrew, ToyRank, ToyRanks
from twinstep.agent import actions as do, messages as say
from twinstep.agent.lookout import Lookout
from twinstep.agent.phase import Phase
from twinstep.agent.record import Plan
from twinstep.agent.root import Root
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.config import Job, Timing
from twinstep.placement.strategy import place
from twinstep.store.slots import SLOTS
from twinstep.values import Grid

EVENT_S = 0.001
IDLE_S = 0.1
TICK_EVENTS = 40
TIMING = Timing(
    stop_s_max=3.0,
    hang_s_min=4.0,
    hang_steps=1.0,
    first_step_s_max=8.0,
    machine_s_max=1e9,
)


@dataclass
class ToyMachine:
    worker: Worker
    transit: Transit
    ranks: dict[int, ToyRank] = field(default_factory=dict)
    memory: dict[tuple[int, int], Content] = field(default_factory=dict)
    active: int = 0
    """Copies that its threads move now."""
    epoch: int = 0
    quiet: int = -1
    """The round whose Stop has not ended all ranks and threads yet."""
    cut: bool = False
    """Neither the store nor the root hears of it; other machines do."""
    root_term: int = 0
    """The term of the root that it is connected to; 0 for none."""
    to_root: ToyLink | None = None


@dataclass
class ToyRoot:
    root: Root
    machine: str
    links: dict[str, ToyLink] = field(default_factory=dict)
    store: Any = None


class Toy(ToyRanks, ToyData):
    """Runs until `steps` are reached; `faults` strike between events."""

    def __init__(
        self,
        *,
        seed: int,
        machines: int = 3,
        ranks: int = 1,
        standbys: int = 1,
        copies: int = 2,
        shared: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.job = Job(
            machines=machines,
            ranks_per_machine=ranks,
            copies=copies,
            standbys=standbys,
            rounds_without_progress_max=10**9,
            timing=TIMING,
        )
        self.grid = Grid(machines=machines, ranks_per_machine=ranks)
        self.holders = place(machines, copies=copies).holders
        self.shared = shared
        self.now_s = 0.0
        self.ready: list[tuple[Any, ...]] = []
        self.machines: dict[str, ToyMachine] = {}
        self.leases: set[str] = set()
        self.roots: dict[int, ToyRoot] = {}
        self.crews: dict[tuple[int, int], ToyCrew] = {}
        self.drags: dict[str, float] = {}
        """How slow the root's words are on the way to a machine."""
        self.check = ToyCheck(
            grid=self.grid, shared=shared, fit=self.fit, holds=self.holds
        )
        self.names = 0
        self.operator = ToyOperator()
        self.term = 0
        self.logs: deque[str] = deque(maxlen=2000)
        self.plan = b""
        self.result: tuple[int, str] | None = None
        for index in range(machines + standbys):
            self.add_machine(standby=index >= machines)
        self.elect()

    def push(self, work: Any, *arguments: Any) -> None:
        """One more thing that may happen next."""
        self.ready.append((work, *arguments))

    def later(self, moments: int, work: Any, *arguments: Any) -> None:
        """The same, once it was passed over so often."""
        if moments > 0:
            self.push(self.later, moments - 1, work, *arguments)
        else:
            work(*arguments)

    def link(self, hear: Callable[[Any], None]) -> ToyLink:
        return ToyLink(self, hear)

    def fit(self, name: str) -> bool:
        return name in self.machines and not self.machines[name].cut

    def holds(self, name: str, shard: int, step: int, captured_in: int) -> bool:
        memory = self.machines[name].memory
        found = [memory.get((shard, slot)) for slot in range(SLOTS)]
        return any(
            isinstance(c, tuple) and c[1:3] == (step, captured_in) for c in found
        )

    @property
    def root(self) -> Root | None:
        """The root of the newest term, unless it is gone."""
        at = self.roots.get(self.term)
        return at.root if at is not None else None

    # Machines and the root.

    def add_machine(self, *, standby: bool = False) -> None:
        name = f"m{self.names:02d}"
        self.names += 1
        worker = Worker(
            machine=name,
            grid=self.grid,
            chunk_bytes=4096,
            retry_s=0.03,
            standby=standby,
        )
        self.machines[name] = ToyMachine(worker=worker, transit=Transit(worker=worker))
        self.leases.add(name)
        self.push(self.follow, name, self.term)

    def elect(self) -> None:
        """The root's lease has lapsed: a machine takes the next term."""
        fit = sorted(name for name in self.machines if self.fit(name))
        if not fit:
            return self.push(self.elect)
        self.term += 1
        root = Root(
            job=self.job,
            grid=self.grid,
            holders=[list(holders) for holders in self.holders],
            term=self.term,
            now_s=self.now_s,
        )
        at = ToyRoot(root=root, machine=self.random.choice(fit))
        at.store = self.link(partial(self.saved, self.term))
        self.roots[self.term] = at
        plan = msgspec.msgpack.decode(self.plan, type=Plan) if self.plan else None
        self.act(self.term, root.elected(plan, alive=set(self.leases)))
        for name in sorted(self.machines):
            self.push(self.follow, name, self.term)
        return None

    def saved(self, term: int, plan: bytes) -> None:
        if term == self.term:
            self.plan = plan

    def follow(self, name: str, term: int) -> None:
        """A machine connects to the root, and says what that may have missed."""
        machine, at = self.machines.get(name), self.roots.get(term)
        if machine is None or machine.cut or at is None or machine.root_term >= term:
            return
        self.disconnect(name, self.random.random() < 0.5)
        machine.root_term = term
        machine.to_root = self.link(partial(self.root_hears, term))
        hear = partial(self.machine_hears, name, at)
        at.links[name] = ToyLink(self, hear, self.drags.get(name, 0.0))
        self.carry(name, machine.worker.root_here())

    def disconnect(self, name: str, lossy: bool) -> None:
        """The connection to the root ends; what is under way may still arrive."""
        machine = self.machines[name]
        former = self.roots.get(machine.root_term)
        link = former.links.pop(name, None) if former is not None else None
        if lossy:
            for one in (link, machine.to_root):
                if one is not None:
                    one.queue.clear()
        machine.root_term, machine.to_root = 0, None

    def root_hears(self, term: int, message: say.ToRoot) -> None:
        at = self.roots.get(term)
        if at is not None:
            at.root.now_s = self.now_s
            self.act(term, at.root.hears(message))

    def machine_hears(self, name: str, at: ToyRoot, message: say.FromRoot) -> None:
        machine = self.machines.get(name)
        if machine is None or machine.cut:
            return
        self.carry(name, machine.worker.from_root(message))
        worker = machine.worker
        if worker.begin is message:
            self.check.begins(message)
        accepted = not worker.stopped and worker.copies.reserved
        if isinstance(message, say.Answer) and accepted and worker.begin is not None:
            self.check.answers(message, worker.begin)

    def lapsed(self, name: str) -> None:
        """The store drops the machine's lease: its root, if there is one, sees it."""
        self.leases.discard(name)
        at = self.roots.get(self.term)
        if at is not None:
            at.links.pop(name, None)
            at.root.now_s = self.now_s
            self.act(self.term, at.root.machine_lost(name, "its lease lapsed"))

    def kill_machine(self, name: str) -> None:
        """Agent, ranks and memory are gone at once."""
        machine = self.machines.pop(name, None)
        if machine is None:
            return
        self.check.lose(name)
        for rank in machine.ranks.values():
            rank.alive = False
        for term, at in list(self.roots.items()):
            if at.machine == name:
                del self.roots[term]
                if term == self.term:
                    self.push(self.elect)
                at.store.queue.clear()
        self.push(self.lapsed, name)

    # Carrying out.

    def act(self, term: int, actions: list[do.RootAction]) -> None:
        at = self.roots[term]
        for action in actions:
            match action:
                case do.TellAgent(machine=machine, message=message):
                    if machine in at.links:
                        at.links[machine].post(message)
                case do.AskMachine():
                    self.push(self.operator.give, self, term, action)
                case do.GiveBack(machine=machine, reason=reason):
                    if not reason.startswith("unhealthy"):  # nothing hangs on it then
                        self.check.lose(machine)
                    if machine in self.machines and self.random.random() < 0.5:
                        self.push(self.kill_machine, machine)
                case do.SavePlan(plan=plan):
                    at.store.post(plan)
                case do.SaveResult(status=status, reason=reason):
                    if term == self.term:
                        self.result = (status, reason)
                case do.Log(text=text):
                    self.logs.append(f"{self.now_s:7.3f} ROOT{term} {text}")
                case do.SaveRecovery():
                    pass

    def carry(self, name: str, actions: list[do.WorkerAction]) -> None:
        machine = self.machines[name]
        for action in actions:
            match action:
                case do.TellRoot(message=message):
                    if machine.to_root is not None and not machine.cut:
                        machine.to_root.post(message)
                case do.TellRank(rank=number, message=message):
                    rank = machine.ranks.get(number)
                    if rank is not None and rank.round == message.round:
                        rank.inbox.post(message)
                case do.ShipCopy():
                    self.begin_move(name, action, self.ship)
                case do.HashCopy():
                    self.begin_move(name, action, self.hash)
                case do.FetchCopy(shard=shard, slot=slot):
                    self.tear(name, (shard, slot))
                    self.begin_move(name, action, self.fetch)
                case do.StartRanks(begin=begin, machine_rank=machine_rank):
                    assert not any(r.alive for r in machine.ranks.values()), "two crews"
                    machine.ranks.clear()
                    for rank_number in self.grid.ranks(machine_rank):
                        self.start_rank(name, rank_number, begin)
                case do.StopRanks(round=round):
                    machine.epoch += 1
                    machine.quiet = round
                    self.stop_ranks(name)
                    self.quiet_if_idle(name)
                case do.ReserveSlots(sizes=sizes):
                    moments = self.random.randint(1, 40)  # every page is touched
                    self.later(moments, self.reserve, name, sizes)
                case do.ReleaseSlots(shards=shards):
                    for place_ in [key for key in machine.memory if key[0] in shards]:
                        del machine.memory[place_]
                case do.Log(text=text):
                    self.logs.append(f"{self.now_s:7.3f} {name} {text}")
                case do.LookAtRanks(round=round):
                    sights = {
                        n: say.Sight(state="T" if r.frozen else "S")
                        for n, r in machine.ranks.items()
                    }
                    looked = Lookout(worker=machine.worker).looked(round, sights)
                    self.carry(name, looked)
                case do.Leave(reason=reason):
                    raise AssertionError(f"{name} leaves: {reason}")

    def reserve(self, name: str, sizes: dict[int, int]) -> None:
        machine = self.machines.get(name)
        if machine is None:
            return
        for shard in sizes:
            assert (shard, 0) not in machine.memory, f"{name} reserves {shard} twice"
            machine.memory[shard, 0] = machine.memory[shard, 1] = None
        self.carry(name, machine.worker.reserved(sizes))

    def quiet_if_idle(self, name: str) -> None:
        machine = self.machines.get(name)
        if machine is None or machine.quiet < 0 or machine.active:
            return
        if not any(rank.alive for rank in machine.ranks.values()):
            round, machine.quiet = machine.quiet, -1
            self.push(self.all_quiet, name, round)

    def all_quiet(self, name: str, round: int) -> None:
        if name in self.machines:
            self.carry(name, self.machines[name].worker.all_quiet(round, 29500))

    # The run.

    def tick(self) -> None:
        for name in sorted(self.machines):
            if name in self.machines:
                ticked = self.machines[name].transit.tick(self.now_s)
                self.carry(name, ticked)
        for term, at in list(self.roots.items()):
            at.root.now_s = self.now_s
            self.act(term, at.root.tick())
        self.nudge()

    def is_done(self, steps: int) -> bool:
        root = self.root
        if root is None or root.phase is not Phase.TRAINING or root.begin is None:
            return False
        if not all(self.fit(name) for name in root.roster.members):
            return False
        enough = max(steps, root.begin.step + 5)
        return root.ballot.answered >= enough and root.ballot.keep >= enough - 3

    def run(self, *, steps: int, events_max: int = 30_000, faults: Any = None) -> None:
        """Trains until `steps` are behind the cluster, and no fault is left."""
        ready, draw = self.ready, self.random.random
        for event in range(events_max):
            if faults is not None and event >= faults.next_event:
                faults.strike(self, event)
            if event % TICK_EVENTS == 0 or not ready:
                self.now_s += IDLE_S if not ready else 0.0
                self.tick()
                over = faults is None or faults.over
                if over and self.is_done(steps):
                    return
            self.now_s += EVENT_S
            if ready:
                chosen = int(draw() * len(ready))
                ready[chosen], ready[-1] = ready[-1], ready[chosen]
                work, *arguments = ready.pop()
                work(*arguments)
            assert self.result is None, self.result
        phase = self.root.phase if self.root is not None else "no root"
        raise AssertionError(f"stuck in {phase}")
