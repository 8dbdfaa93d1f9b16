"""Chunks wait for training: real pages and threads, and times as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene
from tests.transfer.links import Beside
from twinstep.agent.pacing import Pacing
from twinstep.config import Job
from twinstep.errors import Refused
from twinstep.schedule.pulse import PULSE_BYTES, Pulse
from twinstep.schedule_settings import Schedule
from twinstep.transfer.channel import LoopbackChannel
from twinstep.transfer.flow import Flow
from twinstep.transfer.frame import Waits

STEP_S = 0.3
COMPUTE_S = 0.2
SETTINGS = Schedule(profile_steps=4, link_bytes_per_s=1e9, poll_s=0.001)
CHUNK = 512 * 1024
LOOKS = 5
WAIT_S = 20.0


class Stage:
    """A machine of one rank whose steps compute, and then communicate."""

    def __init__(self, settings: Schedule = SETTINGS, *, fed: bool = True) -> None:
        self.scene = Scene(machine="m0")
        self.worker = self.scene.worker
        self.scene.begins(scenes.begin())
        self.scene.captures(1)
        self.page = memoryview(bytearray(PULSE_BYTES))
        self.pulse = Pulse(self.page, threading.RLock())
        self.now_ns = time.monotonic_ns()
        self.pulse.feeds(fed, self.now_ns)
        self.pacing = Pacing(
            Job(machines=2, schedule=settings),
            self.worker,
            lambda: {0: self.page},
            Flow(),
        )
        self.step = 0

    def steps(self, count: int) -> list[object]:
        """So many steps have passed, the last of them just now."""
        plans: list[object] = []
        self.now_ns = time.monotonic_ns() - int(1e9 * STEP_S * count)
        self.pulse.step_begins(self.step, self.now_ns)
        for _ in range(count):
            token = self.pulse.starts(self.now_ns + int(1e9 * COMPUTE_S))
            self.now_ns += int(1e9 * STEP_S)
            self.pulse.ends(token, self.now_ns)
            self.step += 1
            self.pulse.step_begins(self.step, self.now_ns)
            plans.append(self.pacing.reached(0))
        return plans

    def turn(self, over: Callable[[], bool] = lambda: False, *, mends: bool = False):
        channel, _ = LoopbackChannel.pair()
        return self.pacing.turn(channel, size=10 * CHUNK, mends=mends, over=over)


def test_before_there_is_a_profile_chunks_go_at_once() -> None:
    stage = Stage()
    assert stage.steps(3) == [None, None, None]
    stage.pulse.starts(time.monotonic_ns())
    stage.turn()(CHUNK)


def test_a_plan_is_made_of_the_first_steps_and_told_once_a_round() -> None:
    stage = Stage()
    plans = stage.steps(4)
    assert plans[:3] == [None] * 3
    plan = stage.pacing.plan
    assert plan is not None and plans[3] is plan
    assert plan.profile.operations == 1
    (span,) = plan.profile.spans
    assert span.after == 0 and span.mean_s == pytest.approx(COMPUTE_S)
    assert stage.steps(3) == [None] * 3
    stage.pacing.begins()
    assert stage.steps(2) == [plan, None]


def test_a_chunk_waits_while_training_uses_the_network() -> None:
    stage = Stage()
    stage.steps(4)
    token = stage.pulse.starts(time.monotonic_ns())
    asked = threading.Semaphore(0)

    def over() -> bool:
        asked.release()
        return False

    turn = stage.turn(over)
    sent = Beside(lambda: turn(CHUNK))
    for _ in range(LOOKS):
        assert asked.acquire(timeout=WAIT_S)
    assert sent.running
    now_ns = time.monotonic_ns()
    stage.pulse.ends(token, now_ns)
    stage.pulse.step_begins(stage.step + 1, now_ns)
    sent.result()


def slept(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, moving: bool
) -> list[float]:
    """How long a chunk sleeps between looks while an operation is under way, which by
    the step before ends in a tenth of a second."""
    times_s: list[float] = []
    monkeypatch.setattr("twinstep.agent.pacing.time.sleep", times_s.append)
    monkeypatch.setattr(LoopbackChannel, "queued", lambda _: int(moving))
    turn = stage.turn(lambda: len(times_s) >= LOOKS)
    turn._is_moving = moving  # The chunk before is on its way.
    stage.pulse.starts(time.monotonic_ns())
    with pytest.raises(Refused):
        turn(CHUNK)
    return times_s


def test_it_looks_seldom_while_the_next_span_is_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    stage.steps(4)
    assert min(slept(stage, monkeypatch, moving=False)) > 5 * SETTINGS.poll_s


def test_it_looks_often_while_bytes_are_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the last of them is acknowledged tells what the link carries: looked for
    seldom, links were taken for slower than they are, and fewer steps were captured."""
    stage = Stage()
    stage.steps(4)
    assert max(slept(stage, monkeypatch, moving=True)) <= SETTINGS.poll_s


def test_a_chunk_that_waits_sees_that_it_is_to_stop() -> None:
    stage = Stage()
    stage.steps(4)
    stage.pulse.starts(time.monotonic_ns())
    stop = threading.Event()
    turn = stage.turn(stop.is_set)
    sent = Beside(lambda: turn(CHUNK))
    stop.set()
    with pytest.raises(Refused, match="while it waited for its turn"):
        sent.result()


def test_a_holder_hears_that_a_sender_waits() -> None:
    stage = Stage()
    stage.pacing.silent_s_max = 0.0
    stage.steps(4)
    stage.pulse.starts(time.monotonic_ns())
    channel, other = LoopbackChannel.pair()
    stop = threading.Event()
    turn = stage.pacing.turn(channel, size=CHUNK, mends=False, over=stop.is_set)
    sent = Beside(lambda: turn(CHUNK))
    assert other.receive() == (Waits(), 0)
    stop.set()
    with pytest.raises(Refused):
        sent.result()


@pytest.mark.parametrize("why", ["mends", "nobody tells", "off"])
def test_these_wait_for_nothing(why: str) -> None:
    settings = Schedule(mode="off") if why == "off" else SETTINGS
    stage = Stage(settings, fed=why != "nobody tells")
    stage.steps(4)
    stage.pulse.starts(time.monotonic_ns())
    turn = stage.turn(mends=why == "mends")
    turn(CHUNK)
    turn.done()


def test_what_was_let_go_is_remembered_with_its_span() -> None:
    stage = Stage()
    stage.steps(4)
    stage.pulse.step_begins(stage.step, time.monotonic_ns())
    turn = stage.turn()
    turn(CHUNK)
    turn.done()
    (chunk,) = stage.pacing.record.chunks
    assert (chunk.size, chunk.after) == (CHUNK, 0)
    assert stage.pacing.record.in_span_bytes == CHUNK


def test_copies_of_all_ranks_to_all_holders_are_planned_for() -> None:
    stage = Stage()
    stage.steps(4)
    plan = stage.pacing.plan
    assert plan is not None
    assert plan.copies_bytes == (scenes.SIZE,)
