"""Trains a script on nodes of a Ray cluster, protected at every step.

    ray job submit --working-dir . -- python driver.py --machines 4 train.py

Copy it and change what you like: the call at the end is all there is to it.
"""

from __future__ import annotations

import argparse
import sys

import ray

from twinstep.cloud import ray as twinstep_ray


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains a script on a Ray cluster.")
    parser.add_argument("--machines", type=int, required=True)
    parser.add_argument("--standbys", type=int, default=0)
    parser.add_argument("--ranks-per-machine", type=int, default=1)
    parser.add_argument("--num-cpus", type=float, default=1, help="Of each machine.")
    parser.add_argument("--num-gpus", type=float, default=0, help="Of each machine.")
    parser.add_argument("--start-s-max", type=float, default=60.0)
    parser.add_argument("--config", help="A TOML file with the job's settings.")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    ray.init()  # in a Ray job, or on a node, this finds the cluster
    return twinstep_ray.run(
        options.script,
        options.arguments,
        machines=options.machines,
        standbys=options.standbys,
        ranks_per_machine=options.ranks_per_machine,
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        start_s_max=options.start_s_max,
        config=options.config,
    )


if __name__ == "__main__":
    sys.exit(main())
