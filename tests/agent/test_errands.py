"""An operator that takes long, or fails, holds up nobody, and hears the root only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from twinstep.agent.errands import Errands
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.config import Timing
from twinstep.errors import DeadlinePassed

WAIT_S = 10.0


def until(true: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until_s, f"waited {WAIT_S} s for {what}"
        threading.Event().wait(0.01)


@dataclass
class Cloud:
    """An operator whose calls wait until they may go on."""

    open: threading.Event = field(default_factory=threading.Event)
    failures: int = 0
    asked: list[str] = field(default_factory=list[str])
    returned: list[str] = field(default_factory=list[str])
    given: dict[str, Machine] = field(default_factory=dict[str, Machine])

    def ask(self, request: str, *, reason: str) -> None:
        assert self.open.wait(WAIT_S)
        if self.failures:
            self.failures -= 1
            raise DeadlinePassed("the cloud did not answer")
        self.asked.append(request)

    def answer(self, request: str) -> Answer | None:
        machine = self.given.get(request)
        return Answer(machine=machine.name) if machine else None

    def give_back(self, machine: str, *, reason: str) -> None:
        self.returned.append(machine)

    def machines(self) -> list[Machine]:
        return list(self.given.values())


class Office:
    """Errands, and what it said."""

    def __init__(self, cloud: Cloud) -> None:
        self.root = True
        self.answers: list[tuple[str, str, str]] = []
        self.ended: list[str] = []
        self.said: list[str] = []
        self.errands = Errands(
            cloud,
            timing=Timing(operator_s_max=0.05),
            may=lambda: self.root,
            on_answer=lambda *said: self.answers.append(said),
            on_ended=lambda machine, _reason: self.ended.append(machine),
            log=self.said.append,
        )


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def office(cloud: Cloud) -> Iterator[Office]:
    made = Office(cloud)
    yield made
    cloud.open.set()
    made.errands.close(WAIT_S)


def test_a_call_that_takes_long_is_named_and_waited_for_by_nobody(
    cloud: Cloud, office: Office
) -> None:
    started_s = time.monotonic()
    for _ in range(1000):
        office.errands.ask("for-m1", reason="lost")
        office.errands.give_back("m1", reason="lost")
    assert time.monotonic() - started_s < 1.0
    until(lambda: office.errands.tick() or office.said, "the slow call to be named")
    assert "takes 0 s and more: request for-m1" in office.said[0]
    cloud.open.set()
    until(lambda: cloud.returned, "the return")
    assert len(cloud.asked) <= 2 and len(cloud.returned) == 1, "what waits is bounded"


def test_a_call_that_failed_is_made_again(cloud: Cloud, office: Office) -> None:
    cloud.open.set()
    cloud.failures = 2
    office.errands.ask("for-m1", reason="lost")
    until(lambda: cloud.asked == ["for-m1"], "the third attempt")
    assert len(office.said) == 1 and "did not answer" in office.said[0]


def test_who_is_no_longer_root_tells_the_operator_nothing(
    cloud: Cloud, office: Office
) -> None:
    cloud.open.set()
    office.root = False
    office.errands.give_back("m1", reason="its lease lapsed, long ago")
    until(lambda: office.said, "the refusal")
    assert "another is root" in office.said[0]
    assert cloud.returned == []


def test_answers_and_early_ends_are_told_once(cloud: Cloud, office: Office) -> None:
    cloud.open.set()
    office.errands.ask("for-m1", reason="lost")
    cloud.given["for-m1"] = Machine(name="a", state=LIVING)
    until(lambda: office.answers, "the answer")
    cloud.given["for-m1"] = Machine(name="a", state=ENDED)
    until(lambda: office.ended, "the end")
    threading.Event().wait(0.6)  # it would have looked once more
    assert office.answers == [("for-m1", "a", "")] and office.ended == ["a"]
