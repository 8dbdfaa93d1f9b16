"""What copies cost a training whose link, not its processor, is the bottleneck.

    make bench-interleave
    python -m benchmarks.interleave [--json FILE] [--style ddp|fsdp2] [--loads 0.5,0.9]

Four machines on hosts of their own (network namespaces; needs root), every cable
limited to 200 Mbit/s in each direction, real agents, one rank a machine, which trains
benchmarks/interleave_loop.py. Of what a step leaves the link idle, the copies of each
machine need the share `load`: 0.5, 0.9, and 1.5, which does not fit.

    none         the same job, whose copies stay on their own machines
    blocking     training itself sends its state at every step, and waits
    off          copies are sent at once, beside training
    naive        one piece as large as all buffers in each span
    unpipelined  as planned, one piece on its way at a time
    counters     as planned, of what the network interface counts: nobody tells
                 of collectives, as without hooks in the framework
    twinstep     as planned

Every scheme is a job; all of them come once in each round, in an order drawn anew, so
that what else the computer does meets all. Steps before the profile is there are not
counted. `step_s` is the median of the steps of all rounds, `spread_s` the distance of
their quartiles, `mean_s` their mean: a scheme that is slow in every second step shows
only there. Ratios are to `none` of the same load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.interleave_job import SCHEMES, Found, Shape, run
from twinstep.demo.hosts.network import Network, missing
from twinstep.errors import UsageError

LOADS = (0.5, 0.9, 1.5)
PLAIN_BYTES = 20_000_000
PLAIN_PORT = 4712
TABLE_WIDTH = 120
CANNOT = 2
"""The status that says that it cannot be done here."""


def plain_rate(bits_per_s: int) -> float:
    """Returns the bytes a second that one connection gets of a limited cable."""
    with Network(2) as network:
        for host in network.hosts:
            network.limit(host, bits_per_s)
        with network.entered(2):
            listener = socket.create_server((network.address(2), PLAIN_PORT))
        with network.entered(1):
            sender = socket.create_connection((network.address(2), PLAIN_PORT))
        receiver, _ = listener.accept()
        with listener, sender, receiver:
            thread = threading.Thread(target=sender.sendall, args=(bytes(PLAIN_BYTES),))
            buffer = bytearray(PLAIN_BYTES)
            began_s = time.perf_counter()
            thread.start()
            received = receiver.recv_into(buffer, PLAIN_BYTES, socket.MSG_WAITALL)
            took_s = time.perf_counter() - began_s
            thread.join()
    assert received == PLAIN_BYTES, received
    return received / took_s


def measure(
    schemes: Sequence[str],
    loads: Sequence[float],
    shape: Shape,
    *,
    rounds: int,
    idle_s: float,
    file: Path | None,
) -> dict[str, Any]:
    """Returns what `--json` holds; `file` has it after every job."""
    say = Console(stderr=True).print
    rate = plain_rate(shape.bits_per_s)
    mbit = shape.bits_per_s / 1e6
    say(f"a plain socket gets {rate / 1e6:.2f} MB/s of {mbit:g} Mbit/s")
    found: dict[float, dict[str, list[Found]]] = {
        load: {scheme: [] for scheme in schemes} for load in loads
    }
    with tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name:
        folder = Path(name)
        if not idle_s:
            free = run("none", shape, folder / "free", sent_bytes=4)
            idle_s = free.wire.idle_s / shape.steps
            say(f"a step without copies takes {free.step_s:.3f} s, {idle_s:.3f} s idle")
        sizes = {load: round(load * idle_s * rate) for load in loads}
        result: dict[str, Any] = {
            "style": shape.style,
            "machines": shape.machines,
            "link_bits_per_s": shape.bits_per_s,
            "link_bytes_per_s": rate,
            "bands": shape.bands,
            "idle_s": idle_s,
        }
        for number in range(rounds):
            order = [(load, scheme) for load in loads for scheme in schemes]
            for load, scheme in random.Random(number).sample(order, len(order)):
                there = folder / f"{number}-{load}-{scheme}"
                job = run(scheme, shape, there, sent_bytes=sizes[load])
                found[load][scheme].append(job)
                say(
                    f"load {load:g}, {scheme}: step {job.step_s:.3f} s, "
                    f"{job.captured} captured; the job took {job.took_s:.0f} s"
                )
                result["cases"] = [case(x, sizes[x], found[x]) for x in loads]
                if file is not None:
                    file.write_text(json.dumps(result, indent=1) + "\n")
    return result


def case(load: float, sent_bytes: int, found: dict[str, list[Found]]) -> dict[str, Any]:
    schemes = {name: scheme(jobs) for name, jobs in found.items() if jobs}
    none = schemes.get("none")
    for each in schemes.values():
        for key in ("step", "mean"):
            each[f"{key}_ratio"] = each[f"{key}_s"] / none[f"{key}_s"] if none else None
    ours = schemes.get("twinstep", {})
    return {
        "load": load,
        "sent_bytes": sent_bytes,
        "every_steps": ours.get("every_steps"),
        "sent_in_span_share": ours.get("sent_in_span_share"),
        "sent_in_idle_share": ours.get("sent_in_idle_share"),
        "schemes": schemes,
    }


def scheme(jobs: Sequence[Found]) -> dict[str, Any]:
    steps_s = sorted(step_s for job in jobs for step_s in job.steps_s)
    captured = sum(job.captured for job in jobs)
    idle = [j.wire.idle_share for j in jobs if j.wire.idle_share is not None]
    spans = [j.in_span_share for j in jobs if j.in_span_share is not None]
    return {
        "step_s": statistics.median(steps_s),
        "spread_s": steps_s[3 * len(steps_s) // 4] - steps_s[len(steps_s) // 4],
        "mean_s": statistics.fmean(steps_s),
        "steps": len(steps_s),
        "every_steps": len(steps_s) / captured if captured else None,
        "told_every": max(job.every for job in jobs),
        "sent_in_span_share": statistics.fmean(spans) if spans else None,
        "sent_in_idle_share": statistics.fmean(idle) if idle else None,
        "blocked_s": sum(job.blocked_s for job in jobs) / len(steps_s),
        "copies_bytes": sum(job.wire.copies_bytes for job in jobs) / len(steps_s),
        "training_bytes": sum(job.wire.training_bytes for job in jobs) / len(steps_s),
        "rounds": [job.steps_s for job in jobs],
    }


def table(result: dict[str, Any]) -> Table:
    drawn = Table(
        title=f"{result['style']}, {result['link_bytes_per_s'] / 1e6:.1f} MB/s, "
        f"{result['idle_s']:.3f} s of a step idle"
    )
    for head in ("load", "scheme", "step", "spread", "of none", "mean, of none"):
        drawn.add_column(head, justify="left" if head == "scheme" else "right")
    for head in ("captured", "sent a step", "in spans", "while idle", "steps"):
        drawn.add_column(head, justify="right")
    for each in result["cases"]:
        for name, row in each["schemes"].items():
            every = row["every_steps"]
            drawn.add_row(
                f"{each['load']:.0%}",
                name,
                f"{row['step_s']:.3f} s",
                f"{row['spread_s'] * 1e3:.0f} ms",
                _ratio(row["step_ratio"]),
                _ratio(row["mean_ratio"]),
                "-" if every is None else f"1 in {every:.2g}",
                f"{row['copies_bytes'] / 1e6:.1f} MB",
                _share(row["sent_in_span_share"]),
                _share(row["sent_in_idle_share"]),
                str(row["steps"]),
            )
    return drawn


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio - 1:+.1%}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--style", choices=("ddp", "fsdp2"), default="ddp")
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--loads", default=",".join(f"{load:g}" for load in LOADS))
    parser.add_argument("--steps", type=int, default=15, help="counted, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=20, help="steps not counted")
    parser.add_argument("--mbit", type=int, default=200, help="each cable, a second")
    parser.add_argument(
        "--bands", action="store_true", help="low socket priority waits at the card"
    )
    parser.add_argument(
        "--idle-s", type=float, default=0.0, help="of a step; 0: measured first"
    )
    return parser.parse_args()


def main() -> int:
    given = options()
    schemes = given.schemes.split(",")
    unknown = [name for name in schemes if name not in SCHEMES]
    if unknown:
        print(f"unknown scheme(s) {', '.join(unknown)}; there are {', '.join(SCHEMES)}")
        return CANNOT
    why_not = missing()
    if why_not:
        print(f"this benchmark cannot run here: {why_not}", file=sys.stderr)
        return CANNOT
    shape = Shape(
        style=given.style,
        machines=given.machines,
        bits_per_s=given.mbit * 1_000_000,
        bands=given.bands,
        warm_up=given.warm_up,
        steps=given.steps,
    )
    try:
        result = measure(
            schemes,
            [float(load) for load in given.loads.split(",")],
            shape,
            rounds=given.rounds,
            idle_s=given.idle_s,
            file=given.json,
        )
    except UsageError as error:
        print(f"this benchmark cannot run here: {error}", file=sys.stderr)
        return CANNOT
    with contextlib.suppress(BrokenPipeError):
        console = Console()
        if not console.is_terminal:  # a file is as wide as it has to be
            console = Console(width=TABLE_WIDTH)
        console.print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
