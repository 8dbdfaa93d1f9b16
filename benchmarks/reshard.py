"""Whether a run goes on alike on another number of ranks, and how soon.

    python -m benchmarks.reshard [--json FILE] [--png FILE] [--quick]

All jobs are real ones of `twinstep run`, one rank a machine, with
benchmarks/reshard_train.py as their script: an FSDP2 GPT without dropout, 12 samples
an update whatever the number of ranks.

    whole 4         50 steps on four ranks, uninterrupted: the reference
    first 4         30 steps on four ranks, which write to storage
    then 3, 2, 6, 4 each goes on from a copy of that storage, up to step 50
    whole 3, 2, 6   50 steps, uninterrupted: what another order of sums does by itself

At the restored step each whole tensor must have the bits that `first 4` had there.
After it samples must be the reference's; losses differ by the order of sums, and on
four ranks not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.jobs import Job

SCRIPT = Path(__file__).with_name("reshard_train.py")
STORED_BY = 4
GO_ON = (3, 2, 6, 4)
BATCH = 12
LIMIT_S = 200.0


def run(
    folder: Path, *, machines: int, steps: int, digests: str, storage: Path | None
) -> dict[str, Any]:
    """Returns what rank 0 of a job wrote. Raises: DeadlinePassed."""
    folder.mkdir()
    result = folder / "result"
    arguments = ["--steps", str(steps), "--batch", str(BATCH), "--digests", digests]
    load, began_s = os.getloadavg()[0], time.time()
    job = Job(
        folder / "job",
        SCRIPT,
        [*arguments, "--result", str(result)],
        machines=machines,
        copies=1,
        options=["--storage", str(storage)] if storage else [],
    )
    try:
        job.wait_end(limit_s=LIMIT_S)
    finally:
        job.close()
    found = json.loads(result.read_text())
    found["load"] = load
    found["script_s"] = found["script_began_s"] - began_s
    found["first_s"] = found["first_step_s"] - began_s
    return found


def measure(
    *,
    before: int,
    after: int,
    go_on: tuple[int, ...],
    folder: Path | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Returns every job, and how those that went on compare."""
    with tempfile.TemporaryDirectory(prefix="bench-reshard-", dir=folder) as name:
        root = Path(name)

        def job(kind: str, machines: int, **given: Any) -> dict[str, Any]:
            tell(f"{kind} {machines}")
            settings = {"steps": before + after, "digests": "first", "storage": None}
            where = root / f"{kind}-{machines}"
            return run(where, machines=machines, **(settings | given))

        every = {"digests": "every"}
        whole = {STORED_BY: job("whole", STORED_BY, **every)}
        first = job("first", STORED_BY, steps=before, storage=root / "stored", **every)
        then: dict[int, dict[str, Any]] = {}
        for machines in go_on:
            copy = root / f"stored-{machines}"
            shutil.copytree(root / "stored", copy)
            then[machines] = job("then", machines, storage=copy)
        for machines in go_on:
            if machines not in whole:
                whole[machines] = job("whole", machines)
    reference = whole[STORED_BY]
    return {
        "before": before,
        "after": after,
        "batch": BATCH,
        "stored_step": next(iter(then.values()))["start"],
        "same_twice": bits(first, reference, steps=range(1, before + 1)),
        "then": {n: compare(one, first, reference) for n, one in then.items()},
        "noise": {
            n: difference(one, reference) for n, one in whole.items() if n != STORED_BY
        },
        "losses": {
            "whole": {n: one["losses"] for n, one in whole.items()},
            "then": {n: one["losses"] for n, one in then.items()},
        },
        "start_s": {n: one["first_s"] for n, one in whole.items()},
    }


def compare(
    then: dict[str, Any], first: dict[str, Any], reference: dict[str, Any]
) -> dict[str, Any]:
    """Returns how a job that went on compares with the one that was to stop."""
    start = then["start"]
    samples = {step: reference["samples"][step] for step in then["samples"]}
    return {
        "start": start,
        "tensors": len(then["digests"][str(start)]),
        "tensors_differ": bits(then, first, steps=[start]),
        "samples_alike": then["samples"] == samples,
        "steps": len(then["losses"]),
        "loss_difference": difference(then, reference),
        "last_loss": then["losses"][max(then["losses"], key=int)],
        "restore_s": then["restore_s"],
        "script_s": then["script_s"],
        "first_s": then["first_s"],
        "load": then["load"],
    }


def bits(
    one: dict[str, Any], other: dict[str, Any], *, steps: range | list[int]
) -> list[str]:
    """Returns the steps and tensors whose digests differ, or that one lacks."""
    found: list[str] = []
    for step in map(str, steps):
        left, right = one["digests"].get(step, {}), other["digests"].get(step, {})
        found += [
            f"step {step}: {name}"
            for name in sorted({*left, *right, *(() if left and right else ("all",))})
            if left.get(name) != right.get(name) or name == "all"
        ]
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Returns the largest relative difference of two runs' losses."""
    return max(
        abs(loss - other["losses"][step]) / abs(other["losses"][step])
        for step, loss in one["losses"].items()
    )


def table(found: dict[str, Any]) -> Table:
    title = (
        f"step {found['stored_step']}, stored by {STORED_BY} ranks, and on to step "
        f"{found['before'] + found['after']}; losses against the uninterrupted run's"
    )
    names = ("ranks", "tensors alike", "samples", "loss differs by", "noise")
    drawn = Table(*names, "restore, s", "first step, s", "load", title=title)
    for ranks, one in found["then"].items():
        alike = one["tensors"] - len(one["tensors_differ"])
        noise = found["noise"].get(ranks)
        drawn.add_row(
            str(ranks),
            f"{alike} of {one['tensors']}",
            "same" if one["samples_alike"] else "OTHERS",
            f"{one['loss_difference']:.1e}",
            f"{noise:.1e}" if noise is not None else "",
            f"{one['restore_s']:.2f}",
            f"{one['first_s']:.2f}",
            f"{one['load']:.1f}",
        )
    return drawn


def draw(found: dict[str, Any], path: Path) -> None:
    """The file is a PNG: the uninterrupted losses, and those of all that went on; and
    how far these are from the line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plots = cast("Any", pyplot)
    figure, (above, below) = plots.subplots(
        2, 1, figsize=(9, 6), sharex=True, height_ratios=(2, 1)
    )
    whole = found["losses"]["whole"][STORED_BY]
    above.plot([int(step) for step in whole], list(whole.values()), color="#9fb3c8")
    marks = zip(found["losses"]["then"].items(), "ovs^", strict=False)
    for (ranks, losses), mark in marks:
        steps = [int(step) for step in losses]
        above.plot(steps, list(losses.values()), mark, ms=4, mfc="none", label=ranks)
        apart = [abs(losses[s] - whole[s]) / whole[s] for s in losses]
        below.semilogy(steps, [max(a, 1e-10) for a in apart], mark, ms=4, mfc="none")
    above.axvline(found["stored_step"], color="#d64545", lw=1)
    above.set_ylabel("loss")
    above.legend(title="went on on ranks", frameon=False)
    above.set_title(
        f"Stored by {STORED_BY} ranks at step {found['stored_step']}; the line is the "
        "uninterrupted run",
        loc="left",
    )
    below.set_ylabel("relative difference")
    below.set_xlabel("step (at 1e-10: the same loss)")
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plots.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path, help="draw the losses")
    parser.add_argument("--folder", type=Path, help="on the disk; a temporary one")
    parser.add_argument("--before", type=int, default=30)
    parser.add_argument("--after", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="short, on three ranks")
    options = parser.parse_args()
    if options.quick:
        options.before, options.after = 8, 3
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        found = measure(
            before=options.before,
            after=options.after,
            go_on=(3,) if options.quick else GO_ON,
            folder=options.folder,
            tell=lambda text: progress.update(task, description=text),
        )
    console.print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.png:
        draw(found, options.png)


if __name__ == "__main__":
    main()
