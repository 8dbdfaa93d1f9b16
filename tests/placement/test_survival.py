"""The probabilities are the paper's where the paper is right, and exact elsewhere."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, strategies as st

from twinstep.config import STRATEGIES
from twinstep.errors import ConfigError
from twinstep.placement.strategy import Placement, place
from twinstep.placement.survival import (
    corollary_1,
    survival,
    survival_by_enumeration,
    survival_by_sampling,
    theorem_1_bound,
)

SMALL = [(n, m) for n in range(1, 11) for m in range(1, n + 1)]


def percent(probability: float, digits: int = 1) -> float:
    return round(100 * probability, digits)


@pytest.mark.parametrize(
    ("machines", "digits", "exact", "bound_4"),
    [
        (16, 1, (93.3, 80.0, 61.5), 60.0),  # k = 2 and 3 are printed, figure 9
        (32, 1, (96.8, 90.3, 81.0), 80.6),
        (64, 1, (98.4, 95.2, 90.6), 90.5),
        (128, 1, (99.2, 97.6, 95.3), 95.3),
        (1000, 2, (99.90, 99.70, 99.40), 99.40),
    ],
)
def test_group_of_two(
    machines: int, digits: int, exact: tuple[float, ...], bound_4: float
) -> None:
    placement = place(machines, copies=2, strategy="group")
    for lost, expected in zip((2, 3, 4), exact, strict=True):
        assert percent(survival(placement, lost=lost), digits) == expected
    assert percent(corollary_1(machines, copies=2, lost=4), digits) == bound_4


def printed_ring(machines: int, *, copies: int, lost: int) -> float:
    """What the paper's figure 9 and its notebook take for the ring."""
    fatal = machines * comb(machines - copies, lost - copies)
    return 1 - fatal / comb(machines, lost)


def test_ring_erratum() -> None:
    """Figure 9 has 60.0 % for the ring of 16 at k = 3, "25.0 % lower" than group.

    The printed form counts a choice that contains two neighbouring pairs twice. Of
    the 560 choices of three machines 208 contain a pair (16 three in a row, 192 a
    pair and one apart), so 352 lose nothing: 62.9 %, 21.4 % lower than group."""
    ring = place(16, copies=2, strategy="ring")
    group = place(16, copies=2, strategy="group")
    assert percent(survival(ring, lost=2)) == 86.7
    assert percent(printed_ring(16, copies=2, lost=2)) == 86.7

    assert survival(ring, lost=3) == 352 / 560
    assert percent(survival(ring, lost=3)) == 62.9
    assert percent(printed_ring(16, copies=2, lost=3)) == 60.0
    assert printed_ring(16, copies=2, lost=3) < survival_by_enumeration(ring, lost=3)
    assert percent(survival(ring, lost=4)) == 36.3

    lower = 1 - survival(ring, lost=3) / survival(group, lost=3)
    assert percent(lower) == 21.4
    assert percent(1 - printed_ring(16, copies=2, lost=3) / 0.8) == 25.0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_exact_is_what_enumeration_finds(
    machines: int, copies: int, strategy: str
) -> None:
    if strategy == "group" and machines % copies:
        return
    placement = place(machines, copies=copies, strategy=strategy)
    for lost in range(machines + 1):
        enumerated = survival_by_enumeration(placement, lost=lost)
        assert survival(placement, lost=lost) == enumerated, f"lost={lost}"


@given(
    domains=st.lists(st.sampled_from("abcdef"), min_size=6, max_size=12),
    copies=st.integers(2, 3),
    strategy=st.sampled_from(STRATEGIES),
    lost=st.integers(0, 6),
)
def test_the_order_that_domains_ask_for_changes_no_probability(
    domains: list[str], copies: int, strategy: str, lost: int
) -> None:
    try:
        placement = place(
            len(domains), copies=copies, strategy=strategy, domains=domains
        )
    except ConfigError:
        return
    plain = place(len(domains), copies=copies, strategy=strategy)
    exact = survival(placement, lost=lost)
    assert exact == survival(plain, lost=lost)
    assert exact == survival_by_enumeration(placement, lost=lost)


def group_by_inclusion_exclusion(machines: int, copies: int, lost: int) -> float:
    groups = machines // copies
    free = sum(
        (-1) ** j * comb(groups, j) * comb(machines - j * copies, lost - j * copies)
        for j in range(min(groups, lost // copies) + 1)
    )
    return free / comb(machines, lost)


@pytest.mark.parametrize(("machines", "copies"), [(64, 2), (60, 3), (1000, 2)])
def test_group_is_inclusion_exclusion_over_groups(machines: int, copies: int) -> None:
    placement = place(machines, copies=copies, strategy="group")
    for lost in (0, 1, 2, 5, 17, 40, machines // 2):
        expected = group_by_inclusion_exclusion(machines, copies, lost)
        assert survival(placement, lost=lost) == expected, f"lost={lost}"


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_corollary_1(machines: int, copies: int) -> None:
    """Section 4, equation 3: exact for k < 2 m, a lower bound from there on."""
    if machines % copies:
        return
    placement = place(machines, copies=copies, strategy="group")
    for lost in range(machines + 1):
        exact = survival(placement, lost=lost)
        given_by_paper = corollary_1(machines, copies=copies, lost=lost)
        if lost < 2 * copies:
            assert given_by_paper == pytest.approx(exact, abs=1e-12)
        else:
            assert given_by_paper <= exact + 1e-12


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_theorem_1(machines: int, copies: int) -> None:
    """Section 4 and appendix A: mixed is optimal where m divides N, else within
    (2 m - 3) / C(N, m) of the bound; "<" is printed, N mod m = m - 1 is equal."""
    mixed = survival(place(machines, copies=copies), lost=copies)
    gap = theorem_1_bound(machines, copies=copies) - mixed
    if machines % copies == 0:
        assert gap == pytest.approx(0, abs=1e-12)
    else:
        assert gap + 1e-12 >= 0
        assert gap <= (2 * copies - 3) / comb(machines, copies) + 1e-12


def test_the_gap_of_theorem_1_is_reached() -> None:
    """N mod m = m - 1, more than one group: the paper's "<" would fail here."""
    gap = theorem_1_bound(8, copies=3) - survival(place(8, copies=3), lost=3)
    assert gap == pytest.approx(3 / comb(8, 3))


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_tail_attains_the_bound(machines: int, copies: int) -> None:
    tail = place(machines, copies=copies, strategy="tail")
    bound = theorem_1_bound(machines, copies=copies)
    assert survival(tail, lost=copies) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize(
    ("machines", "copies", "tail", "mixed"),
    [(5, 2, 0.70, 0.60), (17, 2, 0.9338, 0.9265), (8, 3, 0.946, 0.893)],
)
def test_tail_beats_mixed(
    machines: int, copies: int, tail: float, mixed: float
) -> None:
    for strategy, expected in (("tail", tail), ("mixed", mixed)):
        placement = place(machines, copies=copies, strategy=strategy)
        assert survival(placement, lost=copies) == pytest.approx(expected, abs=5e-4)


def given_placement(*holders: tuple[int, ...]) -> Placement:
    return Placement(strategy="given", copies=len(holders[0]), holders=holders)


def test_an_assignment_of_ones_own_is_counted_too() -> None:
    star = given_placement((0, 1), (1, 0), (2, 0), (3, 0), (4, 0))
    for lost in range(6):
        enumerated = survival_by_enumeration(star, lost=lost)
        assert survival(star, lost=lost) == enumerated


@pytest.mark.parametrize(
    "holders",
    [
        ((0, 1, 3), (1, 2, 0), (2, 3, 1), (3, 4, 1), (4, 0, 3)),  # other thirds
        ((0, 1, 2), (1, 0, 2), (2, 3, 0), (3, 2, 0)),  # two circles, bound together
        # A circle of half of them, that the others lean on.
        ((0, 1), (1, 2), (2, 0), (3, 0), (4, 0), (5, 0)),
    ],
)
def test_holders_that_only_look_like_a_ring_are_not_counted_as_one(
    holders: tuple[tuple[int, ...], ...],
) -> None:
    twisted = given_placement(*holders)
    for lost in range(len(holders) + 1):
        enumerated = survival_by_enumeration(twisted, lost=lost)
        assert survival(twisted, lost=lost) == enumerated


def test_what_cannot_be_counted_says_so() -> None:
    machines = 20
    jumps = given_placement(
        *((i, (i + 1) % machines, (i + 5) % machines) for i in range(machines))
    )
    with pytest.raises(ConfigError, match="20 sets of holders .*survival_by_sampling"):
        survival(jumps, lost=3)
    with pytest.raises(ConfigError, match="15504 ways .*use survival_by_sampling"):
        survival_by_enumeration(jumps, lost=5, choices_max=1000)
    with pytest.raises(ConfigError, match=r"lost \(21\) must be between 0 and"):
        survival(jumps, lost=21)
    estimate = survival_by_sampling(
        jumps, lost=5, samples=4000, generator=np.random.default_rng(1)
    )
    exact = survival_by_enumeration(jumps, lost=5)
    assert estimate.low <= exact <= estimate.high


def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    placement = place(17, copies=2, strategy="tail")
    for lost in (2, 3, 6):
        exact = survival(placement, lost=lost)
        inside = 0
        for _ in range(200):
            found = survival_by_sampling(
                placement, lost=lost, samples=300, generator=generator
            )
            inside += found.low <= exact <= found.high
        assert 180 <= inside <= 199, f"lost={lost}: {inside} of 200"


def test_a_certain_survival_keeps_an_interval() -> None:
    estimate = survival_by_sampling(
        place(16, copies=2),
        lost=1,
        samples=100,
        generator=np.random.default_rng(0),
    )
    assert estimate.probability == estimate.high == 1.0
    assert 0.95 < estimate.low < 1.0


def test_ten_thousand_machines_are_counted() -> None:
    for strategy in ("ring", "tail"):
        placement = place(10_001, copies=2, strategy=strategy)
        assert 0.999 < survival(placement, lost=3) < 1
