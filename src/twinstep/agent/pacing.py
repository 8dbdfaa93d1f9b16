"""Holds a machine's copies back until training leaves the network to them.

The threads that send (moving.py) ask here before each chunk. What training does is read
from the pages that the machine's ranks write (schedule/pulse.py), what is idle and what
goes when was learnt and planned from them (profile, timetable), and whether a chunk may
go now decides the gate. This file waits, measures the link meanwhile, and remembers
what went when, for whoever wants to see it. Where ranks tell of steps and not of
operations, the counters of the network interface stand in (watching.py).

    a step is over ─► profile ─► timetable ─► gate ◄─ now: the pulses
                                                │
    thread: turn(chunk) ──── ask ──────────────►│ wait, or go

Until there is a profile, where nobody tells of traffic, and for copies that make lost
redundancy again, a chunk goes at once: protection comes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from twinstep.agent import messages as say
from twinstep.agent.watching import Watching
from twinstep.agent.worker import Actions, Worker
from twinstep.clock import monotonic_s
from twinstep.config import Job
from twinstep.errors import Refused
from twinstep.schedule import pulse
from twinstep.schedule.gate import Gate, Go, moment
from twinstep.schedule.meter import Meter
from twinstep.schedule.profile import Profile, Profiler, Seen, merge
from twinstep.schedule.record import Record, Sent
from twinstep.schedule.timetable import Link, Timetable, fit, link
from twinstep.transfer.channel import Channel
from twinstep.transfer.flow import Flow
from twinstep.transfer.frame import Waits
from twinstep.transfer.sender import Cancelled

WAIT_S_MAX = 0.05
"""So late a thread that waits for its turn sees that it is to stop."""
WORDS_IN_DEADLINE = 3
"""So often in its deadline a holder hears that a sender lives and waits."""
STEPS_OPEN_MAX = 8
"""Steps of which not all ranks have told what they saw."""
RATE_DRIFT = 0.1
"""The link is planned with anew when its rate has changed by this share."""
UNKNOWN_BYTES_PER_S = 1e9
"""Until a link was measured: a copy is then planned as if it took no time to speak of,
and the first one that is sent corrects that."""

Pages = Callable[[], Mapping[int, memoryview]]
"""Returns the pages of the machine's present ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a machine has learnt of its steps, and what it makes of it."""

    profile: Profile
    timetable: Timetable
    link: Link
    copies_bytes: tuple[int, ...]

    @property
    def needs_s(self) -> float:
        """How long the link carries the copies of one step."""
        size = sum(self.copies_bytes)
        pieces = -(-size // self.link.piece_bytes)
        return self.link.startup_s * pieces + size / self.link.bytes_per_s

    @property
    def idle_s(self) -> float:
        """In a step, in all spans that are worth using."""
        return sum(self.profile.lengths_s)


@final
class Pacing:
    """One machine's. `reached` and `begins` are called in the agent's loop, turns are
    taken in threads."""

    def __init__(self, job: Job, worker: Worker, pages: Pages, flow: Flow) -> None:
        """`flow` has the bytes that the machine's copies move."""
        self.settings = job.schedule
        self._chunk_bytes = job.transfer.chunk_bytes
        self.silent_s_max = job.timing.transfer_s_max / WORDS_IN_DEADLINE
        self._worker, self._pages = worker, pages
        self._profiler = Profiler(settings=job.schedule)
        self._lock = threading.Lock()
        self._meter = Meter()
        self.gate = Gate(settings=job.schedule, link=self._link())
        self.record = Record()
        self.plan: Plan | None = None
        self._queued: dict[Channel, int] = {}
        self._watching = Watching(job.schedule, worker.host, lambda: flow.bytes)
        self._seen: dict[int, dict[int, Seen]] = {}
        self._told = False  # the present round's root knows the plan

    @property
    def bytes_per_s(self) -> float:
        """What the link carries, as far as is known."""
        return self.gate.link.bytes_per_s

    @property
    def profiling(self) -> bool:
        return self._profiler.profiling

    def _link(self) -> Link:
        return link(
            self.settings,
            chunk_bytes=self._chunk_bytes,
            bytes_per_s=self._meter.bytes_per_s or UNKNOWN_BYTES_PER_S,
            startup_s=self._meter.startup_s,
        )

    # In the loop: steps that are over.

    def begins(self) -> None:
        """Other ranks are about to run: what the former ones saw last is of no use, and
        the root of their round may not know the plan."""
        self._seen.clear()
        self._told = False

    def tells(self, rank: int) -> Actions:
        """A rank has ended a step; what the root is to hear of it goes there."""
        plan = self.reached(rank)
        return [] if plan is None else self._worker.tell(profiled(self._worker, plan))

    def reached(self, rank: int) -> Plan | None:
        """A rank has ended a step; returns a plan that is to be told."""
        page = self._pages().get(rank)
        over = pulse.last_step(page) if page is not None else None
        if over is None or over.overfull or self.settings.mode == "off":
            return None
        seen = self._saw(over)
        return None if seen is None else self.took(rank, seen)

    def took(self, rank: int, seen: Seen) -> Plan | None:
        """A rank saw this of a step that is over; returns a plan that is to be told."""
        at_step = self._seen.setdefault(seen.step, {})
        at_step[rank] = seen
        while len(self._seen) > STEPS_OPEN_MAX:
            del self._seen[min(self._seen)]
        if len(at_step) < len(self._worker.ranks()):
            return None
        step = merge([at_step[each] for each in sorted(at_step)])
        del self._seen[seen.step]
        self.record.over(step)
        profile = self._profiler.take(step)
        if self._is_news(profile):
            self._follow(profile)
            self._told = False
        with self._lock:
            self.gate.saw(step)
        if self._told:
            return None
        self._told = self.plan is not None
        return self.plan

    def _saw(self, over: pulse.StepSeen) -> Seen | None:
        """A rank's step, as the rank tells of it or the network interface does."""
        with self._lock:
            if over.fed:
                self._watching.stop()
                return _seen(over)
            self._watching.start()
            return self._watching.seen(over)

    def _is_news(self, profile: Profile | None) -> bool:
        if profile is not None or self.plan is None:
            return profile is not None
        former = self.plan.link.bytes_per_s
        changed = abs(self._link().bytes_per_s - former) > RATE_DRIFT * former
        return changed or self.plan.copies_bytes != self._sizes()

    def _follow(self, profile: Profile | None) -> None:
        profile = profile or (self.plan.profile if self.plan else None)
        assert profile is not None
        road, sizes = self._link(), self._sizes()
        timetable = fit(
            profile.lengths_s,
            copies_bytes=sizes,
            link=road,
            mu=self.settings.mu,
            every_max=self.settings.every_max,
        )
        plan = Plan(profile=profile, timetable=timetable, link=road, copies_bytes=sizes)
        with self._lock:
            self.gate.link = road
            self.gate.follow(profile, timetable)
        self.plan = plan

    def _sizes(self) -> tuple[int, ...]:
        """What the next step's copies are planned to take: what holders lacked lately,
        in sixteenths, so that a little more or less is no news."""
        share = self.record.sixteenths
        return tuple(-(-n * share // 16) for n in copies_bytes(self._worker))

    def close(self) -> None:
        """Nothing is sampled any more."""
        with self._lock:
            self._watching.stop()

    # In threads: chunks that want to go.

    def turn(
        self, channel: Channel, *, size: int, mends: bool, over: Cancelled
    ) -> Copy:
        """Returns what decides when each chunk of a copy of about `size` bytes may go.

        Args:
          mends: the copy makes lost redundancy again, and waits for nothing.
          over: tells whether the copy is to stop."""
        return Copy(self, channel, size=size, mends=mends, over=over)

    def ask(
        self, channel: Channel, wanted_bytes: int, held_s: float
    ) -> tuple[float, Go | float]:
        """Returns the time, and Go or how long to wait."""
        beats = [beat for beat in map(pulse.read, self._pages().values()) if beat]
        with self._lock:
            now_s = monotonic_s()
            now = moment(beats) or self._watching.moment(beats, now_s)
            self._queued[channel] = channel.queued()
            answer = self.gate.ask(
                now,
                wanted_bytes=wanted_bytes,
                held_s=held_s,
                now_s=now_s,
                queued_bytes=sum(self._queued.values()),
            )
        return now_s, answer if isinstance(answer, Go) else answer.seconds

    def leaves(self, channel: Channel) -> None:
        """Nothing more comes by this channel."""
        with self._lock:
            self._queued.pop(channel, None)

    def answered(self, seconds: float) -> None:
        with self._lock:
            self._meter.answered(seconds)

    def moves(self, now_s: float) -> None:
        with self._lock:
            self._meter.begins(now_s)

    def went(self, chunk: Sent) -> None:
        """A chunk that a plan has let go is written down."""
        if self.plan is not None:
            self.record.sent(chunk)

    def rests(self, now_s: float, size: int) -> None:
        with self._lock:
            self._meter.rests(now_s, size)


@final
class Copy:
    """The turns of one copy on one connection. One thread uses it.

    Calling it returns when a chunk may go. Raises: Refused when the copy is to stop."""

    def __init__(
        self,
        pacing: Pacing,
        channel: Channel,
        *,
        size: int,
        mends: bool,
        over: Cancelled,
    ) -> None:
        self._pacing, self._channel, self._over = pacing, channel, over
        self._left, self._mends = size, mends
        self._size = size
        self._began_s = monotonic_s()
        self._granted: Go | None = None
        self._moving = 0  # bytes given to the kernel since the copy last rested
        self._is_moving = False
        self._open: Sent | None = None
        self._spoke_s = self._began_s

    def answered(self) -> None:
        """The holder has just accepted the offer."""
        offered_s, self._began_s = self._began_s, monotonic_s()
        self._pacing.answered(self._began_s - offered_s)

    def __call__(self, size: int) -> None:
        self._close_last()
        span = self._wait(size)
        now_s = self._spoke_s = monotonic_s()
        if not self._is_moving:
            self._is_moving = True
            self._pacing.moves(now_s)
        if not self._mends:
            self._open = Sent(began_s=now_s, ended_s=now_s, size=size, after=span)
        self._left -= size
        self._moving += size

    def _wait(self, size: int) -> int | None:
        """Waits for the chunk's turn; returns which span it goes into."""
        granted = self._granted
        while granted is None or granted.bytes_max < size:
            if self._over():
                raise Refused("cancelled here while it waited for its turn")
            if self._mends:
                return None
            now_s, answer = self._pacing.ask(
                self._channel, max(size, self._left), monotonic_s() - self._began_s
            )
            if isinstance(answer, Go):
                granted = answer
                continue
            if self._is_moving and not self._channel.queued():
                self._rest(now_s)
            if now_s - self._spoke_s > self._pacing.silent_s_max:
                self._spoke_s = now_s
                self._channel.send(Waits())
            # What is on its way is soon over, and how soon is what the link carries.
            most_s = self._pacing.settings.poll_s if self._is_moving else WAIT_S_MAX
            time.sleep(min(answer, most_s))
        self._granted = Go(granted.bytes_max - size, granted.span)
        return granted.span

    def _close_last(self) -> None:
        """The chunk before is with the kernel, which will be done with it soon."""
        if self._open is not None:
            carried_s = self._channel.queued() / self._pacing.bytes_per_s
            self._open.ended_s = monotonic_s() + carried_s
            self._pacing.went(self._open)
            self._open = None

    def _rest(self, now_s: float) -> None:
        self._is_moving = False
        self._pacing.rests(now_s, self._moving)
        self._moving = 0

    def arrived(self) -> None:
        """The holder has all of it; what had no turn, it had already."""
        self._pacing.record.arrived(self._size, spared=self._left)

    def done(self) -> None:
        """The holder has all of it, or it is given up."""
        self._close_last()
        self._pacing.leaves(self._channel)
        if self._is_moving:
            self._rest(monotonic_s())


def copies_bytes(worker: Worker) -> tuple[int, ...]:
    """The sizes of what a machine sends for one step: each of its ranks' shards, to
    each other holder."""
    begin, sizes = worker.begin, worker.copies.table.sizes
    if begin is None:
        return ()
    others = len(begin.holders[worker.machine_rank]) - 1
    return tuple(sizes.get(rank, 0) for rank in worker.ranks() for _ in range(others))


def profiled(worker: Worker, plan: Plan) -> say.Profiled:
    """What the root is told of a plan."""
    return say.Profiled(
        machine=worker.machine,
        round=worker.round,
        term=worker.term,
        step_s=plan.profile.step_s,
        idle_s=plan.idle_s,
        needs_s=plan.needs_s,
        every=plan.timetable.every,
        unfitted_bytes=plan.timetable.unfitted_bytes,
    )


def _seen(over: pulse.StepSeen) -> Seen:
    return Seen(
        step=over.step,
        length_s=(over.ended_ns - over.began_ns) / 1e9,
        busy=tuple(
            ((start - over.began_ns) / 1e9, (end - over.began_ns) / 1e9)
            for start, end in over.operations
        ),
        began_s=over.began_ns / 1e9,
    )
