"""Decides for the root whether training still moves, and whom to blame if not.

It joins three looks at one job: how long the present step may take, what the ranks of
all machines were seen doing when it took longer, and whether rounds that end by
themselves bear any fruit. The root tells what happens, and acts on what is said here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import messages as say
from twinstep.agent.culprits import Stillness, Verdict, judge
from twinstep.agent.health import CrashGuard, Looking, StepWatch, ending
from twinstep.agent.strikes import Strikes
from twinstep.config import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """What comes of a look at all ranks: a line for the log, another look at once, or
    the round ends."""

    note: str = ""
    again: bool = False
    who: str = ""
    reason: str = ""
    report: str = ""
    """Not empty when the job ends with it: this has happened too often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What a rank's end says."""

    reason: str
    report: str
    """Not empty when the job ends with it: this has happened too often."""
    struck: str
    """Not empty when its machine is to be replaced, and why."""


@dataclass(slots=True, kw_only=True)
class Suspicion:
    """What is suspected of the ranks of the present round."""

    job: Job
    now_s: float
    machines: int = field(init=False)
    """How many have ranks in the present round."""
    watch: StepWatch = field(init=False)
    guard: CrashGuard = field(init=False)
    strikes: Strikes = field(init=False)
    looking: Looking | None = None
    noted: bool = False
    stillness: Stillness = field(default_factory=Stillness)

    def __post_init__(self) -> None:
        self.machines = self.job.machines
        self.watch = StepWatch(timing=self.job.timing, last_s=self.now_s)
        self.guard = CrashGuard(rounds_max=self.job.rounds_without_progress_max)
        health = self.job.health
        self.strikes = Strikes(
            strikes_max=health.strikes_max, strikes_s=health.strikes_s
        )

    def _forget(self) -> None:
        self.looking = None
        self.stillness.clear()
        self.noted = False

    def _first_seen(self, verdict: Verdict, waited_s: float) -> Hang | None:
        """What was seen is said once in a silence; not while a round starts."""
        if self.noted or self.watch.steps == 0:
            return None
        self.noted = True
        return Hang(note=f"no step for {waited_s:.1f} s: {verdict.how}")

    def ends(self) -> None:
        """The round is over: nobody is looked at any more."""
        self._forget()

    def begins(self, *, reached: int, now_s: float) -> None:
        """A round begins, after earlier ones have come as far as `reached`."""
        self.guard.begins(reached=reached)
        self.watch.restart(now_s)

    def stepped(self, step: int, *, first: bool, now_s: float) -> None:
        """All ranks stand at `step`; `first` if none did in this round before."""
        if first:
            self.watch.stepped(now_s)
        self._forget()
        self.guard.stepped(step)

    def rank_ended(self, ended: say.RankEnded, now_s: float) -> End:
        """A rank has failed by itself, the first of its round."""
        reason = f"rank {ended.rank} on {ended.machine} {ending(ended.status)}"
        struck = self.strikes.failed(
            ended.machine, status=ended.status, tail=ended.tail, now_s=now_s
        )
        report = self.guard.report(reason, ended.tail) if self.guard.failed() else ""
        return End(reason=reason, report=report, struck=struck)

    def to_look(self, now_s: float) -> bool:
        """Whether the ranks of all machines are to be looked at now."""
        if not self.watch.late(now_s):
            return False
        timing = self.job.timing
        if self.looking is not None:
            complete = self.looking.complete
            pause_s = timing.look_s if complete else timing.stop_s_max
            if now_s - self.looking.asked_s < pause_s:
                return False
        self._look(now_s, threads=self.looking is not None and self.looking.threads)
        return True

    def _look(self, now_s: float, *, threads: bool) -> None:
        self.looking = Looking(machines=self.machines, asked_s=now_s, threads=threads)

    def looked(self, looked: say.Looked, now_s: float) -> Hang | None:
        """A machine has said what its ranks do. Once all have, and the verdict has
        waited long enough: who holds the others up.

        Before that, all are asked once more, for the stacks of all threads."""
        looking = self.looking
        if looking is None or looking.complete:
            return None
        if not looking.take(looked.machine, looked.ranks):
            return None
        self.stillness.seen(looking.sights, now_s)
        verdict = judge(
            looking.sights, self.stillness.looks, looks_min=self.job.health.looks_min
        )
        waited_s = now_s - self.watch.last_s
        fruitless = self.guard.fruitless
        if waited_s < self.watch.patience_s(verdict, fruitless=fruitless):
            looking.threads = False
            return self._first_seen(verdict, waited_s)
        if not looking.threads:
            self._look(now_s, threads=True)
            return Hang(again=True)
        self.looking = None
        reason = f"no step for {waited_s:.1f} s; {verdict.how}"
        report = ""
        if not verdict.stopped and self.guard.failed():
            report = self.guard.report(reason, None)
        return Hang(who=verdict.who, reason=reason, report=report)
