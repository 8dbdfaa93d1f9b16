"""What protection of every step costs a training that computes with all cores.

    python -m benchmarks.steps [--json FILE]

Each setting is one real job of `twinstep run`, with benchmarks/loop.py as its script.
In it, blocks of steps alternate between no protection, twinstep after every step, and
a plain copy of the state at every step (torch's copy_, and one thread's memcpy). The
extra time of a kind is its median step less the unprotected one of the same round; the
result is the median over the rounds, with the quartiles.

    alone   one machine, one rank with both threads; the agent keeps the only copy
    ddp     two machines of one rank and one thread; replicas, so nothing is sent
    sent    the same, but each rank has a state of its own, which goes to the other
            machine: both ends of the connection, and the kernel between, then take
            their time from the same two cores that train

The budget of one plain copy is for the first two; `sent` has none that a computer
which is sender and receiver at once could tell about, and is reported beside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job

SCRIPT = Path(__file__).with_name("loop.py")
KINDS = ("none", "twinstep", "torch", "numpy")
BLOCKED_SHARE_MAX = 0.01
COPIES_MAX = 1.0
LIMIT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A job, and how often each kind of block comes in it."""

    name: str
    machines: int = 1
    ddp: bool = False
    rounds: int = 8


SETTINGS = (
    Setting(name="alone", rounds=8),
    Setting(name="ddp", machines=2, ddp=True, rounds=5),
    Setting(name="sent", machines=2, rounds=5),
)


def measure(
    setting: Setting,
    *,
    megabytes: float = 256.0,
    tensors: int = 200,
    step_s: float = 0.55,
    steps: int = 4,
    rounds: int = 0,
) -> dict[str, Any]:
    """Returns what the job's ranks found; of several, the ratios of rank 0."""
    with tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name:
        result = Path(name) / "result"
        arguments = ["--megabytes", str(megabytes), "--tensors", str(tensors)]
        arguments += ["--step-s", str(step_s), "--steps", str(steps)]
        arguments += ["--rounds", str(rounds or setting.rounds)]
        arguments += ["--result", str(result), *(["--ddp"] if setting.ddp else [])]
        job = Job(
            Path(name) / "job",
            SCRIPT,
            arguments,
            machines=setting.machines,
            copies=setting.machines,
        )
        try:
            job.wait_end(limit_s=LIMIT_S)
        finally:
            job.close()
        ranks = [
            json.loads(result.with_suffix(f".{rank}").read_text())
            for rank in range(setting.machines)
        ]
    return {"name": setting.name, "machines": setting.machines, **summary(ranks)}


def summary(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    first = ranks[0]
    rounds = first["rounds"]
    found: dict[str, Any] = {key: first[key] for key in first if key != "rounds"}
    found["skipped"] = sum(rank["skipped"] for rank in ranks)
    for kind in KINDS:
        found[kind] = {
            key: statistics.median(blocks[kind][key] for blocks in rounds)
            for key in rounds[0][kind]
        }
        extras = [b[kind]["step_s"] - b["none"]["step_s"] for b in rounds]
        found[kind] |= {f"extra_{key}": value for key, value in spread(extras).items()}
        ratios = [b[kind]["step_s"] / b["none"]["step_s"] for b in rounds]
        found[kind] |= {f"ratio_{key}": value for key, value in spread(ratios).items()}
    shares = [b["twinstep"]["blocked_share"] for r in ranks for b in r["rounds"]]
    found["blocked_share"] = spread(shares)
    found["copies"] = {
        kind: found["twinstep"]["extra_median"] / max(found[kind]["after_s"], 1e-9)
        for kind in ("torch", "numpy")
    }
    found["rounds"] = rounds
    return found


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "low": ordered[len(ordered) // 4],
        "high": ordered[3 * len(ordered) // 4],
    }


def describe(found: dict[str, Any]) -> str:
    lines = [
        f"{found['name']}: {found['machines']} machine(s), {found['threads']} thread(s)"
        f" a rank, {found['bytes'] / 1e6:.0f} MB in {found['tensors']} tensors a rank;"
        f" told {found['told']}, captured {found['captured']},"
        f" skipped {found['skipped']};"
        f" blocked {found['blocked_share']['median']:.2%} of the step"
    ]
    for kind in KINDS:
        each = found[kind]
        lines.append(
            f"  {kind:9} step {each['step_s']:.3f} s, {each['ratio_median']:.3f} of"
            f" none ({each['ratio_low']:.3f} to {each['ratio_high']:.3f}), longer by"
            f" {each['extra_median'] * 1e3:6.1f} ms"
            f" ({each['extra_low'] * 1e3:.1f} to {each['extra_high'] * 1e3:.1f}),"
            f" blocked {each['blocked_s'] * 1e3:.1f} ms"
        )
    return "\n".join(lines)


def main() -> None:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--framework", choices=("torch", "jax"), default="torch")
    chosen, rest = first.parse_known_args()
    if chosen.framework == "jax":
        from benchmarks import jax_steps

        return jax_steps.main(rest)
    parser = argparse.ArgumentParser(description=__doc__, parents=[first])
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--setting", choices=[s.name for s in SETTINGS], action="append"
    )
    parser.add_argument("--megabytes", type=float, default=256.0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--step-s", type=float, default=0.55)
    options = parser.parse_args()
    results = []
    for setting in SETTINGS:
        if options.setting and setting.name not in options.setting:
            continue
        found = measure(
            setting,
            megabytes=options.megabytes,
            rounds=options.rounds,
            steps=options.steps,
            step_s=options.step_s,
        )
        print(describe(found), flush=True)
        results.append(found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
