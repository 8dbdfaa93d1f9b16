"""Gives machines as pods, from within the root's own pod, by the official client.

There is no controller to install: the root's agent asks the API with its pod's service
account. A thread does it, so that an API that is slow or away holds nobody up; `ask`
and `give_back` only say what is wanted. Everything it does is safe to do again, so a
new root just asks for what the old one may have asked for.

    give_back  read the pod, is it this job's?  delete it at once, with grace 0
    ask        read the template, create the pod, look at it until it runs

A lost machine's pod is deleted by force, since a kubelet that is gone would never
confirm it, and the controllers wait five minutes before they do the same. Two pods of
one machine cannot come of it: the new one has another name, and words of the old are
refused by round and term. A kubelet that comes back ends what was deleted meanwhile.

What may pass (a quota, no room, an API that is away) is tried again and again for
`ask_s_max`, and is no answer until then; after `patience_s` the log tells. A pod that
has not run by then is deleted: whoever asks again, under another name, gets one pod.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import final

from twinstep.clock import monotonic_s
from twinstep.cloud import pods
from twinstep.cloud.kubernetes_api import Api, Denied, own_namespace
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.cloud.pods import Object, Pod, Role
from twinstep.cloud_settings import Kubernetes
from twinstep.errors import DeadlinePassed, Refused

REMAKES_MAX = 3
"""A pod that is deleted under a request is made again so often."""
AVOIDED_MAX = 50
"""Nodes that are avoided at the same time; the oldest is forgotten."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Request:
    """A machine that is wanted, and how far that has come."""

    name: str
    reason: str
    role: Role
    asked_s: float
    next_s: float
    made: bool = False
    remakes: int = 0
    told_s: float = 0.0
    """When the log last told why there is no pod yet."""


@dataclass(slots=True, kw_only=True)
class _Return:
    """A machine that is to go."""

    machine: str
    reason: str
    asked_s: float
    next_s: float


@final
class KubernetesOperator:
    """Gives pods to the job `job`; `machine` is the pod this runs in, if it is one
    of the job's."""

    def __init__(
        self, *, job: str, machine: str, settings: Kubernetes, api: Api | None = None
    ) -> None:
        self._job, self._machine, self._settings = job, machine, settings
        self._api = api or Api(namespace=own_namespace(), settings=settings)
        self._template: Object | None = None
        self._owners: list[Object] | None = None
        self._answers: dict[str, Answer] = {}
        self._open: dict[str, _Request | _Return] = {}
        self._avoided: dict[str, float] = {}
        self._said: queue.SimpleQueue[_Request | _Return | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, request: str, *, reason: str, role: Role = "standby") -> None:
        if request in self._answers or f"ask {request}" in self._open:
            return
        if len(self._answers) + len(self._open) >= self._settings.requests_max:
            raise Refused(
                f"{self._settings.requests_max} requests were made; a job that asks "
                "for more is broken, or raise kubernetes.requests_max"
            )
        now_s = monotonic_s()
        self._say(
            _Request(
                name=request, reason=reason, role=role, asked_s=now_s, next_s=now_s
            )
        )

    def answer(self, request: str) -> Answer | None:
        return self._answers.get(request)

    def give_back(self, machine: str, *, reason: str) -> None:
        now_s = monotonic_s()
        self._say(_Return(machine=machine, reason=reason, asked_s=now_s, next_s=now_s))

    def machines(self) -> list[Machine]:
        """Raises: DeadlinePassed, Refused when the API cannot tell."""
        most = self._settings.requests_max
        try:
            found = self._api.of_job(self._job, most=most)
        except Denied as error:
            kind = DeadlinePassed if error.denial.passes else Refused
            raise kind(str(error)) from error
        here = [
            Machine(
                name=pod.metadata.name,
                state=ENDED if pod.is_over or pod.is_ending else LIVING,
                status=pod.exit_status,
                reason=pods.why_over(pod) if pod.is_over else "",
            )
            for pod in found
        ]
        names = {machine.name for machine in here}
        gone = [
            Machine(name=answer.machine, state=ENDED, reason="its pod was deleted")
            for answer in list(self._answers.values())
            if answer.machine and answer.machine not in names
        ]
        return sorted([*here, *gone], key=lambda machine: machine.name)

    def own_by(self, owners: list[Object]) -> None:
        """Pods are owned by these objects, and deleted when they are."""
        self._owners = owners

    def close(self) -> None:
        """Nothing more is asked of the API."""
        self._said.put(None)
        if self._thread is not None:
            self._thread.join(2 * self._settings.call_s_max)

    # The thread.

    def _say(self, wish: _Request | _Return) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="twinstep-operator", daemon=True
            )
            self._thread.start()
        self._said.put(wish)

    def _run(self) -> None:
        while True:
            try:
                wish = self._said.get(timeout=self._pause_s())
                if wish is None:
                    return
                match wish:
                    case _Request(name=name):
                        self._open.setdefault(f"ask {name}", wish)
                    case _Return(machine=name):
                        self._open.setdefault(f"give back {name}", wish)
            except queue.Empty:
                pass
            for key, wish in list(self._open.items()):
                if wish.next_s <= monotonic_s() and self._attend(wish):
                    del self._open[key]

    def _pause_s(self) -> float | None:
        if not self._open:
            return None
        soonest_s = min(wish.next_s for wish in self._open.values())
        return max(0.0, soonest_s - monotonic_s())

    def _attend(self, wish: _Request | _Return) -> bool:
        """Goes one step; returns whether there is nothing more to do."""
        wish.next_s = monotonic_s() + self._settings.look_s
        try:
            if isinstance(wish, _Return):
                self._delete(wish)
                return True
            if not wish.made:
                self._create(wish)
            return self._look(wish)
        except Denied as error:
            late = monotonic_s() - wish.asked_s >= self._settings.ask_s_max
            done = late or not error.denial.passes
            if isinstance(wish, _Return):
                if done:
                    _log.warning("kubernetes: %s", error)
                return done
            if done:
                self._refuse(wish, str(error))
            else:
                self._tell(wish, str(error))
            return done

    def _create(self, wish: _Request) -> None:
        if self._template is None:
            name = self._settings.template or self._job
            self._template = self._api.template(name)
        if self._owners is None:
            self._owners = self._own_owners()
        pod = pods.pod_for(
            self._template,
            job=self._job,
            request=wish.name,
            reason=wish.reason,
            role=wish.role,
            owners=self._owners,
            avoid=self._nodes_to_avoid(),
        )
        try:
            self._api.create(pod)
        except Denied as error:
            if error.denial.reason != "AlreadyExists":
                raise
        wish.made = True

    def _own_owners(self) -> list[Object]:
        """What owns the root's pod owns the new one: both go with it."""
        try:
            return self._api.pod(self._machine).metadata.owner_references
        except Denied as error:
            if error.denial.code != 404:
                raise
            return []

    def _look(self, wish: _Request) -> bool:
        """Answers a request once its pod runs, or tells why it does not."""
        name = pods.pod_name(self._job, wish.name)
        try:
            pod = self._api.pod(name)
        except Denied as error:
            if error.denial.code != 404:
                raise
            return self._remake(wish, f"pod {name} was deleted before it ran")
        labels = pod.metadata.labels
        if labels.get(pods.JOB) != self._job or labels.get(pods.REQUEST) != name:
            self._refuse(wish, f"a pod {name} is there that is not this job's")
            return True
        if pod.is_ending:
            # Evicted: from a node that is gone, its end would never be confirmed.
            self._avoid(pod)
            self._api.delete(pod)
            where = f"pod {name} was evicted from {pod.spec.node_name or 'nowhere'}"
            return self._remake(wish, where)
        if pod.is_over:
            self._refuse(wish, pods.why_over(pod))
            return True
        if pod.status.phase == "Running":
            self._answers[wish.name] = Answer(machine=name)
            return True
        late = monotonic_s() - wish.asked_s >= self._settings.ask_s_max
        if late:
            self._api.delete(pod)
            self._refuse(wish, pods.why_pending(pod))
        else:
            self._tell(wish, pods.why_pending(pod))
        return late

    def _remake(self, wish: _Request, what: str) -> bool:
        wish.remakes += 1
        if wish.remakes > REMAKES_MAX:
            self._refuse(wish, f"{what}, {wish.remakes} times")
            return True
        wish.made, wish.next_s = False, monotonic_s()
        return False

    def _tell(self, wish: _Request, why: str) -> None:
        """The log says what is waited for, every now and then."""
        now_s = monotonic_s()
        if now_s - max(wish.asked_s, wish.told_s) >= self._settings.patience_s:
            wish.told_s = now_s
            _log.warning("kubernetes: %s; goes on trying", why)

    def _refuse(self, wish: _Request, why: str) -> None:
        self._answers[wish.name] = Answer(machine="", reason=why)

    def _delete(self, wish: _Return) -> None:
        """The pod is gone if it is this job's. The name came from a peer: it could
        as well be that of somebody else's pod."""
        try:
            pod = self._api.pod(wish.machine)
            if pod.metadata.labels.get(pods.JOB) != self._job:
                _log.warning(
                    "kubernetes: pod %s is not this job's; left alone", wish.machine
                )
                return
            self._avoid(pod)
            self._api.delete(pod)
        except Denied as error:
            # Gone, or another pod has that name now.
            if error.denial.code not in (404, 409):
                raise

    def _avoid(self, pod: Pod) -> None:
        if pod.spec.node_name:
            self._avoided.pop(pod.spec.node_name, None)
            self._avoided[pod.spec.node_name] = monotonic_s()
            while len(self._avoided) > AVOIDED_MAX:
                del self._avoided[next(iter(self._avoided))]

    def _nodes_to_avoid(self) -> list[str]:
        since_s = monotonic_s() - self._settings.avoid_s
        return [node for node, when_s in self._avoided.items() if when_s > since_s]
