"""One table by kind of failure of what several soaks found.

    twinstep soak --kills 100 --seed 1 --json a.json
    python -m benchmarks.soaks a.json b.json ...

Times are seconds from the blow, of those that led to a recovery; steps lost are of all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

HEADS = (
    "kind",
    "blows",
    "went on",
    "decided, median / max",
    "next step, median / 9 in 10 / max",
    "steps lost: 0 / 1 / 2 / more",
    "max",
)


def row(kind: str, failures: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the cells of HEADS for the failures of one kind."""
    came = [each for each in failures if each["recoveries"]]
    decided_s = [each["moments"]["decided"] for each in came]
    resumed_s = [each["resumed_s"] for each in came]
    lost = [each["steps_lost"] for each in failures]
    counts = [sum(steps == n for steps in lost) for n in (0, 1, 2)]
    counts.append(len(lost) - sum(counts))
    return [
        kind,
        str(len(failures)),
        str(len(failures) - len(came)),
        f"{median(decided_s):.2f} / {max(decided_s):.2f}" if came else "",
        f"{median(resumed_s):.2f} / {most(resumed_s):.2f} / {max(resumed_s):.2f}"
        if came
        else "",
        " / ".join(map(str, counts)),
        str(max(lost)),
    ]


def most(values: Sequence[float]) -> float:
    """Nine in ten are no more than this."""
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=10, method="inclusive")[-1]


def markdown(soaks: Sequence[dict[str, Any]]) -> str:
    """Returns the table of all failures, and a line that sums up each soak."""
    failures = [failure for soak in soaks for failure in soak["failures"]]
    kinds = sorted({failure["kind"] for failure in failures})
    rows = [row(kind, [f for f in failures if f["kind"] == kind]) for kind in kinds]
    rows.append(row("**all**", failures))
    lines = [HEADS, ("---", *["---:"] * (len(HEADS) - 1)), *rows]
    said = [
        f"seed {soak['seed']}: {soak['summary']['resumed']} of "
        f"{soak['summary']['kills'] - len(soak['missed'])} resumed, "
        f"{'identical' if soak['bit_identical'] else 'OTHER BITS'}, "
        f"{soak['steps']} steps in {soak['seconds']:.0f} s"
        for soak in soaks
    ]
    return "\n".join([*said, "", *("| " + " | ".join(line) + " |" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="of `soak --json`")
    files = parser.parse_args().files
    print(markdown([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
