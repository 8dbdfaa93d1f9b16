"""What protection of every step costs a training in JAX.

    python -m benchmarks.jax_steps [--json FILE] [--megabytes 256]
    python -m benchmarks.steps --framework jax      the same

Each setting is one real job of `twinstep run` on one machine, with jax_loop.py as its
script, whose blocks alternate between no protection, twinstep after every step and one
plain copy of the state at every step.

    references  the loop keeps no old state, and does not donate: arrays are held
    donating    the state is donated: the device copies it first
    fenced      the same with session.fence(): the loop waits for the twin
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import Job
from benchmarks.steps import spread

SCRIPT = Path(__file__).with_name("jax_loop.py")
SETTINGS = {
    "references": (),
    "donating": ("--donate",),
    "fenced": ("--donate", "--fence"),
}
KINDS = ("none", "twinstep", "copy")
LIMIT_S = 300.0
CONFIG = """\
preload = ["jax", "twinstep.adapters.jax", "twinstep.session"]
[timing]
hang_s_min = 600.0
deadlock_s_min = 600.0
first_step_s_max = 600.0
"""


def measure(
    setting: str,
    *,
    megabytes: float,
    tensors: int,
    step_s: float,
    steps: int,
    rounds: int,
) -> dict[str, Any]:
    """Returns what the job's rank found, with medians and quartiles over rounds."""
    with tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name:
        result = Path(name) / "result"
        arguments = ["--megabytes", str(megabytes), "--tensors", str(tensors)]
        arguments += ["--step-s", str(step_s), "--steps", str(steps)]
        arguments += ["--rounds", str(rounds), "--result", str(result)]
        arguments += SETTINGS[setting]
        job = Job(Path(name) / "job", SCRIPT, arguments, config=CONFIG)
        try:
            job.wait_end(limit_s=LIMIT_S)
        finally:
            job.close()
        return {"name": setting, **summary(json.loads(result.read_text()))}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    rounds = found["rounds"]
    for kind in KINDS:
        of_kind = {
            key: statistics.median(blocks[kind][key] for blocks in rounds)
            for key in rounds[0][kind]
        }
        extras = [b[kind]["step_s"] - b["none"]["step_s"] for b in rounds]
        found[kind] = of_kind | {"extra_s": spread(extras)}
    found["copies"] = found["twinstep"]["extra_s"]["median"] / max(
        found["copy"]["blocked_s"], 1e-9
    )
    return found


def describe(found: dict[str, Any]) -> str:
    twin, plain = found["twinstep"], found["copy"]
    capture = found["capture"]
    return (
        f"{found['name']}: {found['bytes'] / 1e6:.0f} MB in {found['tensors']} arrays;"
        f" told {found['told']}, captured {found['captured']}, skipped "
        f"{found['skipped']}\n"
        f"  step {found['none']['step_s']:.3f} s unprotected, longer by "
        f"{twin['extra_s']['median'] * 1e3:.1f} ms ({twin['extra_s']['low'] * 1e3:.1f} "
        f"to {twin['extra_s']['high'] * 1e3:.1f}) with every step protected, by "
        f"{plain['extra_s']['median'] * 1e3:.1f} ms with a plain copy: "
        f"{found['copies']:.2f} copies\n"
        f"  blocked {twin['blocked_s'] * 1e3:.2f} ms of a step, "
        f"{twin['blocked_share']:.2%}; capture {capture['gb_per_s']:.1f} GB/s, "
        f"{capture['ratio']:.2f} of memcpy"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--setting", choices=SETTINGS, action="append")
    parser.add_argument("--megabytes", type=float, default=256.0)
    parser.add_argument("--tensors", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--step-s", type=float, default=0.55)
    options = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    for setting in options.setting or SETTINGS:
        found = measure(
            setting,
            megabytes=options.megabytes,
            tensors=options.tensors,
            step_s=options.step_s,
            steps=options.steps,
            rounds=options.rounds,
        )
        print(describe(found), flush=True)
        results.append(found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
