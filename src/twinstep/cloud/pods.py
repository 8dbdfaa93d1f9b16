"""Decides what a machine's pod is, how far it has come, and what an answer means.

A machine is one pod, and its name in the job is the pod's. The name follows from the
job and the request, so that whoever asks again for the same finds the pod there
(AlreadyExists) instead of making a second. A pod is its template with five things
changed: the name, two labels more (whose it is, its role), `restartPolicy: Never` (a
machine that ended is not the same one started again), one machine a node, and not on
a node from which a machine was lost a moment ago.

The last is not politeness. A node that has died is Ready for the scheduler for 40 s
yet, and since its machine was deleted it is the emptiest of all.

Left out: calls (kubernetes.py), and what is in a template, which is the user's.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

JOB = "twinstep/job"
REQUEST = "twinstep/request"
ROLE = "twinstep/role"
REASON = "twinstep/reason"
Role = Literal["trains", "standby"]
Object = dict[str, Any]

NAME_MAX = 50
"""Letters of a pod's name: a host's name has at most 63."""
SHORT = re.compile(r"[a-z0-9]{1,8}")
REASON_MAX = 1000


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of the API's objects; everything else in them is left alone."""


class Metadata(_Camel, frozen=True, kw_only=True):
    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None
    owner_references: list[Object] = []


class Spec(_Camel, frozen=True, kw_only=True):
    node_name: str = ""


class Condition(_Camel, frozen=True, kw_only=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Waiting(_Camel, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class Terminated(_Camel, frozen=True, kw_only=True):
    exit_code: int = 0
    reason: str = ""


class ContainerState(_Camel, frozen=True, kw_only=True):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Camel, frozen=True, kw_only=True):
    name: str = ""
    state: ContainerState = ContainerState()


class PodStatus(_Camel, frozen=True, kw_only=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(_Camel, frozen=True, kw_only=True):
    """A pod, as the API tells it."""

    metadata: Metadata
    spec: Spec = Spec()
    status: PodStatus = PodStatus()

    @property
    def is_ending(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def is_over(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def exit_status(self) -> int:
        """The first container's; 1 where it failed without one."""
        for container in self.status.container_statuses[:1]:
            if container.state.terminated is not None:
                return container.state.terminated.exit_code
        return int(self.status.phase == "Failed")


class Continued(_Camel, frozen=True, kw_only=True):
    """A list's way to its next page."""

    continue_: str = msgspec.field(name="continue", default="")


class PodList(_Camel, frozen=True, kw_only=True):
    metadata: Continued = Continued()
    items: list[Pod] = []


class PodTemplate(_Camel, frozen=True, kw_only=True):
    """A PodTemplate object: the template is kept as it is, whatever it has."""

    template: Object


class Cause(_Camel, frozen=True, kw_only=True):
    field: str = ""
    message: str = ""


class Details(_Camel, frozen=True, kw_only=True):
    causes: list[Cause] = []


class Status(_Camel, frozen=True, kw_only=True):
    """What the API says with an error."""

    message: str = ""
    reason: str = ""
    details: Details | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A call that did not do what it was for. `passes`: it may do so later."""

    code: int
    reason: str
    """The API's word: AlreadyExists, NotFound, Forbidden, ..."""
    text: str
    passes: bool


def pod_name(job: str, request: str) -> str:
    """Returns the name of the pod that answers `request`: always the same."""
    if SHORT.fullmatch(request):
        end = request
    else:
        end = "x" + hashlib.sha256(request.encode()).hexdigest()[:10]
    start = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-") or "job"
    return f"{start[: NAME_MAX - len(end) - 1].rstrip('-')}-{end}"


def pod_for(
    template: Mapping[str, Any],
    *,
    job: str,
    request: str,
    reason: str,
    role: Role,
    owners: Sequence[Object] = (),
    avoid: Sequence[str] = (),
) -> Object:
    """Returns the pod of a machine; `template` is left as it is."""
    metadata, spec = _part(template, "metadata"), _part(template, "spec")
    name = pod_name(job, request)
    ours = {JOB: job, REQUEST: name, ROLE: role}
    labels = _part(metadata, "labels") | ours
    notes = _part(metadata, "annotations") | {REASON: reason[:REASON_MAX]}
    spec["restartPolicy"] = "Never"
    affinity = spec["affinity"] = _part(spec, "affinity")
    if not affinity.get("podAntiAffinity"):
        affinity["podAntiAffinity"] = one_a_node(job)
    if avoid:
        affinity["nodeAffinity"] = not_on(_part(affinity, "nodeAffinity"), avoid)
    made: Object = {"name": name, "labels": labels, "annotations": notes}
    if owners:
        # Not as their controller: a Job's would release a pod it has not made.
        keys = ("apiVersion", "kind", "name", "uid")
        # Not as their controller: a Job's would release a pod it has not made.
        keys = ("apiVersion", "kind", "name", "uid")
        made["ownerReferences"] = [{key: o[key] for key in keys} for o in owners]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec}


def _part(whole: Mapping[str, Any], name: str) -> Object:
    """A copy of an object's part; what is not there, or null, is empty."""
    return copy.deepcopy(cast(Object, whole.get(name) or {}))


def one_a_node(job: str) -> Object:
    """Twins on one node would be lost together. A template that has a podAntiAffinity
    of its own keeps it."""
    term: Object = {
        "labelSelector": {"matchLabels": {JOB: job}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def not_on(affinity: Object, nodes: Sequence[str]) -> Object:
    """Returns `affinity` without `nodes`. Terms of a selector are alternatives, so
    that each of them has to say it; an expression on fields has one value."""
    fields = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]}
        for node in nodes
    ]
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = cast("list[Object]", _part(affinity, key).get("nodeSelectorTerms"))
    narrowed: list[Object] = [
        {**term, "matchFields": [*(term.get("matchFields") or []), *fields]}
        for term in terms or [{}]
    ]
    return {**affinity, key: {"nodeSelectorTerms": narrowed}}


def why_pending(pod: Pod) -> str:
    """Returns in words what a pod that does not run waits for."""
    name = pod.metadata.name
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            why = condition.message or condition.reason
            return f"pod {name} cannot be scheduled: {why}"
    for container in pod.status.container_statuses:
        waiting = container.state.waiting
        if waiting is not None and waiting.reason:
            why = f"{waiting.reason} {waiting.message}".strip()
            return f"pod {name} on {pod.spec.node_name} does not start: {why}"
    if pod.spec.node_name:
        return f"pod {name} has not started on {pod.spec.node_name} yet"
    return f"pod {name} is not scheduled yet; does the scheduler run?"


def why_over(pod: Pod) -> str:
    """Returns in words how a pod ended."""
    words = f"{pod.status.reason} {pod.status.message}".strip()
    told = f": {words}" if words else ""
    return f"pod {pod.metadata.name} has ended with {pod.exit_status}{told}"


def denial(code: int, body: bytes, *, doing: str, right: str) -> Denial:
    """Returns what an answer of the API that is no success means.

    `doing` says what was tried, `right` the verb and resource that it takes. `code` 0
    is no answer at all, with the reason in `body`."""
    try:
        said = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Status(message=body[:REASON_MAX].decode(errors="replace"))
    text, passes = _words(code, said, right)
    text = f"{doing}: {text}"
    return Denial(code=code, reason=said.reason, text=text, passes=passes)


def _words(code: int, said: Status, right: str) -> tuple[str, bool]:
    message = said.message[:REASON_MAX] or f"answered {code}"
    if code == 0:
        return f"the API does not answer: {message}", True
    if code == 401:
        return f"the service account's token is not accepted: {message}", True
    if code == 403 and "exceeded quota" in message:
        return f"{message}; raise the quota, or delete what is not needed", True
    if code == 403:
        way_out = f"the Role of this service account must allow `{right}`"
        return f"forbidden: {message}; {way_out}", False
    if code == 422 and said.details is not None and said.details.causes:
        causes = "; ".join(f"{c.field}: {c.message}" for c in said.details.causes[:10])
        return f"not valid: {causes[:REASON_MAX]}; mend the template", False
    if code == 429 or code >= 500:
        return f"the API is busy or away ({code}): {message}", True
    return f"{said.reason or 'refused'} ({code}): {message}", False
