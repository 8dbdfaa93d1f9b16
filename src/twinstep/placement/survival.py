"""Computes how likely a number of lost machines loses nothing.

k of N machines are lost at once, every choice of k as likely. Memory then still has
every shard unless all holders of one are among the lost. Count the choices that
contain no set of holders, and divide by C(N, k).

Machines that share no set are independent, so a placement falls into parts; the
counts of a part form a polynomial, sum over k of count(k) x^k, and the parts'
polynomials multiply. A part is a circle (ring), counted in closed form, or has few
sets (a group, a tail), counted by inclusion-exclusion over them.

GEMINI (doi 10.1145/3600006.3613145) gives the group in Corollary 1 of section 4,
exact below 2 m only, and for the ring 1 - N C(N-m, k-m) / C(N, k), which counts a
choice twice when it contains two sets: for N = 16, m = 2, k = 3 it says 60.0 %,
where 352 of 560 choices lose nothing, 62.9 %. Both are exact here for every k.

Left out: losses that come together, by rack or switch. `place` keeps holders in
separate domains instead of guessing at such probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb, sqrt

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import ConfigError
from twinstep.placement.strategy import Placement

PART_SETS_MAX = 16
"""Inclusion-exclusion visits 2^sets unions; 2^16 take a tenth of a second."""

Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A probability from samples, and its 95 % interval."""

    probability: float
    low: float
    high: float
    # Invariant: 0 <= low <= probability <= high <= 1.


def survival(placement: Placement, *, lost: int) -> float:
    """The probability that `lost` machines lose no shard, exactly.

    Raises: ConfigError for an assignment with a part that is no ring and has more
    than PART_SETS_MAX sets; sample that."""
    _check_lost(placement, lost)
    counts = [1]
    seen: dict[tuple[object, ...], list[int]] = {}
    for part in _parts(placement):
        key = _shape(part)
        if key not in seen:
            seen[key] = _loss_free(part, lost_max=lost)
        counts = _product(counts, seen[key], degree=lost)
    count = counts[lost] if lost < len(counts) else 0
    return count / comb(placement.machines, lost)


def survival_by_enumeration(
    placement: Placement, *, lost: int, choices_max: int = 5_000_000
) -> float:
    """The probability that `lost` machines lose no shard, by trying every choice.

    Raises: ConfigError when there are more than `choices_max`."""
    _check_lost(placement, lost)
    choices = comb(placement.machines, lost)
    if choices > choices_max:
        raise ConfigError(
            f"{choices} ways to lose {lost} of {placement.machines} machines, more "
            f"than choices_max ({choices_max}); use survival_by_sampling"
        )
    sets = [_mask(one) for one in placement.sets()]
    bits = [1 << machine for machine in range(placement.machines)]
    free = 0
    for chosen in combinations(bits, lost):
        gone = sum(chosen)
        free += not any(gone & one == one for one in sets)
    return free / choices


def survival_by_sampling(
    placement: Placement, *, lost: int, samples: int, generator: np.random.Generator
) -> Estimate:
    """The probability that `lost` machines lose no shard, from random choices.

    The interval is Wilson's (1927), which is right near 1 too, where probabilities
    of survival lie and the usual one has width 0."""
    _check_lost(placement, lost)
    if samples < 1:
        raise ConfigError(f"samples is {samples}; it must be at least 1")
    sets = np.array(placement.sets())
    batch_max = max(1, 2_000_000 // sets.size)  # 16 MB of random numbers
    free = 0
    for first in range(0, samples, batch_max):
        batch = min(batch_max, samples - first)
        gone = _choose(placement.machines, lost, batch=batch, generator=generator)
        free += batch - int(gone[:, sets].all(axis=-1).any(axis=-1).sum())
    return _wilson(free, samples)


def theorem_1_bound(machines: int, *, copies: int) -> float:
    """No placement survives the loss of `copies` machines with more than this.

    Theorem 1: the sets must cover all machines, so there are at least ceil(N/m), and
    each is one fatal choice of C(N, m)."""
    return 1 - ceil(machines / copies) / comb(machines, copies)


def corollary_1(machines: int, *, copies: int, lost: int) -> float:
    """What the paper gives for group placement, where copies divide machines.

    Exact for lost < 2 copies; from there on a lower bound, since a choice that
    contains two groups is counted twice. Use `survival` for the exact number."""
    assert machines % copies == 0, f"{copies} does not divide {machines}"
    if lost < copies:
        return 1.0
    fatal = machines // copies * comb(machines - copies, lost - copies)
    return max(0.0, 1 - fatal / comb(machines, lost))


def ring_loss_free(machines: int, *, copies: int, lost: int) -> int:
    """How many choices of `lost` in a circle have no `copies` lost in a row.

    The s = N - k survivors cut the circle into s runs of lost machines, each shorter
    than m: inclusion-exclusion over runs that are too long counts the ways to write
    k as s such parts. Times N ways to turn the circle, over s survivors that may
    have been the first."""
    assert machines > copies, "a shorter ring is a group"
    kept = machines - lost
    if kept == 0:
        return 0
    parts = sum(
        (-1) ** j * comb(kept, j) * comb(lost - j * copies + kept - 1, kept - 1)
        for j in range(min(kept, lost // copies) + 1)
    )
    assert machines * parts % kept == 0
    return machines * parts // kept


def _check_lost(placement: Placement, lost: int) -> None:
    if not 0 <= lost <= placement.machines:
        raise ConfigError(
            f"lost ({lost}) must be between 0 and machines ({placement.machines})"
        )


_Part = tuple[tuple[int, ...], ...]
"""Holders, owner first, of machines that share sets with no machine outside."""


def _parts(placement: Placement) -> list[_Part]:
    """The placement in its independent parts, by union-find over the holders."""
    leader = list(range(placement.machines))

    def find(machine: int) -> int:
        while leader[machine] != machine:
            leader[machine] = leader[leader[machine]]
            machine = leader[machine]
        return machine

    for held_on in placement.holders:
        for machine in held_on:
            leader[find(machine)] = find(held_on[0])
    parts: dict[int, list[tuple[int, ...]]] = {}
    for machine, held_on in enumerate(placement.holders):
        parts.setdefault(find(machine), []).append(held_on)
    return [tuple(part) for part in parts.values()]


def _shape(part: _Part) -> tuple[object, ...]:
    """Equal for parts that are equal but for the numbers of their machines."""
    place_of = {held_on[0]: i for i, held_on in enumerate(part)}
    return tuple(tuple(place_of[machine] for machine in held_on) for held_on in part)


def _loss_free(part: _Part, *, lost_max: int) -> list[int]:
    """How many choices of 0, 1, ... lost machines of a part contain no set."""
    machines, copies = len(part), len(part[0])
    degree = min(machines, lost_max)
    if _is_ring(part):
        return [
            ring_loss_free(machines, copies=copies, lost=lost)
            for lost in range(degree + 1)
        ]
    sets = {_mask(held_on) for held_on in part}
    if len(sets) > PART_SETS_MAX:
        raise ConfigError(
            f"{machines} machines with {len(sets)} sets of holders depend on each "
            f"other and form no ring; exact counting takes at most {PART_SETS_MAX} "
            "sets; use survival_by_sampling"
        )
    # signs[n]: choices of sets whose union has n machines, even minus odd.
    signs = [0] * (machines + 1)
    unions = [(0, 1)]
    for one in sets:
        unions += [(union | one, -sign) for union, sign in unions]
    for union, sign in unions:
        signs[union.bit_count()] += sign
    return [
        sum(
            sign * comb(machines - size, lost - size)
            for size, sign in enumerate(signs[: lost + 1])
        )
        for lost in range(degree + 1)
    ]


def _is_ring(part: _Part) -> bool:
    """Whether each machine's holders are it and the next on one circle of all."""
    copies = len(part[0])
    if copies < 2 or len(part) <= copies:
        return False
    after = {held_on[0]: held_on[1] for held_on in part}
    circle = [part[0][0]]
    while len(circle) < len(part):
        circle.append(after[circle[-1]])
    if len(set(circle)) < len(part):
        return False
    place_of = {machine: i for i, machine in enumerate(circle)}
    return all(
        held_on
        == tuple(circle[(place_of[held_on[0]] + j) % len(part)] for j in range(copies))
        for held_on in part
    )


def _product(a: list[int], b: list[int], *, degree: int) -> list[int]:
    result = [0] * min(len(a) + len(b) - 1, degree + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b[: len(result) - i]):
            result[i + j] += x * y
    return result


def _mask(machines: Sequence[int]) -> int:
    return sum(1 << machine for machine in machines)


def _choose(
    machines: int, lost: int, *, batch: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """`batch` rows, each with `lost` of the machines True, all choices as likely:
    the places of sorted random numbers are a random permutation."""
    return generator.random((batch, machines)).argsort(axis=1) < lost


def _wilson(hits: int, samples: int) -> Estimate:
    share, z2 = hits / samples, Z_95 * Z_95
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    spread = sqrt(share * (1 - share) / samples + z2 / (4 * samples * samples))
    half = Z_95 * spread / (1 + z2 / samples)
    return Estimate(
        probability=share,
        low=min(share, max(0.0, centre - half)),
        high=max(share, min(1.0, centre + half)),
    )
