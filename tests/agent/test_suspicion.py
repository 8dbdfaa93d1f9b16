"""From a late step to the end of a round: who is looked at, how often, and when."""

from __future__ import annotations

import pytest

from tests.agent.test_culprits import LOCKED, WAITS, sight
from twinstep.agent import messages as say
from twinstep.agent.messages import Sight
from twinstep.agent.suspicion import Hang, Suspicion
from twinstep.config import Job, Timing

TIMING = Timing(hang_s_min=10.0, deadlock_s_min=60.0, hang_s_max=600.0)
EVALUATES = sight("own", "evaluate()")


class Silence:
    """A job of two ranks that made steps until now, and makes none any more."""

    def __init__(self, *sights: Sight, steps: int = 3, rounds_max: int = 3) -> None:
        job = Job(machines=2, timing=TIMING, rounds_without_progress_max=rounds_max)
        self.suspicion = Suspicion(job=job, now_s=0.0)
        self.now_s = 0.0
        self.sights = sights
        self.looks: list[tuple[float, bool]] = []
        self.notes: list[str] = []
        self.begin(steps)

    def begin(self, steps: int) -> None:
        self.suspicion.begins(reached=0, now_s=self.now_s)
        for step in range(1, steps + 1):
            self.now_s += 1.0
            self.suspicion.stepped(step, first=True, now_s=self.now_s)
        self.since_s = self.now_s

    def waits(self, until_s: float) -> Hang | None:
        """Goes on for so long after the last step, in steps of half a second."""
        while self.now_s < self.since_s + until_s:
            self.now_s += 0.5
            if self.suspicion.to_look(self.now_s):
                hang = self.answers()
                while hang is not None and hang.again:
                    hang = self.answers()
                if hang is not None and hang.who:
                    self.suspicion.ends()
                    return hang
                if hang is not None:
                    self.notes.append(hang.note)
        return None

    def answers(self) -> Hang | None:
        looking = self.suspicion.looking
        assert looking is not None
        self.looks.append((self.now_s - self.since_s, looking.threads))
        for rank, seen in enumerate(self.sights):
            looked = say.Looked(machine=f"m{rank}", round=1, term=1, ranks={rank: seen})
            hang = self.suspicion.looked(looked, self.now_s)
        return hang


def test_a_proven_deadlock_is_ended_early_and_an_evaluation_late() -> None:
    silence = Silence(WAITS, LOCKED)
    hang = silence.waits(1000.0)
    assert hang is not None and hang.who == "rank 1" and not hang.report
    assert 60.0 <= silence.now_s - silence.since_s < 66.0
    assert "no step for" in hang.reason and "rank 0 waits in all_reduce" in hang.reason
    silence = Silence(WAITS, EVALUATES)
    assert silence.waits(599.0) is None
    hang = silence.waits(1000.0)
    assert hang is not None and hang.who == "rank 1"


def test_ranks_are_looked_at_twice_a_floor_and_all_threads_only_at_the_end() -> None:
    silence = Silence(WAITS, LOCKED)
    silence.waits(1000.0)
    times = [at_s for at_s, _ in silence.looks]
    assert times[0] == 10.5 and times[1] == 15.5
    assert [threads for _, threads in silence.looks] == [False] * 11 + [True]
    assert times[-2] == times[-1], "at once"


def test_what_was_seen_is_said_once_in_a_silence() -> None:
    silence = Silence(WAITS, EVALUATES)
    assert silence.waits(100.0) is None
    (note,) = silence.notes
    assert note.startswith("no step for 10.5 s: rank 1 is in train.py:41 (evaluate())")
    silence.suspicion.stepped(4, first=True, now_s=silence.now_s)
    silence.since_s = silence.now_s
    assert silence.waits(400.0) is None
    assert len(silence.notes) == 2


def test_a_stopped_rank_is_ended_at_the_first_look() -> None:
    silence = Silence(WAITS, sight(state="T"))
    hang = silence.waits(1000.0)
    assert hang is not None and hang.who == "rank 1"
    assert silence.now_s - silence.since_s == 10.5


@pytest.mark.parametrize("stuck", [LOCKED, EVALUATES])
def test_before_the_first_step_only_the_long_patience_counts(stuck: Sight) -> None:
    silence = Silence(WAITS, stuck, steps=0)
    assert silence.waits(899.0) is None
    assert silence.notes == []
    assert silence.waits(1000.0) is not None


def test_a_hang_at_the_same_step_ends_the_job_after_some_rounds() -> None:
    silence = Silence(WAITS, LOCKED, rounds_max=2)
    assert silence.waits(1000.0) is not None
    fruitful = silence.suspicion.guard.fruitless
    assert fruitful == 0, "the round had made new steps"
    for count in (1, 2):
        silence.suspicion.begins(reached=3, now_s=silence.now_s)
        silence.since_s = silence.now_s
        silence.suspicion.stepped(3, first=True, now_s=silence.now_s)
        hang = silence.waits(2000.0)
        assert hang is not None and bool(hang.report) == (count == 2)
        assert silence.now_s - silence.since_s >= 60.0 * 2 ** (count - 1)
    assert "2 rounds in a row made no new step after step 3" in hang.report


def test_a_machine_that_does_not_answer_is_asked_again_and_blames_nobody() -> None:
    silence = Silence(WAITS, LOCKED)
    silence.sights = (WAITS,)
    assert silence.waits(1000.0) is None
    times = [at_s for at_s, _ in silence.looks]
    assert times[1] - times[0] == TIMING.stop_s_max
