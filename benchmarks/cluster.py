"""A job on a real etcd: how long a lost machine, root or leader of etcd is felt.

    python -m benchmarks.cluster [--json FILE] [--machines N] [--roots N] [--leaders N]

Three members of etcd on loopback, election timeout 600 ms; two machines of one rank
each and two warm standbys, all settings as they are by default. Again and again a
machine (agent and rank at once) is killed that is not root, then the root's, then the
process of etcd's leader, which is started again afterwards. The first two are timed
from the signal to the root's decision (every place is taken and the step to go back to
is chosen) and to the first step of the new ranks; the third by the longest time between
two steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import jobs
from benchmarks.recovery import SCRIPT, Steps, summary
from twinstep import inject
from twinstep.agent import stores
from twinstep.agent.census import LIVE
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.record import Recovery
from twinstep.agent.status import Status
from twinstep.demo.hosts.members import Members, on_loopback

MEGABYTES = 4.0
LIMIT_S = 120.0
SETTLE_S = 3.0
"""A standby that has just joined imports its frameworks for so long."""
WATCHED_S = 6.0
"""Before and after the leader of etcd is lost, steps are looked at for so long."""
STANDBYS = 2


class Bench:
    """The job, and what is done to it."""

    def __init__(self, folder: Path, etcd: Members) -> None:
        self.steps, self.etcd = Steps(folder), etcd
        shape = {"machines": 2, "copies": 2, "standbys": STANDBYS}
        self.job = jobs.Job(
            folder / "job",
            SCRIPT,
            self.steps.arguments(MEGABYTES),
            options=("--store", f"etcd://{etcd.endpoints}"),
            **shape,
        )

    def ready(self) -> Status:
        """All copies exist, and both standbys are warm."""

        def seen(view: Any) -> Status | None:
            status: Status | None = view.status()
            known: list[Recovery] = view.recoveries()
            if status is None or status.phase != "training" or not status.safe:
                return None
            if known and not known[-1].redundant_s:
                return None
            newest = known[-1].first_step_s if known else 0.0
            enough = len(status.machines) >= 2 + STANDBYS
            return status if enough and self.steps.made(4, newest) else None

        self.job.wait("copies and standbys", seen, limit_s=LIMIT_S)
        time.sleep(SETTLE_S)
        return self.job.wait("copies and standbys", seen, limit_s=LIMIT_S)

    def lose(self, *, root: bool) -> dict[str, float]:
        """A machine is killed; returns when what followed had happened, in seconds."""
        status = self.ready()
        former, count = self.steps.pids(), status.recoveries
        members = [m.machine for m in status.machines if m.machine_rank >= 0]
        name = status.root
        if not root:
            name = next(m for m in members if m != status.root)
        killed_s = time.time()
        inject.kill_machine(status, name)

        def recovered(view: Any) -> Recovery | None:
            known: list[Recovery] = view.recoveries()
            return known[count] if len(known) > count and known[count].done else None

        record = self.job.wait("a recovery", recovered, limit_s=LIMIT_S)
        back_s = self.job.wait(
            "a new step", lambda _: self.steps.back(killed_s, former), limit_s=LIMIT_S
        )
        phases = ("detected", "decided", "ranks_up", "loaded")
        found = {
            **{name: getattr(record, f"{name}_s") - killed_s for name in phases},
            "back": back_s,
            "failures": 1.0 + len(record.also),
            "steps_lost": float(record.steps_lost),
        }
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"  {name}{' (root)' if root else ''}: {numbers}", flush=True)
        return found

    def lose_leader(self, store: KeyValueStore) -> dict[str, float]:
        """The leader of etcd is killed; returns the longest times between steps."""
        before = self.ready()
        time.sleep(WATCHED_S)
        leader, leases = self.etcd.leader(), _created(store)
        killed_s = time.time()
        self.etcd.signal(leader, signal.SIGKILL)
        time.sleep(WATCHED_S)
        self.etcd.start(leader)
        self.etcd.ready()
        after, now = self.ready(), _created(store)
        return {
            "gap": self._gap(killed_s, killed_s + WATCHED_S),
            "gap_before": self._gap(killed_s - WATCHED_S, killed_s),
            "leases_lost": float(sum(now.get(k) != at for k, at in leases.items())),
            "rounds": float(after.round - before.round),
        }

    def _gap(self, from_s: float, to_s: float) -> float:
        times = [at_s for at_s, _, _ in self.steps.of(0) if from_s <= at_s <= to_s]
        pairs = itertools.pairwise([from_s, *times, to_s])
        return max(later - earlier for earlier, later in pairs)


def _created(store: KeyValueStore) -> dict[str, int]:
    """When each key under a lease came to be: a lease that lapsed changes that."""
    _, items = store.get(LIVE)
    return {key: item.created for key, item in items.items() if item.lease}


def measure(*, machines: int = 20, roots: int = 20, leaders: int = 5) -> dict[str, Any]:
    found: dict[str, Any] = {"load": [os.getloadavg()[0]]}
    with (
        tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name,
        closing(Members(on_loopback(3), Path(name) / "etcd")) as etcd,
    ):
        etcd.ready()
        bench = Bench(Path(name), etcd)
        try:
            kinds = [("machine", False, machines), ("root", True, roots)]
            for kind, root, count in kinds:
                lost = [bench.lose(root=root) for _ in range(count)]
                found |= {kind: summary(lost)} if lost else {}
                found["load"].append(os.getloadavg()[0])
            view = bench.job.wait("the job", lambda v: v, limit_s=LIMIT_S)
            with closing(stores.open_store(view.job.store)) as store:
                lost = [bench.lose_leader(store) for _ in range(leaders)]
            found |= {"leader": summary(lost)} if lost else {}
            found["load"].append(os.getloadavg()[0])
            bench.steps.stop.touch()
            bench.job.wait_end(limit_s=LIMIT_S)
        finally:
            bench.job.close()
    return found


def describe(kind: str, found: dict[str, Any]) -> str:
    median, worst = found["median_s"], found["max_s"]
    if kind == "leader":
        return (
            f"{len(found['kills'])} leaders of etcd lost: longest time between steps "
            f"{median['gap']:.2f} s (at most {worst['gap']:.2f}; before the loss "
            f"{median['gap_before']:.2f}, at most {worst['gap_before']:.2f}); leases "
            f"lost {worst['leases_lost']:.0f}, rounds begun {worst['rounds']:.0f}"
        )
    return (
        f"{len(found['kills'])} {kind} losses: decided after {median['decided']:.2f} s "
        f"(at most {worst['decided']:.2f}), first new step {median['back']:.2f} s "
        f"(at most {worst['back']:.2f}), steps lost {median['steps_lost']:.0f} "
        f"(at most {worst['steps_lost']:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    for name, count in (("machines", 20), ("roots", 20), ("leaders", 5)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    found = measure(
        machines=options.machines, roots=options.roots, leaders=options.leaders
    )
    for kind in ("machine", "root", "leader"):
        if kind in found:
            print(describe(kind, found[kind]))
    print("load averages:", ", ".join(f"{load:.1f}" for load in found["load"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
