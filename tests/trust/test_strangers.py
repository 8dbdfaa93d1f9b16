"""Who is dropped for whom, and what is written about it."""

from __future__ import annotations

from twinstep.trust.strangers import REASONS_MAX, Lines, Waiting, cut


def test_the_oldest_silent_one_makes_room() -> None:
    waiting = Waiting(strangers_max=3)
    assert [waiting.came(number) for number in (1, 2, 3)] == [None, None, None]
    waiting.spoke(1)
    assert waiting.came(4) == 2, "1 has spoken"
    assert waiting.came(5) == 3
    waiting.spoke(4)
    waiting.spoke(5)
    assert waiting.came(6) == 1, "all have spoken: the oldest"
    waiting.gone(4)
    assert waiting.came(7) is None


def test_a_flood_never_takes_more_than_its_room() -> None:
    waiting = Waiting(strangers_max=8)
    for number in range(10_000):
        waiting.came(number)
        waiting.spoke(number - 3)
        assert len(waiting.silent) + len(waiting.speaking) <= 8
    waiting.spoke(17)  # dropped long ago
    waiting.gone(17)
    assert len(waiting.silent) + len(waiting.speaking) == 8


def test_a_burst_of_lines_then_one_a_second_and_nobody_is_forgotten() -> None:
    lines = Lines(lines_max=3)
    said = [lines.say(f"p{n}", "wrong token", 100.0) for n in range(50)]
    assert [line for line in said if line] == [
        f"dropped p{n}: wrong token" for n in range(3)
    ]
    assert lines.rest(100.5) is None
    assert lines.rest(101.0) == "dropped more: 47 x wrong token"
    assert lines.rest(200.0) is None, "said once"
    assert lines.say("p", "again", 200.0) == "dropped p: again"


def test_what_is_counted_is_bounded() -> None:
    lines = Lines(lines_max=1)
    for number in range(1000):
        lines.say("p", f"reason {number}", 0.0)
    rest = lines.rest(10.0)
    assert rest is not None and "x other reasons" in rest
    assert rest.count(" x ") == REASONS_MAX + 1


def test_a_reason_is_one_short_line() -> None:
    assert cut("a\nb\x1b[31m") == "a?b?[31m"
    assert len(cut("x" * 10_000)) < 200
