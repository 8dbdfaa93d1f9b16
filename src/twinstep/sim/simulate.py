"""Runs many seeds at once, one process a core, and says what came of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinstep.clock import monotonic_s
from twinstep.errors import UsageError
from twinstep.sim.explore import Run, run, shrink
from twinstep.sim.faults import FAULTS
from twinstep.sim.probes import all_probes

BATCH = 20
FAILURES_MAX = 20
"""More failing seeds than this tell nothing new; no further ones are looked for."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of all seeds."""

    first: int
    seeds: int = 0
    seconds: float = 0.0
    events: int = 0
    simulated_s: float = 0.0
    failures: list[Run] = field(default_factory=list[Run])
    probes: Counter[str] = field(default_factory=Counter[str])

    @property
    def seeds_per_s(self) -> float:
        return self.seeds / max(self.seconds, 1e-9)

    @property
    def unreached(self) -> list[str]:
        """Rare branches, and kinds of damage, that no seed came to."""
        return sorted(set(all_probes()) - set(+self.probes))

    def json(self) -> str:
        whole: dict[str, Any] = {
            "first": self.first,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 3),
            "seeds_per_s": round(self.seeds_per_s, 1),
            "simulated_s": round(self.simulated_s, 1),
            "events": self.events,
            "violations": [
                {
                    "seed": one.seed,
                    "invariant": one.invariant,
                    "what": one.what,
                    "faults": [
                        {
                            "kind": f.kind,
                            "after_s": round(f.after_s, 3),
                            "steps": f.steps,
                        }
                        for f in one.faults
                    ],
                    "again": one.again,
                    "trace": one.trace,
                }
                for one in self.failures
            ],
            "probes": dict(sorted(self.probes.items())),
            "unreached_probes": self.unreached,
        }
        return json.dumps(whole, indent=1)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises: UsageError naming the kinds of damage that there are."""
    unknown = [kind for kind in kinds if kind not in FAULTS]
    if unknown:
        raise UsageError(
            f"there is no fault {', '.join(unknown)}; there are: {', '.join(FAULTS)}"
        )


def simulate(
    *,
    first: int,
    seeds: int,
    kinds: Sequence[str] = (),
    fixed: Mapping[str, int] | None = None,
    processes: int = 0,
    tell: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Runs `seeds` seeds from `first` on; failing ones come back shrunk.

    Args:
      kinds: kinds of damage; all by default.
      fixed: settings of the cluster that are not drawn.
      processes: how many at once; 0: one a core.
      tell: is told of the progress."""
    check_kinds(kinds)
    if seeds < 1 or first < 0:
        raise UsageError(f"seeds is {seeds}, at least 1; first is {first}, at least 0")
    report = Report(first=first)
    began_s = monotonic_s()
    count = processes or os.cpu_count() or 1
    for batch in _batches(first, seeds, list(kinds), dict(fixed or {}), count):
        for one in batch:
            report.seeds += 1
            report.events += one.events
            report.simulated_s += one.simulated_s
            report.probes += one.probes
            if one.invariant:
                report.failures.append(one)
        report.seconds = monotonic_s() - began_s
        tell(report)
        if len(report.failures) >= FAILURES_MAX:
            break
    report.failures = [shrink(one) for one in report.failures]
    return report


def _batches(
    first: int, seeds: int, kinds: list[str], fixed: dict[str, int], processes: int
) -> Iterator[list[Run]]:
    starts = range(first, first + seeds, BATCH)
    work = [(s, min(s + BATCH, first + seeds), kinds, fixed) for s in starts]
    if processes == 1:
        yield from map(_batch, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_batch, work)


def _batch(work: tuple[int, int, list[str], dict[str, int]]) -> list[Run]:
    start, end, kinds, fixed = work
    runs = [run(seed, kinds=kinds, fixed=fixed) for seed in range(start, end)]
    for one in runs:
        if not one.invariant:
            one.trace.clear()
    return runs


def write(report: Report, path: Path) -> None:
    path.write_text(report.json())
