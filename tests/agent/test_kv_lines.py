"""A late answer on one connection is an early one on another."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from twinstep.agent.kv import Done, Renew, Request
from twinstep.agent.kv_lines import LINES_MAX, Lines
from twinstep.errors import DeadlinePassed, Refused

RENEW = Renew(lease=7)
ANSWER = Done(done=True, revision=1)


class Wire:
    """A line that answers as soon as it may."""

    def __init__(self, *, open: bool = True, error: Exception | None = None) -> None:
        self.may = threading.Event()
        self.calls, self.closed, self._error = 0, False, error
        if open:
            self.may.set()

    def call(self, request: Request) -> Any:
        assert request is RENEW
        self.calls += 1
        assert self.may.wait(10)
        if self._error is not None:
            raise self._error
        return ANSWER

    def close(self) -> None:
        self.closed = True
        self.may.set()


def lines_of(*wires: Wire) -> Lines:
    left = list(wires)
    return Lines(lambda: left.pop(0))


def test_a_link_that_loses_nothing_has_one_connection() -> None:
    wire = Wire()
    lines = lines_of(wire)
    for _ in range(20):
        assert lines.call(RENEW, call_s_max=5.0) is ANSWER
    assert wire.calls == 20
    lines.close()


def test_a_silent_connection_has_company_and_is_used_again() -> None:
    first, second = Wire(open=False), Wire()
    rest = [Wire(open=False) for _ in range(LINES_MAX - 2)]
    lines = lines_of(first, second, *rest)
    assert lines.call(RENEW, call_s_max=5.0) is ANSWER
    assert lines.call(RENEW, call_s_max=5.0) is ANSWER
    assert (first.calls, second.calls) == (1, 2)
    second.may.clear()
    first.may.set()  # its late answer comes, and it is free again
    assert lines.call(RENEW, call_s_max=5.0) is ANSWER
    assert first.calls == 2
    lines.close()


def test_what_the_store_refuses_is_not_asked_for_again() -> None:
    lines = lines_of(Wire(error=Refused("no such lease")))
    with pytest.raises(Refused, match="no such lease"):
        lines.call(RENEW, call_s_max=5.0)
    lines.close()


def test_a_broken_connection_is_not_the_end() -> None:
    lines = lines_of(Wire(error=DeadlinePassed("broken")), Wire())
    assert lines.call(RENEW, call_s_max=5.0) is ANSWER
    lines.close()


def test_silence_everywhere_ends_by_the_deadline() -> None:
    wires = [Wire(open=False) for _ in range(LINES_MAX)]
    lines = lines_of(*wires)
    began_s = time.monotonic()
    with pytest.raises(DeadlinePassed, match="no answer on any of 3"):
        lines.call(RENEW, call_s_max=0.3)
    assert 0.3 <= time.monotonic() - began_s < 3
    lines.close()
    assert [wire.closed for wire in wires] == [True] * 3 + [False] * (LINES_MAX - 3)
