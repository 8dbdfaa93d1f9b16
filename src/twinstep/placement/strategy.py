"""Decides which machines hold which copies.

A shard's copies are on `copies` machines, its owner always among them: a killed
process then restarts from its own machine, and each machine sends one copy less.
With N machines and m copies, drawn for N = 5 and m = 2 (`o` own, `x` a neighbour's):

    group  N = 4      ring           mixed          tail
           0 1 2 3    0 1 2 3 4      0 1 2 3 4      0 1 2 3 4
         0 o x      0 o x          0 o x          0 o x
         1 x o      1   o x        1 x o          1 x o
         2     o x  2     o x      2     o x      2     o x
         3     x o  3       o x    3       o x    3     x o
                    4 x       o    4     x   o    4       x o

A step is lost from memory when all holders of one shard are lost at once, so the
fewer distinct sets of holders there are, the better. Group has the fewest, N/m, but
m must divide N. Mixed is Algorithm 1 of GEMINI (doi 10.1145/3600006.3613145, section
4): group, with a ring of the last m + N mod m machines. Tail puts the N mod m
machines left over into one set with members of the last group: ceil(N/m) sets, which
attains the bound of Theorem 1 for k = m, while those members receive more copies.

Failure domains: no two holders of a shard may share one. Machines are dealt to the
strategy's places in another order; each strategy's condition for that is exact, so a
refusal means that no order does it.

Left out: nested domains (name the one that matters), and machines of unequal memory.
Ranks of one machine share its placement: local rank i sends to local rank i.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

from twinstep.config import STRATEGIES
from twinstep.errors import ConfigError

DRAWN_MACHINES_MAX = 32
"""A wider matrix does not fit a terminal; its sets are listed instead."""


@final
@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which machines hold the shards of each machine, all by machine rank."""

    strategy: str
    copies: int
    holders: tuple[tuple[int, ...], ...]
    """Per machine rank: the holders of its shards, the owner first."""
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for owner, held_on in enumerate(self.holders):
            assert held_on[0] == owner, f"machine {owner} is not its first holder"
            assert len(set(held_on)) == len(held_on) == self.copies, held_on
            assert all(0 <= machine < self.machines for machine in held_on), held_on

    @property
    def machines(self) -> int:
        return len(self.holders)

    def holders_of(self, machine_rank: int) -> tuple[int, ...]:
        """The machines that hold the shards of `machine_rank`, itself first."""
        return self.holders[machine_rank]

    def held_by(self, machine_rank: int) -> tuple[int, ...]:
        """The other machines whose shards `machine_rank` holds."""
        return self._held[machine_rank]

    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The distinct sets of holders; a step is lost when all of one set are."""
        return tuple(sorted({tuple(sorted(held_on)) for held_on in self.holders}))

    def draw(self) -> str:
        """The placement as text: a row per owner, a column per machine."""
        title = f"{self.strategy}: {self.machines} machines, {self.copies} copies"
        sets = " ".join("{" + " ".join(map(str, one)) + "}" for one in self.sets())
        if self.machines > DRAWN_MACHINES_MAX:
            return f"{title}\nsets {sets}"
        width = len(str(self.machines - 1))
        columns = range(self.machines)
        rows = ["".rjust(width + 1) + "".join(f" {i:>{width}}" for i in columns)]
        for owner, held_on in enumerate(self.holders):
            marks = ("o" if i == owner else "x" for i in held_on)
            mark_of = dict(zip(held_on, marks, strict=True))
            cells = "".join(f" {mark_of.get(i, '.'):>{width}}" for i in columns)
            domain = f"   {self.domains[owner]}" if self.domains else ""
            rows.append(f"{owner:>{width + 1}}{cells}{domain}")
        return "\n".join([title, *rows, f"sets {sets}"])

    @cached_property
    def _held(self) -> tuple[tuple[int, ...], ...]:
        held: list[list[int]] = [[] for _ in self.holders]
        for owner, held_on in enumerate(self.holders):
            for machine in held_on[1:]:
                held[machine].append(owner)
        return tuple(map(tuple, held))


def place(
    machines: int,
    *,
    copies: int,
    strategy: str = "mixed",
    domains: Sequence[str] = (),
) -> Placement:
    """Returns who holds whose shards; with `domains` (one name per machine rank) no
    two holders of a shard share a domain.

    Raises: ConfigError when the numbers or the domains do not allow the strategy."""
    _check(machines, copies=copies, strategy=strategy, domains=domains)
    holders = _holders(range(machines), copies=copies, strategy=strategy)
    # Machines keep their order where it already does: neighbours by rank are
    # usually near in the network, and the drawing is easier to read.
    if domains and not _apart(holders, domains):
        order = _deal(machines, copies=copies, strategy=strategy, domains=domains)
        holders = _holders(order, copies=copies, strategy=strategy)
        assert _apart(holders, domains), f"{strategy} {machines} {copies} {domains}"
    return Placement(
        strategy=strategy, copies=copies, holders=holders, domains=tuple(domains)
    )


def _check(
    machines: int, *, copies: int, strategy: str, domains: Sequence[str]
) -> None:
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"placement is {strategy!r}; use one of {', '.join(STRATEGIES)}"
        )
    if not 1 <= copies <= machines:
        raise ConfigError(
            f"copies ({copies}) must be between 1 and machines ({machines}): each "
            "copy is on a machine of its own; use fewer copies or more machines"
        )
    if strategy == "group" and machines % copies:
        divisors = [n for n in range(2, machines + 1) if machines % n == 0]
        nearest = sorted(divisors, key=lambda n: (abs(n - copies), n))[:2]
        choices = " or ".join(map(str, sorted(nearest)))
        raise ConfigError(
            f"copies ({copies}) must divide machines ({machines}) with "
            f"strategy='group'; use {choices}, or strategy='mixed'"
        )
    if domains and len(domains) != machines:
        raise ConfigError(
            f"domains names {len(domains)} machines, but machines is {machines}; "
            "name the domain of each machine rank, or none"
        )


def _holders(
    order: Sequence[int], *, copies: int, strategy: str
) -> tuple[tuple[int, ...], ...]:
    """The holders when the machine `order[i]` stands at the strategy's place i."""
    machines = len(order)
    groups, rest = divmod(machines, copies)
    held_on: dict[int, tuple[int, ...]] = {}

    def ring(members: Sequence[int]) -> None:
        for i, owner in enumerate(members):
            others = (members[(i + j) % len(members)] for j in range(1, copies))
            held_on[owner] = (owner, *others)

    if strategy == "ring":
        ring(order)
    elif strategy == "tail" and rest:
        for i in range(groups):  # a group is a ring of as many machines as copies
            ring(order[i * copies : (i + 1) * copies])
        left = order[groups * copies :]
        borrowed = order[groups * copies - (copies - rest) : groups * copies]
        for i, owner in enumerate(left):
            held_on[owner] = (owner, *left[i + 1 :], *left[:i], *borrowed)
    else:  # Algorithm 1, which is group where copies divide machines
        for i in range(groups - 1):
            ring(order[i * copies : (i + 1) * copies])
        ring(order[(groups - 1) * copies :])
    return tuple(held_on[machine] for machine in range(machines))


def _apart(holders: tuple[tuple[int, ...], ...], domains: Sequence[str]) -> bool:
    return all(
        len({domains[machine] for machine in held_on}) == len(held_on)
        for held_on in holders
    )


def _deal(
    machines: int, *, copies: int, strategy: str, domains: Sequence[str]
) -> list[int]:
    """Machines in an order that keeps the holders of each shard in domains apart.

    Raises: ConfigError naming the domain, or the number of domains, in the way."""
    groups, rest = divmod(machines, copies)
    if strategy == "ring":
        _check_domains(domains, copies=copies, strategy=strategy, largest=groups)
        return _deal_ring(domains, turns=groups)
    if strategy == "tail" and rest:
        _check_tail(domains, copies=copies)
        blocks = _deal_blocks(domains, sizes=[copies] * groups + [rest])
        # The lenders are those of the last group whose domain is not left over.
        # At most `rest` of its domains are, so enough lenders remain.
        left = {domains[machine] for machine in blocks[-1]}
        blocks[-2].sort(key=lambda machine: (domains[machine] not in left, machine))
        return [machine for block in blocks for machine in block]
    _check_domains(domains, copies=copies, strategy=strategy, largest=groups)
    # Any two machines of a ring shorter than 2 m share a set: all must differ.
    last = copies + rest
    if len(set(domains)) < last:
        raise ConfigError(
            f"the last {last} of {machines} machines form a ring with "
            f"copies={copies} and strategy={strategy!r}, in which no two may share a "
            f"domain, but there are {len(set(domains))} domains; use "
            "strategy='tail' or 'ring', or copies that divide machines"
        )
    blocks = _deal_blocks(domains, sizes=[copies] * (groups - 1) + [last])
    return [machine for block in blocks for machine in block]


def _check_domains(
    domains: Sequence[str], *, copies: int, strategy: str, largest: int
) -> None:
    name, count = Counter(domains).most_common(1)[0]
    if count > largest:
        tail = "strategy='tail', " if _tail_takes(domains, copies=copies) else ""
        raise ConfigError(
            f"domain {name!r} has {count} of {len(domains)} machines; with "
            f"copies={copies} and strategy={strategy!r} at most {largest} may share "
            f"one, or two holders of a shard would; use {tail}fewer copies, or "
            "machines spread over more domains"
        )


def _tail_takes(domains: Sequence[str], *, copies: int) -> bool:
    """Whether tail has an order: ceil(N / m) sets take so many of each domain, but
    the one of the leftovers takes from only N mod m domains."""
    groups, rest = divmod(len(domains), copies)
    counts = sorted(Counter(domains).values())
    return counts[-1] <= groups or (
        counts[-1] == groups + 1 and counts.count(groups + 1) <= rest
    )


def _check_tail(domains: Sequence[str], *, copies: int) -> None:
    groups, rest = divmod(len(domains), copies)
    _check_domains(domains, copies=copies, strategy="tail", largest=groups + 1)
    if not _tail_takes(domains, copies=copies):
        full = [name for name, n in Counter(domains).items() if n == groups + 1]
        raise ConfigError(
            f"domains {', '.join(map(repr, sorted(full)))} have {groups + 1} of "
            f"{len(domains)} machines each; with copies={copies} and strategy='tail' "
            f"only {rest} of them may have so many, or two holders of a shard would "
            "share one; use fewer copies, or machines spread over more domains"
        )


def _by_domain(domains: Sequence[str]) -> list[list[int]]:
    """Machine ranks by domain: the largest first, then the one that comes first."""
    members: dict[str, list[int]] = {}
    for machine, domain in enumerate(domains):
        members.setdefault(domain, []).append(machine)
    return sorted(members.values(), key=lambda ranks: (-len(ranks), ranks[0]))


def _deal_blocks(domains: Sequence[str], *, sizes: Sequence[int]) -> list[list[int]]:
    """Blocks of these sizes, each of machines from different domains.

    Each block takes from the domains that have the most machines left, which
    succeeds whenever anything does (Gale 1957, Ryser 1957)."""
    left = _by_domain(domains)
    blocks: list[list[int]] = []
    for size in sizes:
        left.sort(key=lambda ranks: (-len(ranks), ranks[:1]))
        assert len(left[size - 1]) > 0, f"{domains} cannot fill blocks of {sizes}"
        blocks.append(sorted(ranks.pop(0) for ranks in left[:size]))
    return blocks


def _deal_ring(domains: Sequence[str], *, turns: int) -> list[int]:
    """A circle in which machines of one domain are at least N // turns apart.

    Deal the machines, domain by domain, to `turns` piles in turn, then lay the piles
    in a row. A pile has at least m = N // turns machines, so two neighbouring piles
    hold the same domain at the same depth, m or more apart; a domain that is dealt
    past the last pile goes on one deeper in the first, and skips at least one pile
    unless it has `turns` machines. Those come first and fill one depth each."""
    piles: list[list[int]] = [[] for _ in range(turns)]
    dealt = [machine for ranks in _by_domain(domains) for machine in ranks]
    for i, machine in enumerate(dealt):
        piles[i % turns].append(machine)
    return [machine for pile in piles for machine in pile]
