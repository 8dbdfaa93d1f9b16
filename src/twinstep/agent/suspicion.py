"""Decides for the root whether training still moves, and whom to blame if not.

It joins three looks at one job: how long the present step may take, what the ranks of
all machines were seen doing when it took longer, and whether rounds that end by
themselves bear any fruit. The root tells what happens, and acts on what is said here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import messages as say
from twinstep.agent.health import CrashGuard, Probing, StepWatch, ending
from twinstep.config import Job


@dataclass(slots=True, kw_only=True)
class Suspicion:
    """What is suspected of the ranks of the present round."""

    job: Job
    now_s: float
    watch: StepWatch = field(init=False)
    guard: CrashGuard = field(init=False)
    probing: Probing | None = None

    def __post_init__(self) -> None:
        self.watch = StepWatch(timing=self.job.timing, last_s=self.now_s)
        self.guard = CrashGuard(rounds_max=self.job.rounds_without_progress_max)

    def ends(self) -> None:
        """The round is over: nobody is looked at any more."""
        self.probing = None

    def begins(self, *, reached: int, now_s: float) -> None:
        """A round begins, after earlier ones have come as far as `reached`."""
        self.guard.begins(reached=reached)
        self.watch.restart(now_s)

    def stepped(self, step: int, *, first: bool, now_s: float) -> None:
        """All ranks stand at `step`; `first` if none did in this round before."""
        if first:
            self.watch.stepped(now_s)
        self.probing = None
        self.guard.stepped(step)

    def rank_ended(self, ended: say.RankEnded) -> tuple[str, str]:
        """A rank has failed by itself. Returns how, and the report that ends the job
        if that was once too often, else nothing."""
        reason = f"rank {ended.rank} on {ended.machine} {ending(ended.status)}"
        if self.guard.failed():
            return reason, self.guard.report(reason, ended.tail)
        return reason, ""

    def to_probe(self, now_s: float) -> bool:
        """Whether the ranks of all machines are to be looked at now."""
        if not self.watch.late(now_s):
            return False
        if self.probing is not None and not self.probing.late(now_s):
            return False
        until_s = now_s + self.job.timing.stop_s_max
        self.probing = Probing(machines=self.job.machines, until_s=until_s)
        return True

    def probed(self, probed: say.Probed, now_s: float) -> tuple[str, str] | None:
        """Once everybody was looked at: who holds the others up, and the reason."""
        if self.probing is None:
            return None
        found = self.probing.take(probed.machine, probed.states, probed.steps)
        if found is None:
            return None
        who, how, certain = found
        waited_s = now_s - self.watch.last_s
        if not certain and waited_s < self.watch.patience_s_max:
            return None
        self.probing = None
        return who, f"no step for {waited_s:.1f} s; {who}: {how}"
