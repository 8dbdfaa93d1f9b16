"""What an agent does about the root: stands for it, follows it, or is it.

While this agent is root, its decisions (root.py) run in the same loop as its worker's;
what they decide is sent to the other agents, or put into the store if this machine is
still root there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from twinstep import clock
from twinstep.agent import actions as do, links, messages as say, seat
from twinstep.agent.begins import Begins
from twinstep.agent.border import refusal
from twinstep.agent.depot import Depot
from twinstep.agent.election import Abdicate, Campaign, Election, Follow, RootKey
from twinstep.agent.errands import Errands, Fenced, Operator
from twinstep.agent.phase import Phase
from twinstep.agent.plans import read_plan
from twinstep.agent.record import Plan
from twinstep.agent.resizing import placed
from twinstep.agent.root import Actions, Root
from twinstep.agent.status import status_of, waiting_for
from twinstep.errors import TwinstepError

if TYPE_CHECKING:
    from twinstep.agent.process import Agent

__all__ = ["Operator", "Rooting"]
STATUS_S = 0.5  # how often the status is published
COUNTED = (say.Report, say.Laid, say.Loaded, say.RanksUp)
"""What a root hears even while its lease may be over: it changes no round."""


class Rooting:
    """An agent's part in the election, and the root while it is one."""

    def __init__(self, agent: Agent, operator: Operator) -> None:
        self._agent, self._operator = agent, operator
        self._election = Election(machine=agent.post.name)
        self._root: Root | None = None
        self._links: dict[str, links.Link[say.ToRoot]] = {}
        self._alive: set[str] = set()
        self._soon: deque[say.ToRoot] = deque()
        self._held: deque[say.ToRoot] = deque()
        self._requests: dict[str, do.AskMachine] = {}
        self._begins = Begins()
        self._depot = Depot(
            agent.job.storage,
            lambda root, decide: agent.soon(lambda: self._decides(root, decide)),
        )
        self._campaigned_s = self._published_s = 0.0
        self._in_touch_s = clock.monotonic_s()
        self._errands = Errands(
            operator,
            timing=agent.job.timing,
            may=lambda: agent.seat.still_root(),
            on_answer=lambda request, machine, reason: agent.soon(
                lambda: self._answered(request, machine, reason)
            ),
            on_ended=lambda machine, reason: agent.soon(
                lambda: self._machine_ended(machine, reason)
            ),
            log=lambda text: agent.soon(lambda: agent.log(text)),
        )

    @property
    def is_root(self) -> bool:
        return self._root is not None

    # The election.

    def observe(self, root: RootKey | None, term: int) -> None:
        """The store says who is root now."""
        for action in self._election.observe(root, term=term):
            match action:
                case Campaign(term=wanted):
                    self._campaign(wanted)
                case Abdicate(reason=reason):
                    self._agent.log(f"no longer root: {reason}")
                    self._end()
                case Follow(root=followed):
                    self._follow(followed)

    def _campaign(self, term: int) -> None:
        """Stands for root; a spare, also one that was given in place of a lost machine,
        only after the machines that train had time to.

        A root's machine that dies then takes no more than it would as a worker: were a
        standby root, training would go on for a while without anybody's answer."""
        worker = self._agent.worker
        self._campaigned_s = clock.monotonic_s()
        key = RootKey(
            machine=worker.machine, host=worker.host, port=worker.port, term=term
        )
        if worker.machine_rank >= 0 or not (worker.standby or worker.round):
            self._agent.seat.campaign(key)
            return

        def late() -> None:
            if self._election.root is None and self._election.term < term:
                self._agent.seat.campaign(key)

        self._agent.loop.call_later(self._agent.job.timing.campaign_s, late)

    def _campaign_again(self) -> None:
        """Nobody is root for long: every election may have failed with the store."""
        if self._election.root is not None or not self._campaigned_s:
            return
        timing = self._agent.job.timing
        patience_s = 2 * (timing.call_s_max + timing.silence_s_max)
        if clock.monotonic_s() - self._campaigned_s > patience_s:
            self._campaign(self._election.term + 1)

    def _follow(self, root: RootKey) -> None:
        self._end()
        if root.machine == self._agent.post.name:
            self._agent.loop.create_task(self._begin(root))
            return
        task = self._agent.doors.follow(root, lambda: self._election.root == root)
        self._agent.loop.create_task(task)

    async def _begin(self, key: RootKey) -> None:
        """This agent is root from now on."""
        timing = self._agent.job.timing
        while not self._agent.seat.holds(key.term):
            # The census tells before the transaction's answer is here; and a key that
            # nobody renews lapses.
            if self._election.root != key:
                return
            await asyncio.sleep(timing.tick_s / 10)
        found = await self._found(key)
        if found is None:
            return
        plan, alive = found
        job, grid = self._agent.job, self._agent.grid
        self._root = Root(
            job=job,
            grid=grid,
            holders=placed(job, list(range(job.machines))),
            term=key.term,
            now_s=clock.now_s(),
            guests=self._agent.post.guests,
        )
        if isinstance(self._operator, Fenced):
            self._operator.fence = self._agent.seat.fence
        self._agent.log(f"root of term {key.term}")
        self._act(self._root.elected(plan, alive=alive))
        self._agent.carry(self._agent.worker.root_here())

    async def _found(self, key: RootKey) -> tuple[Plan | None, set[str]] | None:
        """Returns the former root's plan, and who lives; None when somebody else is
        root meanwhile.

        Whoever of the plan has no lease gets `retake_s` to take its seat again: leases
        have been lost by the store, all at once. This machine's own must be there, as
        it surely lives, and without it nobody's tells anything."""
        run, timing = self._agent.loop.run_in_executor, self._agent.job.timing
        until_s = clock.monotonic_s() + timing.retake_s
        while self._election.root == key:
            try:
                raw = await run(None, self._agent.seat.plan)
                alive = await run(None, self._agent.seat.machines)
            except TwinstepError as error:
                self._agent.log(f"root of term {key.term}, and waits: {error}")
                await asyncio.sleep(timing.tick_s)
                continue
            if self._election.root != key:
                break
            plan, trouble = read_plan(raw, machines=self._agent.grid.machines)
            if trouble:
                self._agent.log(f"the plan in the store {trouble}")
            members = {name for name in plan.members if name} if plan else set[str]()
            late = clock.monotonic_s() > until_s
            here = self._agent.post.name in alive and self._agent.seat.may_decide
            if here and (late or not members - alive):
                return plan, alive
            await asyncio.sleep(timing.tick_s / 10)
        return None

    def _end(self) -> None:
        self._root = None
        self._held.clear()
        self._requests.clear()
        self._begins = Begins()
        self._errands.forget()
        for link in self._links.values():
            link.close("no longer root")
        self._links.clear()

    def close(self) -> None:  # the operator hears what it has not heard yet
        self._errands.close(self._agent.job.timing.call_s_max)

    # While root.

    def attend(self, machine: str, link: links.Link[say.ToRoot]) -> None:
        """Another machine's agent has connected."""
        if self._root is None or machine not in self._alive:
            # Of a machine without a lease nobody would notice that it dies.
            link.close("not root" if self._root is None else "it has no lease")
            return
        former = self._links.get(machine)
        if former is not None:
            former.close("connected anew")
        self._links[machine] = link

        def hear(message: say.ToRoot) -> None:
            root, grid = self._root, self._agent.grid
            if root is None:
                return
            reason = refusal(message, machine=machine, grid=grid, round=root.round)
            if reason:
                link.drop(reason)
            else:
                self._hear(message)

        link.start(hear, lambda _reason: None)

    def soon(self, message: say.ToRoot) -> None:
        """This machine's own worker speaks; heard after what is being done now."""
        self._soon.append(message)
        self._agent.loop.call_soon(self._hear_own)

    def _hear_own(self) -> None:
        if self._soon:
            self._hear(self._soon.popleft())

    def _hear(self, message: say.ToRoot) -> None:
        """While this root's lease may be over, only the vote goes on: what may begin
        or end a round waits until the store answers, or has another root."""
        if self._root is None:
            return
        self._catch_up()
        decides = self._agent.seat.may_decide and not self._held
        if decides or isinstance(message, COUNTED):
            self._take(message)
        elif len(self._held) < self._agent.job.transfer.queue_max:
            self._held.append(message)

    def _take(self, message: say.ToRoot) -> None:
        if self._root is None:
            return
        self._root.now_s = clock.now_s()
        self._act(self._root.hears(message))
        if isinstance(message, say.Join):
            self._errands.joined(message.machine)

    def _catch_up(self) -> None:
        """Hears what was held, once this root may decide again."""
        while self._held and self._root is not None and self._agent.seat.may_decide:
            self._take(self._held.popleft())

    def machine_seen(self, machine: str, here: bool) -> None:
        """A machine's lease is there, or has lapsed: one that is connected may take its
        seat again first; the agent itself lives, and leaves when it cannot."""
        if here:
            self._alive.add(machine)
            return
        self._alive.discard(machine)
        root = self._root
        if root is None or machine == self._agent.post.name:
            return
        link = self._links.get(machine)
        connected = link is not None and not link.reason
        wait_s = self._agent.job.timing.retake_s if connected else 0.0
        self._agent.loop.call_later(wait_s, self._judge, machine, root)

    def _judge(self, machine: str, root: Root) -> None:
        if self._root is not root:
            return
        if not self._agent.seat.may_decide:
            wait_s = self._agent.job.timing.tick_s
            self._agent.loop.call_later(wait_s, self._judge, machine, root)
            return
        if machine in self._alive:
            self._agent.log(f"{machine} lost its lease and has taken its seat again")
            return
        link = self._links.pop(machine, None)
        if link is not None:
            link.close("its lease lapsed")
        silence = self._agent.job.timing.silence_s_max
        reason = f"silent for {silence:g} s: its lease lapsed"
        self._decides(root, lambda root: root.machine_lost(machine, reason))

    def _decides(self, root: Root, decide: Callable[[Root], Actions]) -> None:
        """Something has come about for this root; heard once it may decide."""
        if self._root is not root:
            return
        if not self._agent.seat.may_decide:
            wait_s = self._agent.job.timing.tick_s
            self._agent.loop.call_later(wait_s, self._decides, root, decide)
            return
        root.now_s = clock.now_s()
        self._act(decide(root))

    def is_cut_off(self) -> bool:
        """Whether for a lease's life neither the store nor a root that knows this
        machine, or as root any other machine, could be reached. While only the store
        is away, training goes on."""
        timing, now_s = self._agent.job.timing, clock.monotonic_s()
        others = any(not link.reason for link in self._links.values())
        connected = self._agent.doors.held_s > 2 * timing.tick_s or (
            self._root is not None and (others or self._root.grid.machines == 1)
        )
        if connected or not self._agent.seat.overdue:
            self._in_touch_s = now_s
        return now_s - self._in_touch_s > timing.silence_s_max

    def tick(self) -> None:
        self._campaign_again()
        self._errands.tick()
        self._catch_up()
        if self._root is None or not self._agent.seat.may_decide:
            return
        self._root.now_s = now_s = clock.now_s()
        self._act(self._root.tick())
        if now_s - self._published_s > STATUS_S:
            self._publish(now_s)

    def _publish(self, now_s: float) -> None:
        assert self._root is not None
        self._published_s = now_s
        status = status_of(self._root, machine=self._agent.post.name)
        self._agent.seat.save(seat.STATUS, msgspec.json.encode(status))

    def _act(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case do.TellAgent(machine=machine, message=message):
                    if not self._begins.holds(machine, message):
                        self._tell(machine, message)
                case do.AskMachine(reason=reason):
                    self._agent.log(f"asks the operator for a machine: {reason}")
                    self._requests[action.request] = action
                    self._errands.ask(action.request, reason=reason)
                case do.GiveBack(machine=machine, reason=reason):
                    self._errands.give_back(machine, reason=reason)
                case do.SavePlan(plan=plan):
                    self._begins.saves()
                    saved = partial(self._plan_saved, self._begins)
                    soon = partial(self._agent.soon, saved)
                    self._agent.seat.save(seat.PLAN, plan, soon)
                case do.SaveRecovery(number=number, record=record):
                    self._agent.seat.save(f"{seat.RECOVERIES}{number:06d}", record)
                case do.LookInStorage() | do.MakeWhole() | do.TidyStorage():
                    if self._root is not None:
                        self._depot.serve(action, self._root)
                case do.SaveResult(status=status, reason=reason):
                    value = msgspec.json.encode({"status": status, "reason": reason})
                    self._agent.seat.save(seat.RESULT, value)
                case do.Log(text=text):
                    self._agent.log(text)

    def _tell(self, machine: str, message: say.FromRoot) -> None:
        if machine == self._agent.post.name:
            carry, worker = self._agent.carry, self._agent.worker
            self._agent.loop.call_soon(lambda: carry(worker.from_root(message)))
        elif machine in self._links:
            self._links[machine].send(message)

    def _plan_saved(self, begins: Begins) -> None:
        """The next root knows of this round: it may begin, if it is still to."""
        for machine, begin in begins.saved() if begins is self._begins else ():
            if self._root is not None and self._root.begin is begin:
                self._tell(machine, begin)

    def _answered(self, request: str, machine: str, reason: str) -> None:
        """The operator has given a machine, or has none now; one may still join."""
        asked, root = self._requests.get(request), self._root
        if root is None or asked is None or root.phase is Phase.OVER:
            return
        if not machine:
            waits = ", ".join(waiting_for(root)) or "nobody"
            self._agent.log(f"no machine to be had: {reason}; waiting for {waits}")
        here, now_s = machine in root.roster.joined, clock.now_s()
        root.now_s = now_s
        answered, lost = root.requests.answered, asked.lost
        done = answered(lost, asked.attempt, machine, reason, here=here, now_s=now_s)
        self._act([*done])

    def _machine_ended(self, machine: str, reason: str) -> None:
        """A machine that was given has ended; of one that joined its lease tells."""
        root = self._root
        if root is None or root.phase is Phase.OVER or machine in root.roster.joined:
            return
        self._act([*root.requests.ended(machine, reason)])
