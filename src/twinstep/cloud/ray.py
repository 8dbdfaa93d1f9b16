"""Machines that are Ray actors, one a node; for a driver, or a Ray job.

```python
import ray
from twinstep.cloud import ray as twinstep_ray

status = twinstep_ray.run("train.py", ["--lr", "3e-4"], machines=4, standbys=1)
```

The driver keeps the key-value store (unless etcd is named) and answers the root's
requests for machines. An actor starts its agent as a child process (child.py) and waits
for it. Ray restarts nothing: it would do so when it has noticed, half a minute after
the lease has told us, and on the same node if that is back.

Rejected: a STRICT_SPREAD placement group. Ray moves a dead node's bundle when *it*
knows of the death, and cannot be told which node to avoid meanwhile. Instead the driver
chooses a node by itself (nodes.py) and names it (NodeAffinity, not soft).

When the driver ends, however it does, the job is over: actors that are not detached end
with it, and agents with their actors.

Left out: Ray Client (`ray://`), whose driver is outside of the cluster's network, and
asking Ray's autoscaler for nodes.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ray

from twinstep import clock, config as settings_of
from twinstep.agent import stores
from twinstep.cloud.child import tidy, write_token
from twinstep.cloud.description import JobFile, agree, write_job
from twinstep.cloud.folders import check_folder
from twinstep.cloud.hosting import job_store, wait_for_result
from twinstep.cloud.nodes import Node, lacking
from twinstep.cloud.operator import LIVING
from twinstep.cloud.ray_fleet import STOP_S_MAX, Needs, RayFleet, list_nodes, say
from twinstep.cloud.serving import Serving
from twinstep.config import Job
from twinstep.environment import jobs_folder
from twinstep.errors import DeadlinePassed, UsageError
from twinstep.placement.strategy import place
from twinstep.trust.credentials import is_loopback

LOOK_S = 0.5
LINES_S = 1.0
"""Ray brings a node's last lines to the driver about half a second later."""
_ray: Any = ray  # its own types are Unknown where options and actors are made


def run(
    script: str | Path,
    arguments: Sequence[str] = (),
    *,
    config: Path | str | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    resources: Mapping[str, float] | None = None,
    environment: Mapping[str, str] | None = None,
    start_s_max: float = 60.0,
    **settings: Any,
) -> int:
    """Trains on nodes of this Ray cluster until the script has ended well on every
    rank, or cannot.

    Args:
      script: a Python file on every node, at this path or below the actors' working
        folder (`runtime_env={"working_dir": ...}` brings it there).
      config: a TOML file with settings of the job.
      num_cpus, num_gpus, resources: what Ray sets aside for each machine.
      environment: of the ranks, beside what the actors have.
      start_s_max: Needs.start_s_max.
      settings: settings of the job, such as `machines`, `standbys`, `copies`; they win
        over the file.

    Returns: 0, or the status to exit with after a failed job.
    Raises: UsageError; DeadlinePassed when the cluster has too few nodes for
    `timing.machine_s_max`."""
    job = settings_of.load(Path(config) if config else None, **settings)
    place(
        job.machines,
        copies=job.copies_held,
        strategy=job.placement,
        domains=job.domains,
    )  # raises here, and not in the first root
    needs = Needs(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources or {},
        start_s_max=start_s_max,
    )
    host = _connect()
    name = stores.job_of(job.store) or uuid.uuid4().hex[:8]
    folder = check_folder(jobs_folder() / name)
    try:
        nodes = _wait_for_nodes(job, needs)
        job, token = _trusted(job, nodes, folder)
        with job_store(job, name, host=host) as (address, store):
            description = JobFile(
                name=name,
                launcher=os.getpid(),
                started_s=clock.now_s(),
                store=address,
                job=job,
                script=str(script),
                arguments=tuple(arguments),
                folder="",
                environment=dict(environment or {}),
            )
            write_job(folder, description)
            agree(store, description)
            say(f"job {name}; see `twinstep status --job {folder}` on this node")
            fleet = RayFleet(description, needs=needs, token=token)
            with closing(Serving(store, fleet, stop_s_max=STOP_S_MAX)) as operator:
                operator.start(job.machines + job.standbys)
                status = wait_for_result(store, operator)
                _let_end(operator)
        return status
    finally:
        tidy(folder)


def _connect() -> str:
    """This process is a driver of Ray; returns its node's address.

    Raises: UsageError."""
    if not _ray.is_initialized():
        _ray.init()
    if _ray.util.client.ray.is_connected():
        raise UsageError(
            "this driver is a Ray Client (ray://), outside of the cluster's network; "
            "submit it as a job: ray job submit -- python driver.py"
        )
    return str(_ray.util.get_node_ip_address())


def _trusted(job: Job, nodes: Sequence[Node], folder: Path) -> tuple[Job, bytes]:
    """The job, and the token made for this run; none where it has credentials, or all
    is on loopback."""
    alone = all(is_loopback(node.address) for node in nodes)
    if alone or job.trust.certs or job.trust.token_file:
        return job, b""
    token = secrets.token_hex(32).encode()
    path = str(write_token(folder, token))
    trust = dataclasses.replace(job.trust, token_file=path)
    return dataclasses.replace(job, trust=trust), token


def _wait_for_nodes(job: Job, needs: Needs) -> list[Node]:
    """Returns the cluster's nodes, when there is one for each machine that trains.

    Raises: DeadlinePassed."""
    until_s = clock.monotonic_s() + job.timing.machine_s_max
    told = False
    while True:
        nodes = [node for node in list_nodes() if node.alive]
        fit = [node for node in nodes if not lacking(node, needs.by_name)]
        wanted = job.machines + job.standbys
        late = clock.monotonic_s() > until_s
        if len(fit) >= wanted or (late and len(fit) >= job.machines):
            return nodes
        what = ", ".join(f"{name} {n:g}" for name, n in needs.by_name.items())
        text = (
            f"{len(fit)} of {len(nodes)} nodes can hold a machine ({what or 'nothing'}"
            f"), {wanted} are wanted: each has a node to itself"
        )
        if late:
            within = f"{job.timing.machine_s_max:g} s"
            raise DeadlinePassed(f"after {within} {text}; add nodes, or ask for less")
        if not told:
            say(f"waits for nodes: {text}")
        told = True
        time.sleep(LOOK_S)


def _let_end(operator: Serving) -> None:
    """Agents that have heard of the result end by themselves, and their last lines
    come to the driver."""
    until_s = clock.monotonic_s() + STOP_S_MAX
    while clock.monotonic_s() < until_s:
        if all(machine.state != LIVING for machine in operator.machines()):
            break
        time.sleep(LOOK_S / 10)
    time.sleep(LINES_S)
