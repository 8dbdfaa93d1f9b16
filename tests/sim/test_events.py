"""Simulated time: order, chance, and processes that wait."""

from __future__ import annotations

from random import Random

from twinstep.sim.events import Events, Process


def new() -> Events:
    return Events(random=Random(1))


def test_what_was_planned_first_comes_first() -> None:
    events, seen = new(), list[str]()
    events.after(0.2, seen.append, "late")
    events.after(0.1, seen.append, "one")
    events.after(0.1, seen.append, "two")
    for _ in range(3):
        events.next()
    assert seen == ["one", "two", "late"]
    assert events.now_s == 0.2


def test_a_process_sleeps_and_waits() -> None:
    events, seen = new(), list[object]()
    ready = events.signal()

    def process() -> Process:
        seen.append("begun")
        yield 1.0
        seen.append(events.now_s)
        yield ready
        seen.append("woken")

    events.start(process())
    assert seen == ["begun"]
    events.next()
    assert seen == ["begun", 1.0]
    ready.set()
    events.next()
    assert seen[-1] == "woken"


def test_a_process_that_was_ended_or_sleeps_does_nothing() -> None:
    events, seen = new(), list[str]()
    asleep_until_s = 5.0

    def process() -> Process:
        while True:
            yield 1.0
            seen.append("ran")

    ended = events.start(process())
    ended.end()
    events.start(process(), lambda: asleep_until_s - events.now_s)
    while events.now_s < 4.9:
        events.next()
    assert seen == []
    assert events.now_s == asleep_until_s
    events.next()
    assert seen == ["ran"]


def test_a_probe_counts_and_passes_its_condition_on() -> None:
    events = new()
    assert events.probe("rare", True) and not events.probe("rare", False)
    assert events.probes["rare"] == 1
