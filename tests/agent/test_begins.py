"""A round begins once its plan is in the store, and an older one not at all."""

from __future__ import annotations

from twinstep.agent import messages as say
from twinstep.agent.begins import Begins


def begin(round: int) -> say.Begin:
    return say.Begin(
        round=round,
        term=1,
        step=0,
        captured_in=0,
        members=[],
        holders=[],
        sources={},
        sizes={},
        shared=False,
        master_port=1,
        may_share=True,
    )


def test_begin_waits_for_every_plan_that_is_on_its_way() -> None:
    begins, word = Begins(), begin(1)
    assert not begins.holds("m00", word), "nothing is on its way"
    begins.saves()
    begins.saves()
    assert begins.holds("m00", word) and begins.holds("m01", word)
    assert begins.saved() == []
    assert begins.saved() == [("m00", word), ("m01", word)]
    assert begins.waiting == []


def test_other_words_do_not_wait() -> None:
    begins = Begins()
    begins.saves()
    assert not begins.holds("m00", say.Stop(round=1, term=1, reason=""))


def test_of_two_rounds_only_the_newer_one_begins() -> None:
    begins, newer = Begins(), begin(2)
    begins.saves()
    begins.holds("m00", begin(1))
    begins.holds("m01", newer)
    assert begins.saved() == [("m01", newer)]
