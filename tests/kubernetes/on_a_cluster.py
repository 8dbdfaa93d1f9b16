"""A job on a real control plane, from the manifests of deploy/: `make test-kubernetes`.

A node is killed with all that runs on it; the replacement pod runs on another one, and
the final bits are those of an undisturbed run. What was measured is printed.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from functools import cache

import pytest

pytest.importorskip("kubernetes")
pytest.importorskip("yaml")

import kubernetes.client

from tests.kubernetes.plane import Server, binaries, until
from tests.kubernetes.trial_nodes import (
    PODS,
    SPACE,
    Cluster,
    manifests,
    nodes,
    seconds,
)
from tests.trial import undisturbed
from twinstep.agent.record import Recovery
from twinstep.cloud.kubernetes import KubernetesOperator
from twinstep.cloud.kubernetes_api import Api
from twinstep.cloud.operator import Answer
from twinstep.cloud_settings import Kubernetes
from twinstep.jobs import JobView

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="nodes are namespaces: needs root"),
    pytest.mark.skipif(shutil.which("etcd") is None, reason="no etcd here"),
    pytest.mark.skipif(
        binaries() is None,
        reason="no control plane here; tests/kubernetes/control_plane.sh builds one",
    ),
]
STEPS = 300
NODES = 5


@cache
def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=(f"--steps={STEPS}", "--pause-s=0.0"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started_s = time.monotonic()
    with nodes(tmp_path_factory.mktemp("kubernetes"), NODES) as found:
        until(lambda: found.ready() == NODES, "nodes", told=found.__str__)
        print(f"\n{NODES} nodes are Ready after {seconds(started_s)} s")
        found.deploy()
        yield found


def with_token(cluster: Cluster, account: str) -> Server:
    """The API, spoken to as a service account."""
    path = f"/api/v1/namespaces/{SPACE}"
    found = cluster.server.get(f"{path}/serviceaccounts/{account}")
    secret = cluster.server.get(f"{path}/secrets/{found['secrets'][0]['name']}")
    token = base64.b64decode(secret["data"]["token"]).decode()
    server = cluster.server
    return Server(port=server.port, authority=server.authority, token=token)


def operator(cluster: Cluster, job: str, account: str) -> KubernetesOperator:
    server = with_token(cluster, account)
    setup = kubernetes.client.Configuration(host=f"https://127.0.0.1:{server.port}")
    setup.ssl_ca_cert = str(server.authority)
    setup.api_key["BearerToken"] = f"bearer {server.token}"
    settings = Kubernetes(patience_s=3.0)
    client = kubernetes.client.ApiClient(setup)
    api = Api(namespace=SPACE, settings=settings, client=client)
    return KubernetesOperator(job=job, machine="none", settings=settings, api=api)


def test_the_service_account_may_do_five_things(cluster: Cluster) -> None:
    mine = with_token(cluster, SPACE)
    assert mine.call("GET", PODS)[0] == 200
    assert mine.call("GET", f"{PODS}/nobody")[0] == 404
    assert mine.call("DELETE", f"{PODS}/nobody")[0] == 404
    (template,) = [v for v in manifests("run.yaml") if v["kind"] == "PodTemplate"]
    pod = {"metadata": {"name": "x"}, "spec": template["template"]["spec"]}
    assert mine.call("POST", f"{PODS}?dryRun=All", pod)[0] == 201
    templates = f"/api/v1/namespaces/{SPACE}/podtemplates"
    assert mine.call("GET", f"{templates}/nobody")[0] == 404
    for method, path in (
        ("GET", "/api/v1/nodes"),
        ("DELETE", "/api/v1/nodes/n1"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/default/pods"),
        ("POST", "/api/v1/namespaces/default/pods"),
        ("GET", f"/api/v1/namespaces/{SPACE}/secrets"),
        ("GET", f"/api/v1/namespaces/{SPACE}/configmaps/run-1"),
        ("GET", templates),
        ("DELETE", f"{templates}/run-1"),
        ("DELETE", PODS),
        ("PATCH", f"{PODS}/etcd-0"),
        ("POST", f"{PODS}/etcd-0/exec"),
        ("GET", f"{PODS}/etcd-0/log"),
        ("POST", f"{PODS}/etcd-0/eviction"),
    ):
        body = {"metadata": {"name": "x"}} if method in ("POST", "PATCH") else None
        kind = "merge-patch+json" if method == "PATCH" else "json"
        code, said = mine.call(method, path, body, kind=f"application/{kind}")
        assert code == 403, f"{method} {path}: {code} {said.get('message')}"


def test_what_cannot_be_had_is_said_in_words(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    container = {"name": "machine", "image": "none", "command": ["sleep", "60"]}
    large = container | {"resources": {"requests": {"cpu": "64"}}}
    for job, one in (("run-q", container), ("run-l", large)):
        template = {"metadata": {}, "spec": {"containers": [one]}}
        value = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        cluster.server.apply(value | {"metadata": {"name": job, "namespace": SPACE}})

    def refused(job: str, account: str) -> str:
        asked = operator(cluster, job, account)
        asked.ask("0", reason="to see")
        answer = until(lambda: asked.answer("0"), "an answer", told=cluster.__str__)
        asked.close()
        assert answer.machine == "", answer
        return answer.reason

    reason = refused("run-q", "default")
    assert "forbidden" in reason and "must allow `get podtemplates`" in reason
    assert "PodTemplate nothing: NotFound" in refused("nothing", SPACE)
    asked = operator(cluster, "run-l", SPACE)
    asked.ask("0", reason="to see")
    why = "pod run-l-0 cannot be scheduled: 0/5 nodes are available"
    until(lambda: why in caplog.text, "words", told=cluster.__str__)
    asked.close()

    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": 0}}}
    place = {"metadata": {"name": "small", "namespace": SPACE}}
    cluster.server.apply(quota | place)
    quotas = f"/api/v1/namespaces/{SPACE}/resourcequotas/small"
    until(lambda: cluster.server.get(quotas)["status"].get("hard"), "the quota")
    asked = operator(cluster, "run-q", SPACE)
    asked.ask("0", reason="to see")
    until(lambda: "exceeded quota: small" in caplog.text, "words", told=cluster.__str__)
    assert cluster.server.call("DELETE", quotas)[0] == 200
    until(lambda: asked.answer("0") == Answer(machine="run-q-0"), "the pod after all")
    assert [m.name for m in asked.machines()] == ["run-q-0"]
    for name in ("run-q-0", "run-l-0", "etcd-0"):  # of two other jobs, and kept
        asked.give_back(name, reason="to see")
    until(lambda: "run-q-0" not in cluster.pods(), "the pod to go")
    asked.close()
    assert {"run-l-0", "etcd-0"} <= set(cluster.pods())
    assert cluster.server.call("DELETE", f"{PODS}/run-l-0")[0] == 200


@pytest.mark.parametrize(
    ("job", "standbys", "who"),
    [("run-a", 0, "worker"), ("run-b", 1, "root")],
)
def test_a_node_dies(cluster: Cluster, job: str, standbys: int, who: str) -> None:
    cluster.run(job, machines=2, standbys=standbys, steps=STEPS)
    count = 2 + standbys
    told = cluster.__str__
    until(lambda: len(cluster.running(job)) == count, "machines", told=told)
    until(lambda: is_described(cluster, job), "the job", told=told)
    with closing(JobView(cluster.etcd(job))) as view:
        node, machines = replaced(cluster, job, view, who)
    completed(cluster, job, machines)
    # Power again: the node is Ready.
    cluster.boot(node, int(node[1:]))
    until(lambda: cluster.ready() == NODES, f"{node} again", told=told)


def replaced(
    cluster: Cluster, job: str, view: JobView, who: str
) -> tuple[str, set[str]]:
    """Kills a machine's node, and sees another machine on another node and the next
    step. Returns the node, and all machines there were."""
    told = cluster.__str__

    def reached(step: int) -> bool:
        status = view.status()
        return status is not None and status.phase == "training" and status.safe >= step

    until(lambda: reached(20), "step 20", timeout_s=120, told=told)
    victim, node = victim_of(cluster, job, view, who)
    before = set(cluster.running(job))
    killed_s, killed_at_s = time.monotonic(), time.time()
    cluster.kill(node)
    until(lambda: victim not in cluster.pods(), "the deletion", told=told)
    deleted_s = time.monotonic()
    (new,) = until(lambda: set(cluster.running(job)) - before, "a pod", told=told)
    runs_s = time.monotonic()
    where = cluster.running(job)[new]
    assert where != node
    recovery: Recovery = until(
        lambda: next((r for r in view.recoveries() if r.done), None),
        "the next step",
        timeout_s=120,
        told=told,
    )
    assert recovery.steps_lost < 10, recovery
    next_s = recovery.first_step_s - killed_at_s
    print(
        f"\n{job}: {who} {victim} on {node} killed; its pod deleted after "
        f"{deleted_s - killed_s:.2f} s, {new} runs on {where} "
        f"{runs_s - deleted_s:.2f} s later, next step {next_s:.2f} s "
        f"after the kill; {recovery.steps_lost} steps lost, from {recovery.source}"
    )
    return node, {*before, new}


def completed(cluster: Cluster, job: str, machines: set[str]) -> None:
    """The run ends well, with the right bits; deleted, it leaves no pod."""
    told = cluster.__str__
    path = f"/apis/batch/v1/namespaces/{SPACE}/jobs/{job}"
    until(
        lambda: cluster.server.get(path)["status"].get("succeeded"),
        "the Job to complete",
        timeout_s=180,
        told=told,
    )
    digests = {
        int(rank): digest
        for name in machines
        for rank, digest in re.findall(
            r"^\[rank (\d+)\] digest (\w+)$", cluster.out(name), re.MULTILINE
        )
    }
    assert digests == reference(), told()
    options = {"propagationPolicy": "Background"}
    assert cluster.server.call("DELETE", path, options)[0] == 200
    until(
        lambda: not [name for name in cluster.pods() if name.startswith(job)],
        "its pods to go",
        told=told,
    )


def is_described(cluster: Cluster, job: str) -> bool:
    return any("joins job" in cluster.out(name) for name in cluster.running(job))


def victim_of(cluster: Cluster, job: str, view: JobView, who: str) -> tuple[str, str]:
    """A machine that trains, and its node."""
    status = view.status()
    assert status is not None
    members = [m.machine for m in status.machines if m.machine_rank >= 0]
    (name,) = [n for n in members if (n == status.root) == (who == "root")]
    return name, str(cluster.pods()[name]["spec"]["nodeName"])


def test_nothing_is_left(cluster: Cluster) -> None:
    assert len(cluster.pods()) == 1, "etcd's"
