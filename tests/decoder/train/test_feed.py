"""Batches come once each, in order, few ahead, and errors come with them."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from twinstep.decoder.train.feed import Feed
from twinstep.errors import DeadlinePassed


class Counted:
    def __init__(self, fails_at: int = -1) -> None:
        self.made: list[int] = []
        self.enough = threading.Event()
        self.fails_at = fails_at

    def __getitem__(self, k: int) -> int:
        if k == self.fails_at:
            raise ValueError(f"no batch {k}")
        self.made.append(k)
        if len(self.made) == 3:
            self.enough.set()
        return k


def test_batches_come_in_order_and_are_placed() -> None:
    with closing(Feed(Counted(), start=3, stop=8, place=lambda k: k * 10)) as feed:
        assert [feed.take() for _ in range(5)] == [30, 40, 50, 60, 70]


def test_few_are_made_ahead() -> None:
    source = Counted()
    feed = Feed(source, start=0, stop=100, ahead=2)
    assert source.enough.wait(10)
    feed.close()
    assert len(source.made) == 3, "two ready, and one in the thread's hand"


def test_an_error_comes_where_its_batch_would() -> None:
    with closing(Feed(Counted(fails_at=1), start=0, stop=9)) as feed:
        assert feed.take() == 0
        with pytest.raises(ValueError, match="no batch 1"):
            feed.take()
    feed.close()


class Hanging:
    def __init__(self) -> None:
        self.end = threading.Event()

    def __getitem__(self, k: int) -> int:
        if k == 5:
            self.end.wait(30)
        return k


def test_reading_that_hangs_is_named_and_holds_nobody() -> None:
    source = Hanging()
    feed = Feed(source, start=4, stop=9, wait_s_max=0.1)
    assert feed.take() == 4
    with pytest.raises(DeadlinePassed, match="batch 5 is not there after 0.1 s"):
        feed.take()
    feed.close()
    source.end.set()
