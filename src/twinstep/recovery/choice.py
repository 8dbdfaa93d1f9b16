"""Decides which step a failed run goes back to, and from where each shard is read.

The step is the newest of which every shard has a good copy on a machine that is
here (paper section 6: "the latest complete checkpoint"; how all machines agree on
the newest *common* one is not described there, so it is decided here, by one root,
from all inventories). Copies of one step that were captured in different rounds are
different states and never make one step. Of several copies the nearest is read
first: the own machine's, then the other holders, in the order of machine ranks.

A copy whose digest differs from the majority of its twins is not a copy: it is named
and left out. Storage as the last tier is not here yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from twinstep.values import Grid

CopyName = tuple[str, int, int, int]
"""A copy on a machine: (machine, shard, step, captured_in)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCopy:
    """A whole copy on a machine. `digest` is the digest of its chunks' digests."""

    shard: int
    step: int
    captured_in: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a round starts. At step 0 nothing is loaded and `sources` is empty."""

    step: int
    captured_in: int
    sources: dict[int, list[str]]
    """Per shard the machines with a good copy, by name, in machine rank order."""
    differing: list[str]
    """Copies left out because their bytes differ from their twins', in words."""
    reason: str


def choose(
    inventories: Mapping[str, Sequence[HeldCopy]],
    *,
    grid: Grid,
    shared: bool,
    bad: Collection[CopyName] = (),
) -> Choice:
    """Returns the newest complete step and the sources of every shard.

    Args:
      inventories: what each machine holds, in machine rank order.
      grid: the job's machines and ranks.
      shared: whether the job has shared shards.
      bad: copies that did not verify."""
    shards = [s for s in grid.shards if shared or not grid.is_shared(s)]
    versions: dict[tuple[int, int], dict[int, dict[str, bytes]]] = {}
    for machine, copies in inventories.items():
        for copy in copies:
            if (machine, copy.shard, copy.step, copy.captured_in) in bad:
                continue
            version = versions.setdefault((copy.step, copy.captured_in), {})
            version.setdefault(copy.shard, {})[machine] = copy.digest
    missing_newest = ""
    for step, captured_in in sorted(versions, reverse=True):
        copies = versions[step, captured_in]
        missing = [shard for shard in shards if shard not in copies]
        if missing:
            names = ", ".join(map(str, missing[:8]))
            missing_newest = missing_newest or (
                f"; step {step} is not whole: no good copy of shard {names}"
            )
            continue
        sources, differing = _agreeing(copies, shards)
        return Choice(
            step=step,
            captured_in=captured_in,
            sources=sources,
            differing=differing,
            reason=f"step {step} is the newest with a good copy of every shard"
            + missing_newest,
        )
    return Choice(
        step=0,
        captured_in=0,
        sources={},
        differing=[],
        reason="no step has a good copy of every shard" + missing_newest,
    )


def _agreeing(
    copies: Mapping[int, Mapping[str, bytes]], shards: Sequence[int]
) -> tuple[dict[int, list[str]], list[str]]:
    """Keeps, of each shard's copies, those that equal most of their twins."""
    sources: dict[int, list[str]] = {}
    differing: list[str] = []
    for shard in shards:
        counts = Counter(copies[shard].values())
        most = max(counts.values())
        # A tie goes to the digest met first, so that all runs of a seed agree.
        digest = next(d for d in copies[shard].values() if counts[d] == most)
        sources[shard] = [m for m, d in copies[shard].items() if d == digest]
        differing += [
            f"{machine}'s copy of shard {shard} differs from its twins"
            for machine, other in copies[shard].items()
            if other != digest
        ]
    return sources, differing


def nearest(sources: Sequence[str], *, own: str) -> list[tuple[str, str]]:
    """Returns (machine, reason) in the order in which they are to be tried."""
    here = [(own, "own memory")] if own in sources else []
    return here + [(m, f"memory of {m}") for m in sources if m != own]
