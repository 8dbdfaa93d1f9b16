"""Invariant 5: copies go while training does not use the network, or say why not.

Where all that the simulator knows is compared with what a machine goes by: when its
operations truly start and end, and what its link carries already. It is looked at
whenever the gate is asked, a plan is made, the root hears of one, or decides whether a
step is captured. How a machine comes to its answers plays no part, and nothing here
knows of damage.

The other side of holding copies back is that no copy and no step may wait for ever:
that is a part of invariant 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from twinstep.agent import messages as say
from twinstep.agent.pacing import Plan
from twinstep.agent.root import Root
from twinstep.schedule.gate import Go, Wait
from twinstep.schedule.profile import Seen
from twinstep.sim.check import Violation
from twinstep.sim.memory import CHUNK_BYTES

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent
    from twinstep.sim.world import World

EPSILON_S = 1e-6
"""What sums of float seconds, and whole nanoseconds, may be off by."""


class Truth(NamedTuple):
    """What the operations of a machine's ranks are at a moment."""

    busy: bool
    ended: int
    since_s: float


@dataclass(slots=True, kw_only=True)
class Asked:
    """What one root's answers were to whether a step is captured."""

    captured: int | None = None
    refused: bool = False
    """The last time that one was due."""
    every: int = 1


@dataclass(slots=True, kw_only=True, repr=False)
class Spans:
    """Watches the traffic of one cluster. Raises: Violation."""

    world: World
    free_s: dict[str, float] = field(default_factory=dict[str, float])
    """When each machine's link will have carried what was let go."""
    seen: dict[str, tuple[Seen, int]] = field(
        default_factory=dict[str, tuple[Seen, int]]
    )
    """Each machine's last step, and how many in a row were not what it plans with."""
    needs: dict[tuple[int, int], dict[str, int]] = field(
        default_factory=dict[tuple[int, int], dict[str, int]]
    )
    """What the machines have told the root of a term in a round."""
    asked: dict[int, Asked] = field(default_factory=dict[int, Asked])

    # A chunk wants to go.

    def _truth(self, agent: SimAgent) -> Truth | None:
        now_s = agent.events.now_s
        shown = [r.beats.now for r in agent.pacing.present() if r.beats.now is not None]
        if not shown:
            return None
        newest = max(now.step for now in shown)
        here = [now for now in shown if now.step == newest]
        busy = any(s <= now_s < e for now in shown for s, e in now.operations)
        over = [e for now in here for _, e in now.operations if e <= now_s]
        since_s = max(over) if over else min(now.began_s for now in here)
        return Truth(busy, len(over), since_s)

    def _link_s(self, agent: SimAgent) -> float:
        """When a machine's link can carry something new."""
        now_s, link = agent.events.now_s, agent.pacing.gate.link
        queue_s = agent.pacing.under_way_bytes / link.bytes_per_s
        return max(self.free_s.get(agent.name, 0.0), now_s + queue_s)

    def _late_s(self, plan: Plan, held_s: float) -> float:
        return held_s - plan.timetable.steps * plan.profile.step_s

    def goes(self, agent: SimAgent, go: Go, *, held_s: float) -> None:
        """A piece leaves a machine that has a plan, and mends nothing."""
        plan, truth, events = agent.pacing.plan, self._truth(agent), agent.events
        assert plan is not None
        takes_s = plan.link.takes_s(go.bytes_max)
        ends_s = self._link_s(agent) + takes_s
        free_s = max(events.now_s, self.free_s.get(agent.name, 0.0))
        if truth is None:
            return  # its ranks have just begun, and tell nothing yet
        self.free_s[agent.name] = free_s + takes_s
        late_s = self._late_s(plan, held_s)
        hold_s = agent.job.schedule.hold_s_max
        at_last = late_s > 2 * hold_s
        if events.probe("spans: a copy goes at last, whatever training does", at_last):
            return
        if truth.busy:
            raise Violation(
                "5", f"{agent.name} sends {go.bytes_max} B while training uses its link"
            )
        spans = {span.after: span for span in plan.profile.spans}
        span = spans.get(truth.ended)
        if span is not None:
            schedule = agent.job.schedule
            lead = schedule.lead if plan.profile.operations else 0.0
            from_s = truth.since_s + lead * span.mean_s
            until_s = from_s + schedule.mu * span.mean_s
            begins_s = ends_s - takes_s
            early = begins_s < from_s - EPSILON_S and late_s <= hold_s
            if ends_s <= until_s + EPSILON_S and not early:
                return
        if events.probe("spans: a copy is held to the bound", late_s > hold_s):
            return
        profile = plan.profile
        if events.probe("spans: no operations are known", profile.operations == 0):
            return
        overflows = plan.timetable.unfitted_bytes > 0
        ends = truth.ended >= profile.operations
        if events.probe("spans: what has no room goes at the end", overflows and ends):
            return
        raise Violation(
            "5",
            f"{agent.name} sends {go.bytes_max} B until {ends_s:.6f} after operation "
            f"{truth.ended}, and no span holds that: {span}",
        )

    def waits(self, agent: SimAgent, wait: Wait, *, held_s: float) -> None:
        """A piece is held back."""
        plan, truth = agent.pacing.plan, self._truth(agent)
        if plan is None or truth is None:
            return
        link = agent.pacing.gate.link
        others_s = (link.buffers - 1) * link.takes_s(link.piece_bytes)
        if self._link_s(agent) - agent.events.now_s > others_s:
            return
        hold_s = agent.job.schedule.hold_s_max
        most_s = (2 if truth.busy else 1) * hold_s
        late_s = self._late_s(plan, held_s)
        if late_s > most_s + EPSILON_S:
            raise Violation(
                "6",
                f"{agent.name} holds a copy back that is {late_s:.3f} s late, and "
                f"{most_s:.3f} is the bound: {wait.reason}",
            )

    # A machine learns and plans.

    def saw(self, agent: SimAgent) -> None:
        """A machine may have seen a step to its end: it plans with steps as they are,
        unless they have been other than it plans with for a few only."""
        steps = agent.pacing.shipped.record.steps
        last, count = self.seen.get(agent.name, (None, 0))
        if not steps or steps[-1] is last:
            return
        pattern, step = self.world.settings.pattern, steps[-1].step
        stays = last is not None and pattern.holds(last.step) == pattern.holds(step)
        profile = agent.pacing.plan.profile if agent.pacing.plan else None
        operations = pattern.count(step) * self.world.grid.ranks_per_machine
        right = profile is not None and profile.operations in (operations, 0)
        count = 0 if right else count + 1 if stays else 1
        self.seen[agent.name] = (steps[-1], count)
        if count > pattern.steps_until_planned:
            planned = "none" if profile is None else f"{profile.operations}"
            raise Violation(
                "5",
                f"{agent.name} plans with steps of {planned} operations, and has seen "
                f"{count} of {operations}",
            )

    def plans(self, agent: SimAgent, plan: Plan) -> None:
        """A machine has a timetable: no span is overfull, and it wants no more steps
        than it needs."""
        schedule, table, link = agent.job.schedule, plan.timetable, plan.link
        rooms_s = [schedule.mu * length_s for length_s in plan.profile.lengths_s]
        filled_s: dict[int, float] = {}
        for piece in table.pieces:
            takes_s = link.takes_s(piece.size)
            filled_s[piece.span] = filled_s.get(piece.span, 0.0) + takes_s
        for span, takes_s in filled_s.items():
            if takes_s > rooms_s[span % table.spans] + EPSILON_S:
                raise Violation(
                    "5", f"{agent.name} plans {takes_s:.6f} s in span {span}: {rooms_s}"
                )
        size = sum(plan.copies_bytes)
        if sum(piece.size for piece in table.pieces) + table.unfitted_bytes != size:
            raise Violation("5", f"{agent.name} plans other bytes than its {size}")
        chunk_s = link.takes_s(CHUNK_BYTES)
        holds = sum(math.floor(room_s / chunk_s - 1e-9) for room_s in rooms_s)
        fewer = table.steps - 1 if table.every else schedule.every_max
        if CHUNK_BYTES * holds * fewer >= size > 0:
            raise Violation(
                "5", f"{agent.name} says that {size} B do not fit into {fewer} steps"
            )
        agent.events.probe("spans: a machine says that not all fits", not table.every)

    # The root decides.

    def hears(self, root: Root, said: say.Profiled) -> None:
        """Captures are no more frequent than the slowest machine's spans allow."""
        here = said.machine in root.roster.members and root.begin is not None
        if not here or (said.term, said.round) != (root.term, root.round):
            return
        needs = self.needs.setdefault((root.term, root.round), {})
        needs[said.machine] = said.every or root.job.schedule.every_max
        self._follow(root)
        name = max(needs, key=lambda each: (needs[each], each))
        if root.traffic.every < needs[name]:
            raise Violation(
                "5",
                f"one step in {root.traffic.every} is captured, and {name} needs "
                f"{needs[name]}",
            )

    def elected(self, root: Root) -> None:
        """There is a new root: what it says of captures is looked at."""
        self.asked[root.term] = Asked()
        decides = root.ballot.captures

        def captures(step: int) -> bool:
            captured = decides(step)
            self._decided(root, step, captured)
            return captured

        root.ballot.captures = captures

    def _follow(self, root: Root) -> Asked:
        asked, every = self.asked[root.term], root.traffic.every
        events = self.world.events
        events.probe("spans: captures become rarer", every > asked.every)
        events.probe("spans: captures become more frequent", every < asked.every)
        asked.every = every
        return asked

    def _decided(self, root: Root, step: int, captured: bool) -> None:
        """A step could be captured, and is or is not."""
        asked = self._follow(root)
        if captured:
            asked.captured, asked.refused = step, False
            return
        last = asked.captured
        if last is not None and last < step < last + asked.every:
            return
        self.world.events.probe("spans: a capture is withheld")
        if asked.refused:
            raise Violation("6", f"two captures in a row are withheld, at {step}")
        asked.refused = True
