"""What a root writes: in order, as root only, and again when no answer came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from twinstep.agent.census import ROOT
from twinstep.agent.kv import Compare, Operation, Put
from twinstep.agent.kv_server import Embedded
from twinstep.agent.scribe import Scribe
from twinstep.errors import DeadlinePassed

WAIT_S = 10.0


class Slow:
    """A store whose transactions get lost on the way, or arrive much later."""

    def __init__(self) -> None:
        self.store = Embedded()
        self.lost = 0
        self.under_way: list[Callable[[], Any]] = []
        self.values: list[bytes] = []

    def get(self, prefix: str) -> Any:
        return self.store.get(prefix)

    def transact(
        self, operations: Sequence[Operation], *, when: Sequence[Compare] = ()
    ) -> tuple[bool, int]:
        if self.lost:
            self.lost -= 1
            self.under_way.append(lambda: self.store.transact(operations, when=when))
            raise DeadlinePassed("no answer; it may have been done")
        for operation in operations:
            assert isinstance(operation, Put)
            self.values.append(operation.value)
        return self.store.transact(operations, when=when)

    def value(self, key: str) -> bytes | None:
        item = self.store.get(key)[1].get(key)
        return item.value if item else None


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.store.close()


def scribe(slow: Slow, said: list[str]) -> tuple[Scribe, int]:
    """A scribe of the present root, and the revision of the root's key."""
    _, created = slow.store.transact([Put(key=ROOT, value=b"me")])
    store: Any = slow
    return Scribe(store, pause_s=0.01, note=said.append), created


def until(true: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until_s, f"waited {WAIT_S} s for {what}"
        threading.Event().wait(0.005)


def test_a_write_without_an_answer_is_made_again(slow: Slow) -> None:
    said: list[str] = []
    writes, created = scribe(slow, said)
    slow.lost = 3
    writes.save("plan", b"1", created=created)
    until(lambda: slow.value("plan") == b"1", "the plan")
    assert len(said) == 1 and "plan waits to be written" in said[0]
    writes.close(WAIT_S)


def test_one_that_arrives_late_does_not_undo_a_later_one(slow: Slow) -> None:
    writes, created = scribe(slow, [])
    slow.lost = 1
    writes.save("plan", b"1", created=created)
    until(lambda: slow.value("plan") == b"1", "the first plan")
    writes.save("plan", b"2", created=created)
    until(lambda: slow.value("plan") == b"2", "the second plan")
    for late in slow.under_way:
        assert late()[0] is False
    assert slow.value("plan") == b"2"
    writes.close(WAIT_S)


def test_while_the_store_is_away_one_value_of_each_key_waits(slow: Slow) -> None:
    writes, created = scribe(slow, [])
    slow.lost = 10**9
    for number in range(1000):
        writes.save("status", b"%d" % number, created=created)
        writes.save("plan", b"%d" % number, created=created)
    slow.lost = 0
    until(lambda: slow.value("plan") == b"999", "the last plan")
    until(lambda: slow.value("status") == b"999", "the last status")
    assert len(slow.values) <= 4, "the others were never sent"
    writes.close(WAIT_S)


def test_a_root_that_is_none_any_more_writes_nothing(slow: Slow) -> None:
    said: list[str] = []
    writes, created = scribe(slow, said)
    slow.store.transact([Put(key="plan", value=b"of the next root")])
    slow.store.transact([Put(key=ROOT, value=b"me")])  # the same key, put again
    writes.save("plan", b"mine", created=created + 2)
    until(lambda: said, "the refusal")
    assert said == ["plan was not written: another machine is root"]
    assert slow.value("plan") == b"of the next root"
    writes.close(WAIT_S)


def test_the_last_words_are_written_before_it_ends(slow: Slow) -> None:
    writes, created = scribe(slow, [])
    slow.lost = 2
    writes.save("result", b"0", created=created)
    writes.close(WAIT_S)
    assert slow.value("result") == b"0"
    writes.save("result", b"1", created=created)
    assert slow.value("result") == b"0"


def test_it_ends_in_time_though_the_store_is_away(slow: Slow) -> None:
    writes, created = scribe(slow, [])
    slow.lost = 10**9
    writes.save("result", b"0", created=created)
    started_s = time.monotonic()
    writes.close(0.2)
    assert time.monotonic() - started_s < 2.0


def test_who_saves_is_told_once_it_is_written_or_a_newer_value_is(slow: Slow) -> None:
    told: list[str] = []
    writes, created = scribe(slow, [])
    slow.lost = 10**9
    for name in ("one", "two"):
        then = partial(told.append, name)
        writes.save("plan", name.encode(), created=created, then=then)
    until(lambda: slow.under_way, "a first attempt")
    assert told == []
    slow.lost = 0
    until(lambda: len(told) == 2, "both words")
    assert sorted(told) == ["one", "two"]
    assert slow.value("plan") == b"two"
    writes.close(WAIT_S)
