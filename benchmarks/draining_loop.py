"""The training loop that benchmarks/draining.py times; `twinstep run` starts it.

That of benchmarks/loop.py, with replicas on all ranks and every step protected. The
batch is given, so that all jobs compute the same; 0 chooses one for a step of about
`--step-s`. The first steps are not counted: slots are reserved in them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch.distributed as dist

from benchmarks.loop import Protection, Training


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--tensors", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--result", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = options()
    dist.init_process_group("gloo")
    training = Training(megabytes=args.megabytes, tensors=args.tensors, ddp=True)
    training.rows = args.rows or training.rows
    if not args.rows:
        training.choose_batch(args.step_s)
    protection = Protection(training)
    for _ in range(args.warm_up):
        training.step()
        protection.after_step()
        protection.settle()
    first, began_s = protection.session.statistics(), time.perf_counter()
    steps_s: list[float] = []
    for _ in range(args.steps):
        step_began_s = time.perf_counter()
        training.step()
        protection.after_step()
        steps_s.append(time.perf_counter() - step_began_s)
    took_s = time.perf_counter() - began_s
    last = protection.session.statistics()
    if training.rank == 0:
        result = {
            "bytes": training.size,
            "tensors": len(training.live),
            "rows": training.rows,
            "captured": last.captured - first.captured,
            "blocked_s": last.blocked_s - first.blocked_s,
            "steps_s": steps_s,
            "took_s": took_s,
        }
        args.result.write_text(json.dumps(result))
    protection.session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
