"""The calls of the operator, sent by the real client to a server that checks them
against the API's published schema."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="pip install 'twinstep[kubernetes]'")
pytest.importorskip("jsonschema")

from tests.kubernetes.checked_api import CheckedApi, checked_api, status
from twinstep.cloud import kubernetes_api, pods
from twinstep.cloud.kubernetes import KubernetesOperator
from twinstep.cloud.operator import Answer
from twinstep.cloud_settings import Kubernetes
from twinstep.errors import DeadlinePassed, Refused

TEMPLATE = {
    "metadata": {"labels": {"team": "one"}},
    "spec": {
        "serviceAccountName": "twinstep",
        "containers": [
            {
                "name": "machine",
                "image": "trainer:1",
                "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
            }
        ],
    },
}
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "run-7", "uid": "u-1"}
FAST = {"look_s": 0.01, "patience_s": 0.15, "ask_s_max": 5.0, "call_s_max": 5.0}


def until(true: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + 10
    while not (found := true()):
        assert time.monotonic() < deadline_s, f"waited 10 s for {what}"
        time.sleep(0.005)
    return found


class Trial:
    """An operator of the job run-7, in its pod run-7-0."""

    def __init__(self, api: CheckedApi, **settings: Any) -> None:
        self.api = api
        api.templates["run-7"] = {"metadata": {"name": "run-7"}, "template": TEMPLATE}
        self.operators: list[KubernetesOperator] = []
        self.place("run-7-0")
        self.operator = self.another(**settings)

    def another(self, **settings: Any) -> KubernetesOperator:
        chosen = FAST | settings
        made = KubernetesOperator(
            job="run-7",
            machine="run-7-0",
            settings=Kubernetes(**chosen),
            api=self.api.api(**chosen),
        )
        self.operators.append(made)
        return made

    def place(self, name: str, node: str = "", job: str = "run-7") -> None:
        labels = {pods.JOB: job, pods.REQUEST: name}
        self.api.pods[name] = {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "labels": labels,
                "ownerReferences": [OWNER | {"controller": True}],
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running"},
        }

    def answer(self, request: str) -> Answer:
        return until(lambda: self.operator.answer(request), f"answer to {request}")

    def asked(self, request: str = "for-run-7-1") -> str:
        """The pod of a request that was just made."""
        self.operator.ask(request, reason="run-7-1, machine rank 1, was lost")
        name = pods.pod_name("run-7", request)
        until(lambda: name in self.api.pods, f"pod {name}")
        return name

    def posts(self) -> int:
        return sum(method == "POST" for method, _ in self.api.calls)


@pytest.fixture
def api() -> Iterator[CheckedApi]:
    with checked_api() as found:
        yield found


@pytest.fixture
def trial(api: CheckedApi) -> Iterator[Trial]:
    made = Trial(api)
    try:
        yield made
    finally:
        api.silent.set()
        for operator in made.operators:
            operator.close()


def test_a_machine_is_a_pod_of_the_template(trial: Trial) -> None:
    name = trial.asked()
    assert trial.operator.answer("for-run-7-1") is None, "it does not run yet"
    pod = trial.api.pods[name]
    labels = pod["metadata"]["labels"]
    assert labels == {
        "team": "one",
        pods.JOB: "run-7",
        pods.REQUEST: name,
        pods.ROLE: "standby",
    }
    assert pod["metadata"]["ownerReferences"] == [OWNER]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"] == TEMPLATE["spec"]["containers"]
    (term,) = pod["spec"]["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    trial.api.run(name)
    assert trial.answer("for-run-7-1") == Answer(machine=name)


def test_asked_twice_is_asked_once(trial: Trial) -> None:
    name = trial.asked()
    trial.operator.ask("for-run-7-1", reason="again")
    # A new root, which knows nothing of the old one's questions.
    trial.operator = trial.another()
    trial.operator.ask("for-run-7-1", reason="again")
    until(lambda: trial.posts() == 2, "the second root's call")
    trial.api.run(name)
    assert trial.answer("for-run-7-1") == Answer(machine=name)
    assert len(trial.api.pods) == 2, "the root's own, and one"


def test_a_lost_machine_is_deleted_at_once_and_its_node_avoided(trial: Trial) -> None:
    trial.place("run-7-1", node="n2")
    trial.operator.give_back("run-7-1", reason="silent for 1.5 s")
    name = trial.asked()
    assert "run-7-1" not in trial.api.pods
    by_force = {"gracePeriodSeconds": 0, "preconditions": {"uid": "uid-run-7-1"}}
    assert trial.api.deletions == [by_force]
    (term,) = trial.api.pods[name]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term == {
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}]
    }


def test_a_node_is_avoided_for_a_while_only(api: CheckedApi) -> None:
    trial = Trial(api, avoid_s=0.001)
    trial.place("run-7-1", node="n2")
    trial.operator.give_back("run-7-1", reason="silent")
    until(lambda: "run-7-1" not in api.pods, "the pod to go")
    time.sleep(0.01)
    name = trial.asked()
    assert "nodeAffinity" not in api.pods[name]["spec"]["affinity"]
    trial.operator.close()


def test_a_pod_of_somebody_else_is_left_alone(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    trial.place("etcd-0", job="another")
    with caplog.at_level(logging.WARNING):
        trial.operator.give_back("etcd-0", reason="a peer said so")
        trial.operator.give_back("gone", reason="no error if it was")
        until(lambda: ("GET", "pods/gone") in trial.api.calls, "both calls")
        trial.asked()
    assert "etcd-0" in trial.api.pods
    assert [r.message for r in caplog.records] == [
        "kubernetes: pod etcd-0 is not this job's; left alone"
    ]
    trial.place(pods.pod_name("run-7", "for-x"), job="another")
    trial.operator.ask("for-x", reason="a name that is taken")
    assert "is there that is not this job's" in trial.answer("for-x").reason


def test_a_pod_that_is_evicted_before_it_runs_is_made_again(trial: Trial) -> None:
    name = trial.asked()
    pod = trial.api.pods[name]
    pod["spec"]["nodeName"] = "n3"
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    until(lambda: trial.posts() == 2, "another pod")
    until(lambda: trial.api.pods.get(name, pod) is not pod, "the other pod")
    again = trial.api.pods[name]
    assert "n3" in str(again["spec"]["affinity"]["nodeAffinity"])
    del trial.api.pods[name]  # somebody's kubectl
    until(lambda: trial.posts() == 3, "a third pod")
    until(lambda: name in trial.api.pods, "the third pod")
    trial.api.run(name)
    assert trial.answer("for-run-7-1") == Answer(machine=name)


def test_what_ends_before_it_was_seen_to_run_is_told(trial: Trial) -> None:
    name = trial.asked()
    over = {"exitCode": 2, "reason": "Error"}
    containers = [{"name": "machine", "state": {"terminated": over}}]
    trial.api.run(name, "Failed", containerStatuses=containers)
    assert f"pod {name} has ended with 2" in trial.answer("for-run-7-1").reason


def told(caplog: pytest.LogCaptureFixture, words: str) -> None:
    until(lambda: words in caplog.text, f"the log to say {words!r}")


def test_no_room_is_told_and_the_pod_stays(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    name = trial.asked()
    why = "0/4 nodes are available: 4 Insufficient cpu."
    no = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    trial.api.run(name, "Pending", conditions=[{**no, "message": why}])
    told(caplog, f"kubernetes: pod {name} cannot be scheduled: {why}; goes on trying")
    assert trial.operator.answer("for-run-7-1") is None
    trial.api.run(name)  # somebody has made room
    assert trial.answer("for-run-7-1") == Answer(machine=name)


def test_an_image_that_does_not_come_is_told(
    trial: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    name = trial.asked()
    trial.api.pods[name]["spec"]["nodeName"] = "n1"
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    containers = [{"name": "machine", "state": {"waiting": waiting}}]
    trial.api.run(name, "Pending", containerStatuses=containers)
    told(caplog, "on n1 does not start: ImagePullBackOff no such image; goes on")


def test_a_pod_that_does_not_run_in_time_is_deleted(api: CheckedApi) -> None:
    trial = Trial(api, ask_s_max=0.2)
    name = trial.asked()
    assert f"pod {name} is not scheduled yet" in trial.answer("for-run-7-1").reason
    assert name not in api.pods, "asked again by another name, there would be two"
    trial.operator.close()


QUOTA = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2'


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            status(403, "Forbidden", 'pods is forbidden: User "u" cannot create'),
            "the Role of this service account must allow `create pods`",
        ),
        (
            status(
                422,
                "Invalid",
                'Pod "x" is invalid',
                causes=[
                    {
                        "reason": "FieldValueInvalid",
                        "field": "spec.containers[0].image",
                        "message": "Required value",
                    }
                ],
            ),
            "not valid: spec.containers[0].image: Required value; mend the template",
        ),
        (status(404, "NotFound", 'namespaces "trial" not found'), '"trial" not found'),
        (status(400, "BadRequest", "cannot be handled"), "cannot be handled"),
        ((200, b"no json"), "creating pod run-7-"),
        ((200, b" " * 2048), "an answer of more than 1024 bytes"),
    ],
)
def test_what_will_not_pass_is_said_at_once(
    api: CheckedApi, answer: Any, says: str
) -> None:
    trial = Trial(api, patience_s=60.0, answer_bytes_max=1024)
    api.answers["POST"] = [answer]
    trial.operator.ask("for-run-7-1", reason="lost")
    found = trial.answer("for-run-7-1")
    assert found.machine == "" and says in found.reason
    assert "goes on" not in found.reason
    assert trial.posts() == 1
    trial.operator.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (status(403, "Forbidden", QUOTA), "exceeded quota: small"),
        (status(500, "InternalError", "etcd is away"), "(500): etcd is away"),
        (status(429, "TooManyRequests", "later"), "(429): later"),
        (status(401, "Unauthorized", "Unauthorized"), "token is not accepted"),
        ((503, b"<html>proxy</html>"), "(503): <html>proxy</html>"),
        ((0, b""), "the API does not answer: ReadTimeoutError"),
    ],
)
def test_what_may_pass_is_tried_again(
    api: CheckedApi, caplog: pytest.LogCaptureFixture, answer: Any, says: str
) -> None:
    trial = Trial(api, call_s_max=5.0 if answer[0] else 0.1, ask_s_max=20.0)
    api.answers["POST"] = [answer] * 400 if answer[0] else [answer] * 3
    trial.operator.ask("for-run-7-1", reason="lost")
    told(caplog, says)
    assert "; goes on trying" in caplog.text
    assert trial.operator.answer("for-run-7-1") is None
    api.answers.clear()
    name = pods.pod_name("run-7", "for-run-7-1")
    until(lambda: name in api.pods, "it to pass")
    api.run(name)
    until(lambda: trial.operator.answer("for-run-7-1") == Answer(machine=name), "it")
    api.silent.set()
    trial.operator.close()


def test_trying_ends(api: CheckedApi) -> None:
    trial = Trial(api, ask_s_max=0.2, patience_s=0.1)
    api.answers["POST"] = [status(500, "InternalError", "away")] * 1000
    trial.operator.ask("for-run-7-1", reason="lost")
    assert "(500): away" in trial.answer("for-run-7-1").reason
    posts = trial.posts()
    time.sleep(0.1)
    assert trial.posts() == posts
    trial.operator.close()


def test_a_template_that_the_client_does_not_know_is_refused(trial: Trial) -> None:
    odd = {"spec": {**TEMPLATE["spec"], "containerz": 1}}
    trial.api.templates["run-7"]["template"] = odd
    trial.operator.ask("for-run-7-1", reason="lost")
    assert "containerz" in trial.answer("for-run-7-1").reason
    del trial.api.templates["run-7"]
    trial.operator = trial.another()
    trial.operator.ask("for-run-7-1", reason="lost")
    reason = trial.answer("for-run-7-1").reason
    assert reason.startswith("reading the PodTemplate run-7: NotFound (404)")


def test_requests_are_bounded(api: CheckedApi) -> None:
    trial = Trial(api, requests_max=1)
    trial.asked("for-a")
    with pytest.raises(Refused, match=r"1 requests were made.*requests_max"):
        trial.operator.ask("for-b", reason="lost")
    trial.operator.close()


def test_machines_are_the_pods_of_the_job(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "PAGE", 2)
    for number in range(1, 6):
        trial.place(f"run-7-{number}")
    trial.place("etcd-0", job="another")
    trial.api.run("run-7-4", "Failed", reason="Evicted", message="disk pressure")
    trial.api.pods["run-7-5"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = {machine.name: machine for machine in trial.operator.machines()}
    assert sorted(found) == [f"run-7-{number}" for number in range(6)]
    assert [m.state for m in found.values()] == ["living"] * 4 + ["ended"] * 2
    assert found["run-7-4"].status == 1
    given = trial.asked()
    trial.api.run(given)
    trial.answer("for-run-7-1")
    del trial.api.pods[given]  # evicted, and tidied up
    (one,) = [m for m in trial.operator.machines() if m.name == given]
    assert (one.state, one.reason) == ("ended", "its pod was deleted")
    assert "Evicted disk pressure" in found["run-7-4"].reason
    trial.api.answers["GET"] = [status(500, "InternalError", "away")]
    with pytest.raises(DeadlinePassed, match="listing the pods of run-7"):
        trial.operator.machines()
    trial.api.answers["GET"] = [status(403, "Forbidden", "cannot list")]
    with pytest.raises(Refused, match="must allow `list pods`"):
        trial.operator.machines()
