"""What fails how often, and what the loss of machines loses."""

from __future__ import annotations

import pytest

from twinstep.errors import ConfigError
from twinstep.placement.strategy import place
from twinstep.placement.survival import survival
from twinstep.planner.failures import (
    Domain,
    Failures,
    chance_lost,
    loss_free,
    read_trace,
)


@pytest.mark.parametrize(
    ("machines", "copies"), [(16, 2), (17, 2), (12, 3), (14, 3), (5, 5), (4, 1), (3, 2)]
)
def test_the_shares_are_those_of_the_mixed_placement(
    machines: int, copies: int
) -> None:
    """GEMINI, Algorithm 1: exactly what placement/survival.py counts."""
    placement = place(machines, copies=copies, strategy="mixed")
    shares = loss_free(machines, copies=copies)
    assert len(shares) == machines + 1
    for lost, share in enumerate(shares):
        assert share == pytest.approx(survival(placement, lost=lost)), lost


def test_a_hundred_thousand_machines_need_no_placement() -> None:
    shares = loss_free(100_000, copies=2)
    # The j-th must not be the neighbour of one of those before.
    expected = 1.0
    for lost, share in enumerate(shares[:10]):
        assert share == pytest.approx(expected)
        expected *= (100_000 - 2 * lost) / (100_000 - lost)


def test_one_more_machine_completes_a_pair_of_those_that_are_gone() -> None:
    shares = loss_free(100, copies=2)
    for down in range(5):
        chance = chance_lost(shares, down=down, more=1)
        assert chance == pytest.approx(down / (100 - down))


def test_a_domain_loses_what_placement_did_not_keep_apart() -> None:
    shares = loss_free(100, copies=2)
    assert chance_lost(shares, down=0, more=10) == 0
    assert chance_lost(shares, down=0, more=10, apart=False) == 1
    assert chance_lost(shares, down=1, more=10) > 0
    assert chance_lost(shares, down=3, more=0) == 0
    assert chance_lost(loss_free(4, copies=1), down=0, more=1) == 1


def test_rates_add_up() -> None:
    failures = Failures(
        process_per_machine_day=0.01,
        machine_per_machine_day=0.02,
        domains=(Domain(name="rack", machines=10, per_day=0.1),),
    )
    # 1 and 2 of 100 machines, and a tenth of ten racks.
    assert failures.per_day(100) == pytest.approx(1 + 2 + 1)
    assert [kind[:2] for kind in failures.rates_per_s(100)] == [
        ("process", 0),
        ("machine", 1),
        ("machine", 10),
    ]
    assert failures.rates_per_s(4)[2][1] == 4  # A job smaller than a rack.


def test_a_trace_is_read() -> None:
    text = b'{"at_s": 5}\n\n{"at_s": 9.5, "cause": "process"}\n'
    first, second = read_trace(text, option="--trace")
    assert (first.at_s, first.cause, first.machines) == (5, "machine", 1)
    assert second.cause == "process"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"at_s": 5}\n{"at_s": 4}', "line 2: at_s .4. must be at least .* .5."),
        (b'{"at_s": -1}', "line 1"),
        (b'{"at_s": 1, "cause": "fire"}', "line 1"),
        (b'{"at_s": 1, "machines": 0}', "machines .0. at least 1"),
        (b'{"at": 1}', "line 1"),
        (b"5\n", "line 1"),
        (b"\n", "has no failure in it"),
        (b'{"at_s": 1e999}', "line 1"),
    ],
)
def test_a_trace_that_makes_no_sense_is_named_by_line(text: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_trace(text, option="--trace")


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ConfigError, match="machine_per_machine_day is -1"):
        Failures(machine_per_machine_day=-1)
    with pytest.raises(ConfigError, match="domain rack"):
        Domain(name="rack", machines=0, per_day=1)
