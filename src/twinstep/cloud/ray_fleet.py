"""Ray actors as machines: chosen a node each, watched, killed.

Everything that is said to Ray about actors is said here, by the thread that serves
requests (serving.py). Ray tells of an actor's end at once while its node lives, and of
a node's end late; whoever knows earlier gives the machine back.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import msgspec
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from twinstep import clock
from twinstep.cloud.child import Child
from twinstep.cloud.description import JobFile
from twinstep.cloud.nodes import Node, choose
from twinstep.cloud.serving import Gone, NoMachine, Started
from twinstep.errors import TwinstepError, UsageError

NODES_TRIED_MAX = 3
"""On so many nodes one machine is tried to be started, before it counts as ended."""
STOP_S_MAX = 10.0
"""Actors are gone within this time after they were killed."""
_ray: Any = ray  # its own types are Unknown where options and actors are made


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What Ray sets aside for a machine on its node, and how long it may take to."""

    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])
    start_s_max: float = 60.0
    """An actor has started its agent within this time, its runtime_env included; else
    another node is tried."""

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or self.num_gpus < 0 or self.start_s_max <= 0:
            raise UsageError(
                f"num_cpus ({self.num_cpus:g}) and num_gpus ({self.num_gpus:g}) must "
                f"be at least 0, start_s_max ({self.start_s_max:g}) more"
            )

    @property
    def by_name(self) -> dict[str, float]:
        """As nodes name what they have."""
        found = {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}
        return {name: need for name, need in found.items() if need > 0}


@dataclass(slots=True, kw_only=True)
class _Actor:
    """A machine that was given, on the node where it is tried now."""

    node: Node
    handle: Any
    started: Any
    """Ray's reference to the agent's process; None once that is known."""
    ended: Any
    until_s: float
    tried: int


@final
class RayFleet:
    """Machines that are actors of this driver."""

    def __init__(self, job: JobFile, *, needs: Needs, token: bytes) -> None:
        self._job, self._needs, self._token = job, needs, token
        self._description = msgspec.json.encode(
            msgspec.structs.replace(job, environment={})
        )
        self._living: dict[str, _Actor] = {}
        self._lost: dict[str, str] = {}
        self._failed: dict[str, int] = {}
        self._gone: list[Gone] = []

    def start(self, name: str) -> Started:
        """An actor for the machine is on its way to a node. Raises: NoMachine."""
        self._living[name] = self._create(name, tried=1)
        return Started()

    def _create(self, name: str, *, tried: int) -> _Actor:
        node = choose(
            list_nodes(),
            needs=self._needs.by_name,
            taken={actor.node.id: name for name, actor in self._living.items()},
            lost=self._lost,
            failed=self._failed,
        )
        job, needs = self._job.job, self._needs
        standbys = range(job.machines, job.machines + job.standbys)
        threads = max(1, int(needs.num_cpus) // job.ranks_per_machine)
        handle = (
            _ray.remote(Child)
            .options(
                name=f"twinstep-{self._job.name}-{name}-{tried}",
                num_cpus=needs.num_cpus,
                num_gpus=needs.num_gpus,
                resources=dict(needs.resources),
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote(name)
        )
        started = handle.start.remote(
            self._description,
            host=node.address,
            standby=int(name.removeprefix("m")) in standbys,
            token=self._token,
            settings={"OMP_NUM_THREADS": str(threads), **self._job.environment},
        )
        say(f"{name} is asked for on node {node.address}")
        return _Actor(
            node=node,
            handle=handle,
            started=started,
            ended=handle.wait.remote(),
            until_s=clock.monotonic_s() + needs.start_s_max,
            tried=tried,
        )

    def kill(self, name: str) -> None:
        """The actor is killed, and the node not used again: whether it lives nobody
        knows yet."""
        actor = self._living.pop(name, None)
        if actor is None:
            return
        _ray.kill(actor.handle)
        self._lost[actor.node.id] = name
        self._gone.append(Gone(name=name, status=-9, reason="it was killed"))

    def ended(self) -> list[Gone]:
        for name, actor in list(self._living.items()):
            if actor.started is not None:
                self._look_at_start(name, actor)
            elif _is_there(actor.ended):
                del self._living[name]
                status, reason = _end_of(actor.ended)
                say(f"{name} on node {actor.node.address} has ended: {reason}")
                self._gone.append(Gone(name=name, status=status, reason=reason))
        gone, self._gone = self._gone, []
        return gone

    def _look_at_start(self, name: str, actor: _Actor) -> None:
        if not _is_there(actor.started):
            if clock.monotonic_s() > actor.until_s:
                within = f"{self._needs.start_s_max:g} s"
                self._try_elsewhere(name, actor, f"no answer from it within {within}")
            return
        try:
            _ray.get(actor.started)
        except (RayError, TwinstepError) as error:
            self._try_elsewhere(name, actor, _in_words(error))
        else:
            actor.started = None

    def _try_elsewhere(self, name: str, actor: _Actor, why: str) -> None:
        """A machine that could not be started is tried on another node."""
        del self._living[name]
        _ray.kill(actor.handle)
        self._failed[actor.node.id] = self._failed.get(actor.node.id, 0) + 1
        why = f"{name} cannot be started on node {actor.node.address}: {why}"
        say(why)
        try:
            if actor.tried == NODES_TRIED_MAX:
                raise NoMachine(f"{actor.tried} nodes were tried")
            self._living[name] = self._create(name, tried=actor.tried + 1)
        except NoMachine as error:
            reason = f"{why}; {error}"
            self._gone.append(Gone(name=name, status=1, reason=reason))

    def close(self) -> list[str]:
        for actor in self._living.values():
            _ray.kill(actor.handle)
        references = [actor.ended for actor in self._living.values()]
        if references:
            _ray.wait(references, num_returns=len(references), timeout=STOP_S_MAX)
        return [n for n, actor in self._living.items() if not _is_there(actor.ended)]


def list_nodes() -> list[Node]:
    """Returns the nodes of the cluster as Ray knows them, dead ones among."""
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            alive=node["Alive"],
            resources=node["Resources"],
        )
        for node in _ray.nodes()
    ]


def _is_there(reference: Any) -> bool:
    return bool(_ray.wait([reference], timeout=0)[0])


def _end_of(reference: Any) -> tuple[int, str]:
    """How an agent has ended: its status, and that in words."""
    try:
        status = int(_ray.get(reference))
    except RayError as error:
        return 1, _in_words(error)
    return status, f"its agent ended with {status}"


def _in_words(error: Exception) -> str:
    """The last line of Ray's report, which is the reason; ours are one line anyway."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = "its actor is gone: " if isinstance(error, RayActorError) else ""
    return what + (lines[-1] if lines else type(error).__name__)


def say(text: str) -> None:
    """A line of the driver's own, as the launcher has them."""
    sys.stdout.write(f"twinstep: {text}\n")
    sys.stdout.flush()
