"""How chunks wait for their turn in a simulated cluster: threads of agent/pacing.py.

What a machine has learnt of its steps and plans with is the shipped Pacing, whose gate
is asked here with the time of the world. A thread looks at the pages every `poll_s`;
here it looks when an operation starts or ends, at most that much later, and each time
that the gate names: in between the answer stays what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinstep.agent import actions as do
from twinstep.agent.pacing import Pacing, Plan, profiled
from twinstep.schedule.gate import Gate, Go, Moment, Wait, moment
from twinstep.sim.events import Step
from twinstep.sim.memory import CHUNK_BYTES
from twinstep.transfer.flow import Flow

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent
    from twinstep.sim.ranks import SimRank

WAIT_S_MAX = 0.05
"""So late a thread that waits sees that it is to stop, or that a step has begun."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class SimPacing:
    """One machine's."""

    agent: SimAgent
    shipped: Pacing = field(init=False)
    under_way_bytes: int = 0
    """Of chunks that have left and have not arrived."""

    def __post_init__(self) -> None:
        job, worker = self.agent.job, self.agent.worker
        self.shipped = Pacing(job, worker, dict[int, memoryview], Flow())

    @property
    def plan(self) -> Plan | None:
        return self.shipped.plan

    @property
    def gate(self) -> Gate:
        return self.shipped.gate

    def begins(self) -> None:
        self.shipped.begins()

    def reached(self, rank: SimRank) -> None:
        """The agent has heard that a rank has ended a step, and looks at its page."""
        over = rank.beats.over
        if over is None:
            return
        agent, before = self.agent, self.shipped.profiling
        told = self.shipped.took(rank.rank, over)
        drifts = self.shipped.profiling and not before
        agent.events.probe("pacing: steps have drifted from the profile", drifts)
        agent.world.spans.saw(agent)
        if told is not None:
            agent.world.spans.plans(agent, told)
            agent.carry(agent.worker.tell(profiled(agent.worker, told)))

    def present(self) -> list[SimRank]:
        return [rank for rank in self.agent.ranks.values() if rank.alive]

    def moment(self) -> Moment | None:
        now_s = self.agent.events.now_s
        beats = [rank.beats.beat(now_s) for rank in self.present()]
        return moment(beat for beat in beats if beat is not None)

    def turns(self, ship: do.ShipCopy, *, chunks: int, epoch: int) -> Turns:
        begin = self.agent.worker.begin
        return Turns(
            pacing=self,
            epoch=epoch,
            mends=begin is not None and ship.step == begin.step,
            left=chunks,
            began_s=self.agent.events.now_s,
        )


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Turns:
    """The turns of one copy."""

    pacing: SimPacing
    epoch: int
    mends: bool
    left: int
    """Chunks."""
    began_s: float
    granted: int = 0
    """Chunks that may go without another word."""
    on_its_way: bool = False

    def turn(self) -> Step[None]:
        """Returns when a chunk may go, or when the copy is to stop."""
        self._arrived()
        pacing = self.pacing
        agent, events = pacing.agent, pacing.agent.events
        while not (self.mends or self.granted or pacing.plan is None):
            answer, held_s = self._ask()
            if isinstance(answer, Go):
                self.granted = -(-answer.bytes_max // CHUNK_BYTES)
                break
            agent.world.spans.waits(agent, answer, held_s=held_s)
            yield self._wait_s(answer)
            if self.epoch != agent.mover.epoch:
                return
        self.left -= 1
        self.granted = max(0, self.granted - 1)
        self.on_its_way = True
        pacing.under_way_bytes += CHUNK_BYTES
        events.probe("pacing: copies that mend go at once", self.mends)

    def _ask(self) -> tuple[Go | Wait, float]:
        pacing, agent = self.pacing, self.pacing.agent
        now_s = agent.events.now_s
        held_s = now_s - self.began_s
        answer = pacing.gate.ask(
            pacing.moment(),
            wanted_bytes=self.left * CHUNK_BYTES,
            held_s=held_s,
            now_s=now_s,
            queued_bytes=pacing.under_way_bytes,
        )
        if isinstance(answer, Go):
            agent.world.spans.goes(agent, answer, held_s=held_s)
        return answer, held_s

    def _wait_s(self, answer: Wait) -> float:
        """Until something may be otherwise."""
        pacing, events = self.pacing, self.pacing.agent.events
        settings, now_s = pacing.shipped.settings, events.now_s
        if answer.seconds != settings.poll_s:
            return min(answer.seconds, WAIT_S_MAX)
        changes = [rank.beats.changes_s(now_s) - now_s for rank in pacing.present()]
        late_s = events.random.random() * settings.poll_s
        return min([WAIT_S_MAX, *changes]) + late_s

    def _arrived(self) -> None:
        if self.on_its_way:
            self.on_its_way = False
            self.pacing.under_way_bytes -= CHUNK_BYTES

    def over(self) -> None:
        """The holder has all of it, or it is given up."""
        self._arrived()
