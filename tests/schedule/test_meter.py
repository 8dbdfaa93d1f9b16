"""The link's rate is that of the time in which it had something to carry."""

from __future__ import annotations

from twinstep.schedule.meter import WINDOW_BYTES, Meter


def test_time_in_which_everybody_waits_does_not_count() -> None:
    meter = Meter()
    for number in range(4):  # a quarter of a second each, ten seconds apart
        meter.begins(10.0 * number)
        meter.rests(10.0 * number + 0.25, WINDOW_BYTES // 4)
    assert meter.bytes_per_s == WINDOW_BYTES


def test_copies_at_the_same_time_share_one_link() -> None:
    meter = Meter()
    meter.begins(0.0)
    meter.begins(0.0)
    meter.rests(2.0, WINDOW_BYTES)
    meter.rests(2.0, WINDOW_BYTES)
    assert meter.bytes_per_s == WINDOW_BYTES


def test_little_says_nothing_of_the_rate() -> None:
    meter = Meter()
    meter.begins(0.0)
    meter.rests(1e-6, WINDOW_BYTES // 2)
    assert meter.bytes_per_s == 0.0


def test_what_training_took_of_the_link_is_not_taken_off() -> None:
    meter = Meter()
    for began_s, took_s in ((0.0, 1.0), (5.0, 4.0)):
        meter.begins(began_s)
        meter.rests(began_s + took_s, WINDOW_BYTES)
    assert meter.bytes_per_s == WINDOW_BYTES


def test_a_piece_takes_half_the_shortest_way_there_and_back() -> None:
    meter = Meter()
    for seconds in (0.004, 0.002, 0.1):
        meter.answered(seconds)
    assert meter.startup_s == 0.001
