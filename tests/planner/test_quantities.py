"""Amounts as people write them."""

from __future__ import annotations

import pytest

from twinstep.errors import ConfigError
from twinstep.planner import quantities as q


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("62", 62),
        ("90s", 90),
        ("8 min", 480),
        ("3h", 10_800),
        ("7.5d", 648_000),
        ("1_000ms", 1),
        (".5h", 1800),
        ("1e3", 1000),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert q.duration_s(text, option="--x") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("400Gbps", 50e9),
        ("20 Gbit/s", 2.5e9),
        ("2.5GB/s", 2.5e9),
        ("1GiB/s", 2**30),
        ("1.6Tbps", 200e9),
    ],
)
def test_speeds_are_bits_or_bytes_as_written(text: str, speed: float) -> None:
    assert q.speed_bytes_per_s(text, option="--x") == pytest.approx(speed)


@pytest.mark.parametrize(
    ("text", "number"), [("100e9", 1e11), ("530B", 5.3e11), ("70M", 7e7), ("7", 7)]
)
def test_counts(text: str, number: float) -> None:
    assert q.count(text, option="--x") == pytest.approx(number)


def test_sizes() -> None:
    assert q.size_bytes("1152GiB", option="--x") == 1152 * 2**30
    assert q.size_bytes("75GB", option="--x") == 75e9


@pytest.mark.parametrize(
    ("text", "of_1000_a_day"),
    [
        ("1.5%/day", 15),
        ("0.015/machine/day", 15),
        ("15/day", 15),
        ("every 3h", 8),
        ("7%/week", 10),
        ("0/day", 0),
    ],
)
def test_failures_are_of_each_machine_or_of_the_job(
    text: str, of_1000_a_day: float
) -> None:
    rate = q.failure_rate(text, option="--failures")
    assert rate.per_machine_day(1000) * 1000 == pytest.approx(of_1000_a_day)
    # Twice the machines: twice as many of a rate of each, as many of the job's.
    twice = 2 if "%" in text or "machine" in text else 1
    assert rate.per_machine_day(2000) * 2000 == pytest.approx(twice * of_1000_a_day)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (q.speed_bytes_per_s, "400"),
        (q.speed_bytes_per_s, "400gbps"),
        (q.speed_bytes_per_s, "-400Gbps"),
        (q.speed_bytes_per_s, "fast"),
        (q.speed_bytes_per_s, ""),
        (q.duration_s, "3 fortnights"),
        (q.duration_s, "nan"),
        (q.size_bytes, "75Gb"),
        (q.count, "100e"),
        (q.failure_rate, "1.5%"),
        (q.failure_rate, "1.5"),
        (q.failure_rate, "often"),
        (q.failure_rate, "every 0s"),
        (q.failure_rate, "5/machine"),
    ],
)
def test_what_is_no_amount_is_named_with_what_would_be(call: object, text: str) -> None:
    assert callable(call)
    with pytest.raises(ConfigError) as refused:
        call(text, option="--network")
    assert "--network" in str(refused.value)
    assert repr(text) in str(refused.value) or "0s" in text
    assert "as in" in str(refused.value)


def test_an_amount_that_ends_arithmetic_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        q.count("1e400", option="--parameters")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.05, "50 ms"), (62, "62 s"), (480, "8 min"), (10800, "3 h"), (9e5, "10.4 days")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert q.in_words_s(seconds) == words


def test_speeds_and_sizes_in_words() -> None:
    assert q.in_words_speed(50e9) == "400 Gbit/s"
    assert q.in_words_bytes(9.375e9) == "9.38 GB"
    assert q.in_words_bytes(12) == "12 B"
