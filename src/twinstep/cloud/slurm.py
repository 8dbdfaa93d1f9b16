"""Gives machines of a Slurm cluster: each replacement is one more batch job.

A job begins as one allocation; its batch script starts an agent on each node by
`srun` (recipes/slurm/train.sbatch). Nodes beyond `machines` stand by. When a machine
is lost, its replacement is the same batch script once more, on one node:

```
 job 17: n1 n2 n3 (spare)          n2 lost            job 18: n4
 batch script ─ srun ─ join        ask for-n2  ────►  same script ─ srun ─ join
```

The script is read from Slurm (`scontrol write batch_script`), so partition, account,
modules and containers are the user's own. It finds TWINSTEP_STORE and
TWINSTEP_REPLACES in its environment. Such a job needs nobody who lives where the root
does: no `srun` that dies with the root's machine, no loop in the first batch step.

A request is asked for once: its Slurm job bears its name, depends on no other of that
name being alive (`singleton`), and is noted in the store.

A lost lease is not yet a bad node. What is silent, Slurm judges by its own heartbeat;
only what failed while it spoke is drained (`slurm.drain`), with the reason, and given
nothing more by this run, drained or not.

Rejected: growing the allocation (needs `permit_job_expansion`, and somebody to start
the agent in it), `srun --overlap` from the root (dies with it). Left out: giving single
nodes of the first allocation back before the job ends.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import final

import msgspec

from twinstep.agent.kv import KeyValueStore, Put
from twinstep.agent.seat import MACHINES, RESULT, STATUS
from twinstep.agent.status import Status
from twinstep.clock import monotonic_s
from twinstep.cloud import slurm_places as places
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.cloud.slurm_calls import (
    ON_PURPOSE,
    PENDING,
    RUNNING,
    SlurmCalls,
    SlurmJob,
    answers,
)
from twinstep.cloud.slurm_places import Request
from twinstep.cloud_settings import Slurm
from twinstep.errors import ConfigError, TwinstepError

SILENCE = ("silent for", "lease lapsed", "did not stop within")
"""Reasons that say only that nothing was heard of a machine."""
LAST_RESORT = (
    "the last resort is `scontrol requeue`: it starts again from storage, or step 0, "
    "as memory is lost with it"
)
LOOK_S = 0.1
_log = logging.getLogger(__name__)


@final
class SlurmOperator:
    """What the root on a node of Slurm's asks for machines. Each call makes at most
    a few of Slurm's own, each with a deadline.

    Raises: ConfigError where Slurm did not start this process."""

    def __init__(
        self,
        store: KeyValueStore,
        *,
        name: str,
        machine: str,
        address: str,
        settings: Slurm,
    ) -> None:
        self._place = places.here()
        self._store, self._name, self._machine = store, name, machine
        self._address = address
        self._settings = settings
        self._calls = SlurmCalls(call_s_max=settings.call_s_max)
        self._seen: dict[str, SlurmJob] = {}
        self._seen_s = -settings.look_s
        self._told: dict[str, str] = {}
        self._pause = threading.Event()

    # The four calls.

    def ask(self, request: str, *, reason: str) -> None:
        known = places.requests(self._store)
        if request in known:
            return
        if refused := self._refusal(len(known)):
            places.save(self._store, request, Request(reason=refused))
            return
        until_s = monotonic_s() + self._settings.return_s
        while not places.claim(self._store, request, alive=self._alive()):
            if monotonic_s() >= until_s:
                self._submit(request, reason)
                return
            self._pause.wait(LOOK_S)

    def answer(self, request: str) -> Answer | None:
        known = places.requests(self._store).get(request)
        if known is None:
            return None
        if not known.machine and not known.reason:
            known = self._outcome(request, known)
        if not known.machine and not known.reason:
            return None
        return Answer(machine=known.machine, reason=known.reason)

    def give_back(self, machine: str, *, reason: str) -> None:
        place = places.place_of(self._store, machine)
        if place is None:
            return  # it never came so far
        if is_bad(reason):
            self._mark_bad(place.node, machine, reason)
        if place.replacement:
            self._calls.cancel(place.job)

    def machines(self) -> list[Machine]:
        found: list[Machine] = []
        for request, known in places.requests(self._store).items():
            if not known.machine:
                continue
            jobs = self._look([known.job] if known.job else [])
            job = jobs.get(known.job)
            if not known.job or (job is not None and job.state in RUNNING):
                living = Machine(name=known.machine, state=LIVING, reason=request)
                found.append(living)
                continue
            how = f"has ended {job.state}" if job else "is forgotten by Slurm"
            reason = f"its Slurm job {known.job} {how}"
            found.append(Machine(name=known.machine, state=ENDED, reason=reason))
        return sorted(found, key=lambda machine: machine.name)

    def close(self) -> None:
        """The root's agent ends. When the run is over, replacements that still wait
        are cancelled, and so is a Slurm job whose batch script has died with its node:
        nobody else would end it, and it would hold its other nodes until its limit."""
        with contextlib.suppress(TwinstepError):
            if not self._store.get(RESULT)[1] or self._root() != self._machine:
                return
            for known in places.requests(self._store).values():
                if known.job and not known.machine:
                    self._calls.cancel(known.job)
            for job, launcher in sorted(places.launchers(self._store).items()):
                if launcher[1] and not answers(launcher):
                    _log.warning(
                        "the run is over, and the batch script of Slurm job %s is "
                        "gone: the job is cancelled",
                        job,
                    )
                    self._calls.cancel(job)

    # How.

    def _refusal(self, asked: int) -> str:
        """Why no machine is asked for; empty when one is."""
        if asked >= self._settings.replacements_max:
            return (
                f"{asked} machines were asked for in this run; slurm.replacements_max "
                f"allows {self._settings.replacements_max}; {LAST_RESORT}"
            )
        first = places.first_job(self._store)
        job = self._calls.jobs([first]).get(first) if first else None
        if job is None or not job.state.startswith(ON_PURPOSE):
            return ""
        self._end_all()
        return f"Slurm job {first}, with which the run began, has ended {job.state}"

    def _end_all(self) -> None:
        """The replacements end with the allocation that they belong to."""
        for known in places.requests(self._store).values():
            if known.job and known.job != self._place.job:
                self._calls.cancel(known.job)
        if self._place.replacement:
            self._calls.cancel(self._place.job)

    def _submit(self, request: str, reason: str) -> None:
        name = f"twinstep-{self._name}-{request}"
        same = self._calls.jobs(name=name)
        alive = [id for id, job in same.items() if job.state in PENDING + RUNNING]
        job = min(alive, key=_number, default="")
        if not job:
            job = self._calls.submit(
                self._script(),
                options=self._options(name),
                exported={"TWINSTEP_STORE": self._address, "TWINSTEP_REPLACES": "1"},
            )
            _log.warning("Slurm job %s was submitted: %s", job, reason)
        places.save(self._store, request, Request(job=job))

    def _script(self) -> str:
        if not self._settings.script:
            return self._calls.script(self._place.job)
        try:
            with open(self._settings.script) as file:
                return file.read()
        except OSError as error:
            raise ConfigError(f"slurm.script cannot be read: {error}") from error

    def _options(self, name: str) -> list[str]:
        options = ["--nodes=1", "--ntasks=1", "--no-requeue", f"--job-name={name}"]
        options.append("--dependency=singleton")
        if bad := places.bad_nodes(self._store):
            options.append(f"--exclude={','.join(sorted(bad))}")
        return [*options, *self._settings.options]

    def _outcome(self, request: str, known: Request) -> Request:
        """What Slurm has made of a request so far, noted once that is final."""
        job = self._look([known.job]).get(known.job)
        if job is not None and job.state in PENDING:
            if claimed := places.claim(self._store, request, alive=self._alive()):
                self._calls.cancel(known.job)
                return Request(machine=claimed)
            self._tell_waiting(job)
            return known
        if job is not None and job.state in RUNNING and job.nodes:
            known = Request(job=job.id, machine=f"{job.nodes}.{job.id}")
        else:
            how = f"has ended {job.state}" if job else "is forgotten by Slurm"
            reason = f"Slurm job {known.job}, a replacement, {how}; {LAST_RESORT}"
            known = Request(job=known.job, reason=reason)
        places.save(self._store, request, known)
        return known

    def _tell_waiting(self, job: SlurmJob) -> None:
        """Once for each thing that it waits for."""
        if self._told.get(job.id) != job.reason and job.reason != "None":
            self._told[job.id] = job.reason
            _log.warning("Slurm job %s, a replacement, waits: %s", job.id, job.reason)

    def _look(self, ids: list[str]) -> dict[str, SlurmJob]:
        """Returns what Slurm said of jobs not long ago: it is asked rarely."""
        missing = any(id not in self._seen for id in ids)
        now_s = monotonic_s()
        if ids and (missing or now_s - self._seen_s >= self._settings.look_s):
            jobs = {r.job for r in places.requests(self._store).values() if r.job}
            self._seen = self._calls.jobs(sorted(jobs | set(ids)))
            self._seen_s = now_s
        return self._seen

    def _root(self) -> str:
        item = self._store.get(STATUS)[1].get(STATUS)
        return msgspec.json.decode(item.value, type=Status).root if item else ""

    def _alive(self) -> set[str]:
        _, items = self._store.get(MACHINES)
        return {key.removeprefix(MACHINES) for key in items}

    def _mark_bad(self, node: str, machine: str, reason: str) -> None:
        text = f"twinstep: {machine} of {self._name}: {reason}"[:200]
        self._store.transact([Put(key=places.BAD + node, value=text.encode())])
        if self._settings.drain == "never":
            return
        try:
            self._calls.drain(node, text)
        except TwinstepError as error:
            _log.warning(
                "node %s is bad (%s), and could not be drained: %s; ask those who "
                "operate the cluster to. This run does not use it any more",
                node,
                reason,
                error,
            )


def is_bad(reason: str) -> bool:
    """Whether a machine that was given back failed while it was heard of."""
    return not any(words in reason for words in SILENCE)


def _number(job: str) -> tuple[int, str]:
    digits = job.partition("_")[0]
    return (int(digits) if digits.isdecimal() else 0, job)
