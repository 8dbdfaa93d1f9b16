"""Every strategy names the holders the paper names, and keeps domains apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations, product
from math import ceil

import pytest
from hypothesis import given, strategies as st

from twinstep.config import STRATEGIES
from twinstep.errors import ConfigError
from twinstep.placement.strategy import Placement, place

SMALL = [(n, m) for n in range(1, 13) for m in range(1, n + 1)]


def test_group_holds_in_disjoint_groups() -> None:
    """Section 4, "group": everyone broadcasts to the others of its group."""
    placement = place(6, copies=3, strategy="group")
    assert placement.holders == (
        (0, 1, 2),
        (1, 2, 0),
        (2, 0, 1),
        (3, 4, 5),
        (4, 5, 3),
        (5, 3, 4),
    )
    assert placement.sets() == ((0, 1, 2), (3, 4, 5))


def test_ring_holds_on_the_next_machines() -> None:
    """Section 4, "ring": everyone sends to the consecutive m - 1 machines."""
    placement = place(4, copies=3, strategy="ring")
    assert placement.holders == ((0, 1, 2), (1, 2, 3), (2, 3, 0), (3, 0, 1))
    assert placement.held_by(0) == (2, 3)


def algorithm_1(machines: int, copies: int) -> tuple[list[list[int]], str]:
    """Algorithm 1 of the paper as printed, machines counted from 1."""
    groups: list[list[int]] = []
    strategy = "group"
    g = machines // copies
    for i in range(g):
        groups.append([copies * i + j for j in range(1, copies + 1)])
    if machines % copies != 0:
        strategy = "mixed"
        groups[-1] += list(range(g * copies + 1, machines + 1))
    return groups, strategy


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_mixed_is_algorithm_1(machines: int, copies: int) -> None:
    groups, strategy = algorithm_1(machines, copies)
    holders: dict[int, tuple[int, ...]] = {}
    for group in groups:
        is_ring = strategy == "mixed" and group is groups[-1]
        for i, owner in enumerate(group):
            others = [group[(i + j) % len(group)] for j in range(copies)]
            holders[owner - 1] = tuple(sorted(n - 1 for n in others))
            assert is_ring or len(group) == copies
    placement = place(machines, copies=copies, strategy="mixed")
    for owner in range(machines):
        assert tuple(sorted(placement.holders_of(owner))) == holders[owner]


def test_mixed_for_seventeen_machines() -> None:
    placement = place(17, copies=2)
    assert placement.strategy == "mixed"
    assert placement.sets()[:7] == tuple((2 * i, 2 * i + 1) for i in range(7))
    assert placement.sets()[7:] == ((14, 15), (14, 16), (15, 16))


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_tail_has_as_few_sets_as_cover_all_machines(machines: int, copies: int) -> None:
    placement = place(machines, copies=copies, strategy="tail")
    assert len(placement.sets()) == ceil(machines / copies)
    rest = machines % copies
    # The price: who lends itself to the leftovers holds theirs on top of its own.
    most = max(len(placement.held_by(machine)) for machine in range(machines))
    assert most == copies - 1 + rest


@pytest.mark.parametrize("strategy", ["group", "ring", "mixed"])
def test_others_share_the_traffic_equally(strategy: str) -> None:
    for machines, copies in SMALL:
        if strategy == "group" and machines % copies:
            continue
        placement = place(machines, copies=copies, strategy=strategy)
        held = {len(placement.held_by(machine)) for machine in range(machines)}
        assert held == {copies - 1}, f"{strategy} {machines} {copies}"


@pytest.mark.parametrize(("machines", "copies"), SMALL)
def test_held_by_is_the_inverse_of_holders_of(machines: int, copies: int) -> None:
    placement = place(machines, copies=copies, strategy="tail")
    for owner, holder in product(range(machines), repeat=2):
        holds = holder != owner and holder in placement.holders_of(owner)
        assert (owner in placement.held_by(holder)) == holds


def test_drawing() -> None:
    drawn = place(5, copies=2, strategy="tail", domains="abcab").draw()
    assert drawn.splitlines() == [
        "tail: 5 machines, 2 copies",
        "   0 1 2 3 4",
        " 0 o x . . .   a",
        " 1 x o . . .   b",
        " 2 . . o x .   c",
        " 3 . . x o .   a",
        " 4 . . . x o   b",
        "sets {0 1} {2 3} {3 4}",
    ]


def test_a_wide_drawing_lists_sets() -> None:
    assert place(64, copies=2).draw().startswith("mixed: 64 machines, 2 copies\nsets {")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"machines": 8, "copies": 3, "strategy": "group"},
            r"copies \(3\) must divide machines \(8\).*use 2 or 4, or strategy='mixed'",
        ),
        (
            {"machines": 7, "copies": 2, "strategy": "group"},
            r"use 7, or strategy='mixed'",
        ),
        ({"machines": 2, "copies": 3}, r"copies \(3\) must be between 1 and machines"),
        ({"machines": 2, "copies": 0}, r"copies \(0\) must be between 1 and machines"),
        (
            {"machines": 2, "copies": 1, "strategy": "star"},
            r"'star'; use one of group, ring, mixed, tail",
        ),
        (
            {"machines": 3, "copies": 1, "domains": ["a"]},
            r"names 1 machines, but machines is 3",
        ),
        (
            {"machines": 8, "copies": 2, "domains": "aaaaabcd"},
            r"domain 'a' has 5 of 8 machines; .* at most 4 may share one",
        ),
        (
            {"machines": 7, "copies": 2, "domains": "aaabbba"},
            r"domain 'a' has 4 of 7 machines; .* at most 3 may share one",
        ),
        (
            {"machines": 5, "copies": 2, "domains": "aabbb", "strategy": "ring"},
            r"domain 'b' has 3 of 5 machines; .* at most 2 may share one.*; "
            r"use strategy='tail', fewer copies",
        ),
        (
            {"machines": 8, "copies": 3, "domains": "aabbccdd"},
            r"the last 5 of 8 machines form a ring .* there are 4 domains; use "
            r"strategy='tail' or 'ring'",
        ),
        (
            {"machines": 7, "copies": 3, "domains": "aaabbbc", "strategy": "tail"},
            r"domains 'a', 'b' have 3 of 7 machines each; .* only 1 of them",
        ),
    ],
)
def test_what_cannot_be_placed_says_why_and_the_way_out(
    arguments: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        place(arguments.pop("machines"), **arguments)  # type: ignore[arg-type]


def assert_apart(placement: Placement, domains: Sequence[str]) -> None:
    for owner in range(placement.machines):
        of = Counter(domains[machine] for machine in placement.holders_of(owner))
        assert max(of.values()) == 1, f"shards of {owner}: {of}\n{placement.draw()}"


@given(
    domains=st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40),
    copies=st.integers(1, 6),
    strategy=st.sampled_from(STRATEGIES),
)
def test_no_two_holders_share_a_domain_or_it_says_why(
    domains: list[str], copies: int, strategy: str
) -> None:
    try:
        placement = place(
            len(domains), copies=copies, strategy=strategy, domains=domains
        )
    except ConfigError:  # that it is right to is tested for small numbers below
        return
    assert_apart(placement, domains)
    plain = place(len(domains), copies=copies, strategy=strategy)
    assert len(placement.sets()) == len(plain.sets())


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=12),
    copies=st.integers(2, 4),
    data=st.data(),
)
def test_ring_never_refuses_domains_of_at_most_a_turn(
    sizes: list[int], copies: int, data: st.DataObject
) -> None:
    largest = sum(sizes) // copies
    names = [chr(97 + i) * min(size, largest) for i, size in enumerate(sizes)]
    domains = data.draw(st.permutations("".join(names)))
    if max(Counter(domains).values()) <= len(domains) // copies:
        placement = place(len(domains), copies=copies, strategy="ring", domains=domains)
        assert_apart(placement, domains)


def partitions(total: int, largest: int) -> list[list[int]]:
    if total == 0:
        return [[]]
    return [
        [first, *rest]
        for first in range(min(total, largest), 0, -1)
        for rest in partitions(total - first, first)
    ]


def any_order_keeps_apart(plain: Placement, domains: Sequence[str]) -> bool:
    return any(
        all(len({order[i] for i in one}) == len(one) for one in plain.sets())
        for order in set(permutations(domains))
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_refusal_means_that_no_order_does_it(strategy: str) -> None:
    """Against every order of every division of up to seven machines into domains."""
    refused = 0
    for machines in range(1, 8):
        for sizes in partitions(machines, machines):
            domains = "".join(chr(97 + i) * size for i, size in enumerate(sizes))
            for copies in range(1, machines + 1):
                if strategy == "group" and machines % copies:
                    continue
                plain = place(machines, copies=copies, strategy=strategy)
                possible = any_order_keeps_apart(plain, domains)
                try:
                    placement = place(
                        machines, copies=copies, strategy=strategy, domains=domains
                    )
                except ConfigError:
                    assert not possible, f"{strategy} {copies} {domains}"
                    refused += 1
                else:
                    assert_apart(placement, domains)
    assert refused > 0


def test_machines_keep_their_order_where_it_does() -> None:
    domains = ["a", "b"] * 4
    plain = place(8, copies=2)
    assert place(8, copies=2, domains=domains).holders == plain.holders


def test_the_way_out_of_a_refusal_is_one() -> None:
    """Mixed asks for five domains of eight machines, tail and ring do not."""
    for strategy in ("tail", "ring"):
        assert_apart(
            place(8, copies=3, strategy=strategy, domains="aabbccdd"), "aabbccdd"
        )
    assert_apart(place(5, copies=2, strategy="tail", domains="aabbb"), "aabbb")
