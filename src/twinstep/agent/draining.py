"""Decides which steps are written to storage, and which stored step a job goes back to.

At its start a root has the storage looked at, again and again while it does not answer:
without knowing what is there, nobody starts at step 0. Then, whenever a step is kept
that may be written, all machines are told with the answer to their reports, and write
their parts; once all have, the step is made whole. A round that ends gives up what was
being written. What cannot be written is said and tried again later with a newer step:
training never waits for storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import actions as do, messages as say
from twinstep.recovery.choice import Choice
from twinstep.storage_settings import Storage
from twinstep.store.contents import part_name

REASON_CHARS_MAX = 400
LOOK_AGAIN_S = 1.0
"""After an answer that the storage cannot be read, it is asked again so much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """A whole step that the storage holds."""

    step: int
    captured_in: int
    machines: int
    ranks_per_machine: int
    size: int
    """Bytes."""
    written_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What the storage holds; `steps` is None where it could not be read."""

    steps: list[StoredStep] | None
    trouble: str = ""
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A step that is whole now; None where it could not be made so."""

    whole: StoredStep | None
    trouble: str = ""
    gone: list[int] = field(default_factory=list[int])
    """Older steps that were removed."""


@dataclass(slots=True, kw_only=True)
class Draining:
    """What a root knows of the storage, and the step that is being written.

    Invariant: at most one step is being written; `told` are machines of this round."""

    settings: Storage
    stored: dict[int, StoredStep] = field(default_factory=dict[int, StoredStep])
    asked_s: float = -1.0
    """When the storage was first asked what it holds; below 0: not yet."""
    look_at_s: float = 0.0
    """When it is asked again, if it has not answered by then."""
    looked: bool = False
    """It has answered, or had the time to."""
    known: bool = False
    """It has answered."""
    trouble: str = ""
    """Why the storage could not be read or written to, the last time."""
    bad: dict[int, str] = field(default_factory=dict[int, str])
    """Steps that could not be loaded, and why."""
    step: int = 0
    """The step that is being written; 0: none."""
    since_s: float = 0.0
    writers: dict[str, str] = field(default_factory=dict[str, str])
    """The machines that write it, and how the names of their parts start."""
    told: dict[str, say.Stored] = field(default_factory=dict[str, say.Stored])
    making: bool = False
    """All parts are there; the step is being made whole."""
    last_step: int = 0
    """The newest step that was begun to be written."""
    last_whole: int = 0
    """The newest that is in storage, as far as is known. Where it is bad, the newest
    good one: training comes by later steps again."""
    overdue: bool = False
    """Said that making the step whole takes too long."""
    not_before_s: float = 0.0
    written: int = 0
    """Steps this root has had written."""
    last_s: float = 0.0
    """How long the last one took."""

    @property
    def on(self) -> bool:
        return bool(self.settings.path)

    # What the storage holds.

    def look(self, now_s: float) -> list[do.RootAction]:
        """Asks what the storage holds until it has answered; notes that it does not."""
        if not self.on or self.known:
            return []
        settings = self.settings
        if self.asked_s < 0:
            self.asked_s = now_s
        if not self.looked and now_s - self.asked_s > settings.look_s_max:
            self.looked = True
            self.trouble = self.trouble or f"no answer in {settings.look_s_max:g} s"
            text = f"storage {settings.path} cannot be read: {self.trouble}"
            return [do.Log(text=text)]
        if now_s < self.look_at_s:
            return []
        # A call that hangs is not asked after again before it had its time.
        self.look_at_s = now_s + settings.look_s_max
        return [do.LookInStorage()]

    @property
    def waits(self) -> bool:
        """Whether it is not known yet what the storage holds."""
        return self.on and not self.looked

    def found(self, seen: Looked, *, now_s: float) -> list[do.RootAction]:
        """What the storage holds is known, or it could not be read."""
        if seen.steps is None:
            trouble = seen.trouble
            news, self.trouble = trouble != self.trouble, trouble
            self.look_at_s = now_s + LOOK_AGAIN_S
            text = f"storage {self.settings.path} cannot be read yet: {trouble}"
            return [do.Log(text=text)] if news else []
        self.looked = self.known = True
        self.trouble = ""
        self.stored |= {one.step: one for one in seen.steps}
        newest = max(self.stored, default=0)
        self.last_step = max(self.last_step, newest)
        self.last_whole = max(self.last_whole, newest)
        texts = [f"storage: {note}" for note in seen.notes]
        texts += [f"storage holds step {newest}"] if newest else []
        return [do.Log(text=text) for text in texts]

    def newest(self) -> StoredStep | None:
        """The newest stored step that is not known to be bad."""
        good = [step for step in self.stored if step not in self.bad]
        return self.stored[max(good)] if good else None

    def holds(self, step: int, captured_in: int) -> bool:
        """Whether this very step is whole in storage, as far as anybody knows."""
        stored = self.stored.get(step)
        if stored is None or step in self.bad:
            return False
        return stored.captured_in == captured_in

    def better(self, choice: Choice) -> Choice | None:
        """The choice to go back to the newest stored step; None where memory has one
        that is as new."""
        newest = self.newest()
        if newest is None or newest.step <= choice.step:
            return None
        passed = "".join(
            f"; stored step {step} passed over: {reason[:REASON_CHARS_MAX]}"
            for step, reason in sorted(self.bad.items())
            if step > newest.step
        )
        return Choice(
            step=newest.step,
            captured_in=newest.captured_in,
            sources={},
            differing=[],
            reason=f"{choice.reason}; storage has step {newest.step}{passed}",
        )

    def refusal(self, step: int) -> str:
        """Returns why nobody may start from `step`, or nothing: at 0, while nobody
        knows whether the storage holds a later one."""
        if step > 0 or not self.on or self.known:
            return ""
        return (
            f"storage {self.settings.path} cannot be read ({self.trouble}), and no "
            "step is in memory: the storage may hold steps of this job, and to start "
            "at step 0 would pass them over. Make it reachable and start again, or "
            "set storage.path to another folder to start anew"
        )

    # The step that is written.

    def begins(self) -> list[do.RootAction]:
        """A round ends: what was being written is given up, unless all of it was."""
        if not self.step or self.making:
            return []
        step, self.step = self.step, 0
        self.told.clear()
        return [do.Log(text=f"step {step} is not written to storage: the round ended")]

    def order(self, keep: int, now_s: float, begin: say.Begin) -> int:
        """Returns the step that all machines are told to write with this answer.

        Args:
          keep: the newest step that all machines hold, and are told to keep.
          begin: the present round."""
        if not self.on or self.making:
            return 0
        if self.step:
            return self.step
        settings = self.settings
        due = keep >= self.last_whole + settings.every_steps
        if keep <= self.last_step or not due or now_s < self.not_before_s:
            return 0
        self.not_before_s = now_s + settings.every_s
        writers = {
            member.machine: part_name(
                round=begin.round, term=begin.term, machine_rank=place
            )
            for place, member in enumerate(begin.members)
        }
        self.write(keep, writers, now_s=now_s)
        return keep

    def write(self, step: int, writers: dict[str, str], *, now_s: float) -> None:
        """These machines have been told to write their parts of `step`."""
        assert not self.step, f"{self.step} is being written"
        self.step, self.since_s, self.writers = step, now_s, writers
        self.overdue = False
        self.last_step = max(self.last_step, step)
        self.told.clear()

    def hears(self, said: say.Stored, *, now_s: float) -> list[do.RootAction]:
        """A machine has written its part, or could not."""
        if said.step != self.step or self.making or said.machine not in self.writers:
            return []
        if said.failed:
            return self.fails(f"{said.machine}: {said.failed}", now_s)
        self.told[said.machine] = said
        if len(self.told) < len(self.writers):
            return []
        self.making = True
        return [do.MakeWhole(step=said.step, parts=tuple(self.writers.values()))]

    def made(self, new: Made, *, now_s: float) -> list[do.RootAction]:
        """The step is whole in storage; or it could not be made so."""
        if not self.making:
            return []
        self.making = False
        whole = new.whole
        if whole is None:
            return self.fails(new.trouble, now_s)
        self.step, self.trouble = 0, ""
        self.bad.pop(whole.step, None)
        self.stored[whole.step] = whole
        self.last_whole = whole.step
        for step in new.gone:
            self.stored.pop(step, None)
        self.written += 1
        self.last_s = now_s - self.since_s
        self.told.clear()
        text = (
            f"step {whole.step} is in storage ({whole.size / 1e6:.1f} MB, "
            f"{self.last_s:.2f} s)"
        )
        return [do.Log(text=text)]

    def fails(self, reason: str, now_s: float) -> list[do.RootAction]:
        """The step is not written; a newer one is tried after a while."""
        step, self.step = self.step, 0
        self.told.clear()
        self.trouble = reason[:REASON_CHARS_MAX]
        self.not_before_s = max(self.not_before_s, now_s + self.settings.retry_s)
        text = (
            f"step {step} is not written to storage: {self.trouble}; tries again in "
            f"{self.settings.retry_s:g} s"
        )
        return [do.Log(text=text), do.TidyStorage(newest=step)]

    def tick(self, now_s: float) -> list[do.RootAction]:
        """Gives up a step that takes too long, and names whom it waited for."""
        late = self.step and now_s - self.since_s > self.settings.write_s_max
        if not late:
            return []
        within = f"{self.settings.write_s_max:g} s"
        if self.making:
            if self.overdue:
                return []
            self.overdue = True
            self.trouble = f"step {self.step} is not made whole within {within}"
            text = f"storage {self.settings.path}: {self.trouble}; waits for it"
            return [do.Log(text=text)]
        waits = ", ".join(name for name in self.writers if name not in self.told)
        return self.fails(f"{waits} did not write its part within {within}", now_s)

    def cannot_load(self, said: say.StoredBad) -> None:
        """A rank could not load a stored step; one that is corrupt is passed over."""
        if said.corrupt:
            self.bad[said.step] = said.reason[:REASON_CHARS_MAX]
            newest = self.newest()
            self.last_step = self.last_whole = newest.step if newest else 0
