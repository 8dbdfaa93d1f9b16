"""Launches a job's first pods, and ends as the job does.

    python -m twinstep.launch_pods --store etcd://etcd:2379/run-1 --config run.toml

This is what the Job of deploy/kubernetes/run.yaml runs. It asks for `machines` and
`standbys` pods by fixed names, so a launcher that is started again finds those of the
first; once the job has begun it asks for none, for then its root does. The pods are
owned by whatever owns the launcher's pod: the Job that is deleted takes them with it.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from twinstep import config
from twinstep.agent import seat, stores
from twinstep.agent.kv import KeyValueStore
from twinstep.clock import monotonic_s
from twinstep.cloud.kubernetes import KubernetesOperator
from twinstep.cloud.operator import LIVING
from twinstep.errors import DeadlinePassed, Refused, TwinstepError, UsageError
from twinstep.jobs import Result, result_of
from twinstep.telling import tell
from twinstep.trust.credentials import load

LOOK_S = 1.0
LONELY_LOOKS_MAX = 5
"""Looks in a row that find no living pod of the job: it is over without a result."""


def launch(
    job: config.Job, operator: KubernetesOperator, store: KeyValueStore
) -> Result:
    """Returns the job's result. Raises: DeadlinePassed, Refused."""
    asked: list[str] = []
    if not _begun(store, job.timing.machine_s_max):
        asked = [str(number) for number in range(job.machines)]
        spare = [f"s{number}" for number in range(job.standbys)]
        for name in asked:
            operator.ask(name, reason="the job's start", role="trains")
        for name in spare:
            operator.ask(name, reason="the job's start", role="standby")
        asked += spare
    return _wait(operator, store, asked)


def _begun(store: KeyValueStore, patience_s: float) -> bool:
    """Whether a root has made a plan; the store may still have to start."""
    until_s = monotonic_s() + patience_s
    while True:
        try:
            _, items = store.get(seat.PLAN)
            return seat.PLAN in items
        except DeadlinePassed as error:
            if monotonic_s() > until_s:
                raise
            tell(f"twinstep: {error}")
            time.sleep(LOOK_S)


def _wait(
    operator: KubernetesOperator, store: KeyValueStore, asked: list[str]
) -> Result:
    said: dict[str, str] = {}
    lonely = 0
    while True:
        try:
            result = result_of(store)
            if result is not None:
                return result
            living = [m.name for m in operator.machines() if m.state == LIVING]
            waits = any(operator.answer(name) is None for name in asked)
            lonely = 0 if living or waits else lonely + 1
        except DeadlinePassed as error:
            _tell(said, "store", str(error))
        if lonely > LONELY_LOOKS_MAX:
            raise Refused("all machines have ended without a result")
        for name in asked:
            answer = operator.answer(name)
            if answer is not None:
                _tell(said, name, answer.reason or f"pod {answer.machine} runs")
        time.sleep(LOOK_S)


def _tell(said: dict[str, str], key: str, text: str) -> None:
    if said.get(key) != text:
        said[key] = text
        tell(f"twinstep: {text}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="twinstep.launch_pods")
    parser.add_argument("--store", required=True)
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--pod", default=socket.gethostname(), help="this pod's name")
    options = parser.parse_args(arguments)
    try:
        job = config.load(options.config, store=options.store)
        name = stores.job_of(job.store)
        if not name:
            raise UsageError(f"{job.store} names no job; etcd://HOST:2379/JOB")
        operator = KubernetesOperator(
            job=name, machine=options.pod, settings=job.kubernetes
        )
        credentials = load(job.trust)
        with closing(stores.open_store(job.store, credentials=credentials)) as store:
            result = launch(job, operator, store)
    except TwinstepError as error:
        tell(f"twinstep: {error}", error=True)
        return 2 if isinstance(error, UsageError) else 1
    tell(f"twinstep: {result.reason}")
    return result.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
