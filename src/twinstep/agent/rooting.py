"""What an agent does about the root: stands for it, follows it, or is it.

While this agent is root, its decisions (root.py) run in the same loop as its worker's;
what they decide is sent to the other agents, or put into the store if this machine is
still root there.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from twinstep import clock
from twinstep.agent import actions as do, links, messages as say, seat
from twinstep.agent.election import Abdicate, Campaign, Election, Follow, RootKey
from twinstep.agent.record import Plan
from twinstep.agent.root import Actions, Root
from twinstep.agent.status import status_of, waiting_for
from twinstep.placement.strategy import place

if TYPE_CHECKING:
    from twinstep.agent.process import Agent


class Answer(Protocol):
    """What became of a request: a machine's name, or empty and the reason."""

    @property
    def machine(self) -> str: ...

    @property
    def reason(self) -> str: ...


class Operator(Protocol):
    """The part of a cloud operator (cloud/operator.py) that a root uses."""

    def ask(self, request: str, *, reason: str) -> None: ...

    def answer(self, request: str) -> Answer | None: ...

    def give_back(self, machine: str, *, reason: str) -> None: ...


STATUS_S = 0.5  # how often the status is published


class Rooting:
    """An agent's part in the election, and the root while it is one."""

    def __init__(self, agent: Agent, operator: Operator) -> None:
        self._agent, self._operator = agent, operator
        self._election = Election(machine=agent.post.name)
        self._root: Root | None = None
        self._links: dict[str, links.Link[say.ToRoot]] = {}
        self._soon: deque[say.ToRoot] = deque()
        self._asked: set[str] = set()
        self._published_s = 0.0

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
        """Stands for root; a standby only after the machines that train had time to.

        A root's machine that dies then takes no more than it would as a worker: were a
        standby root, training would go on for a while without anybody's answer."""
        worker = self._agent.worker
        key = RootKey(
            machine=worker.machine, host=worker.host, port=worker.port, term=term
        )
        if worker.machine_rank >= 0 or not worker.standby:
            self._agent.seat.campaign(key)
            return
        patience_s = self._agent.job.timing.campaign_s

        def late() -> None:
            if self._election.root is None and self._election.term < term:
                self._agent.seat.campaign(key)

        self._agent.loop.call_later(patience_s, late)

    def _follow(self, root: RootKey) -> None:
        if root.machine == self._agent.post.name:
            self._agent.loop.create_task(self._begin(root))
            return
        self._end()
        task = self._agent.doors.follow(
            root.host, root.port, lambda: self._election.root == root
        )
        self._agent.loop.create_task(task)

    async def _begin(self, key: RootKey) -> None:
        """This agent is root from now on."""
        raw = await self._agent.loop.run_in_executor(None, self._agent.seat.plan)
        alive = await self._agent.loop.run_in_executor(None, self._agent.seat.machines)
        job, grid = self._agent.job, self._agent.grid
        placement = place(
            grid.machines,
            copies=job.copies_held,
            strategy=job.placement,
            domains=job.domains,
        )
        self._root = Root(
            job=job,
            grid=grid,
            holders=[list(holders) for holders in placement.holders],
            term=key.term,
            now_s=clock.now_s(),
        )
        self._agent.log(f"root of term {key.term}")
        plan = msgspec.msgpack.decode(raw, type=Plan) if raw else None
        self._act(self._root.elected(plan, alive=alive))
        self._agent.carry(self._agent.worker.root_here())

    def _end(self) -> None:
        self._root = None
        for link in self._links.values():
            link.close("no longer root")
        self._links.clear()

    # While root.

    def attend(self, machine: str, link: links.Link[say.ToRoot]) -> None:
        """Another machine's agent has connected."""
        if self._root is None:
            link.close("not root")
            return
        former = self._links.get(machine)
        if former is not None:
            former.close("connected anew")
        self._links[machine] = link
        link.start(self._hear, lambda _reason: None)

    def soon(self, message: say.ToRoot) -> None:
        """This machine's own worker speaks; heard after what is being done now."""
        self._soon.append(message)
        self._agent.loop.call_soon(self._hear_own)

    def _hear_own(self) -> None:
        if self._soon:
            self._hear(self._soon.popleft())

    def _hear(self, message: say.ToRoot) -> None:
        if self._root is not None:
            self._root.now_s = clock.now_s()
            self._act(self._root.hears(message))

    def machine_gone(self, machine: str) -> None:
        """A machine's lease has lapsed."""
        link = self._links.pop(machine, None)
        if link is not None:
            link.close("its lease lapsed")
        if self._root is not None:
            self._root.now_s = clock.now_s()
            silence = self._agent.job.timing.silence_s_max
            reason = f"silent for {silence:g} s: its lease lapsed"
            self._act(self._root.machine_lost(machine, reason))

    def tick(self) -> None:
        if self._root is None:
            return
        self._root.now_s = now_s = clock.now_s()
        self._act(self._root.tick())
        if now_s - self._published_s > STATUS_S:
            self._publish(now_s)
            if self._asked:
                self._agent.seat.run(self._look_for_answers)

    def _publish(self, now_s: float) -> None:
        assert self._root is not None
        self._published_s = now_s
        status = status_of(self._root, machine=self._agent.post.name)
        self._agent.seat.save(seat.STATUS, msgspec.json.encode(status))

    def _act(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case do.TellAgent(machine=machine, message=message):
                    self._tell(machine, message)
                case do.AskMachine(lost=lost, reason=reason):
                    self._agent.log(f"asks the operator for a machine: {reason}")
                    self._ask(f"for-{lost}", reason)
                case do.GiveBack(machine=machine, reason=reason):
                    give_back = self._operator.give_back
                    self._agent.seat.run(partial(give_back, machine, reason=reason))
                case do.SavePlan(plan=plan):
                    self._agent.seat.save(seat.PLAN, plan)
                case do.SaveRecovery(number=number, record=record):
                    self._agent.seat.save(f"{seat.RECOVERIES}{number:06d}", record)
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

    def _ask(self, request: str, reason: str) -> None:
        self._asked.add(request)
        self._agent.seat.run(partial(self._operator.ask, request, reason=reason))

    def _look_for_answers(self) -> None:
        """In the store's thread: tells what the operator could not do."""
        for request in sorted(self._asked):
            answer = self._operator.answer(request)
            if answer is None:
                continue
            self._asked.discard(request)
            if not answer.machine:
                self._agent.loop.call_soon_threadsafe(self._refused, answer.reason)

    def _refused(self, reason: str) -> None:
        """No machine is to be had now; one may still join by itself."""
        if self._root is not None:
            waits = ", ".join(waiting_for(self._root)) or "nobody"
            self._agent.log(f"no machine to be had: {reason}; waiting for {waits}")
