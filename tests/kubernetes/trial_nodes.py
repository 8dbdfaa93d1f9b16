"""Four nodes of a trial: each a test kubelet in a process namespace of its own, which
dies with all its pods at once, as a node without power does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.kubernetes.plane import ADMIN, Object, Plane, plane, until
from twinstep.cloud.pods import not_on

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
WORKLOAD = ROOT / "tests" / "workloads" / "linear.py"
SPACE = "twinstep"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
TOKEN = "a-token-of-the-trial-that-nobody-can-guess\n"
RUN = {"cpu": "1", "memory": "64Mi"}


class Cluster:
    """A control plane with nodes n1..nN, and what was deployed to it."""

    def __init__(self, plane: Plane, folder: Path, count: int) -> None:
        self.plane, self.server, self.folder = plane, plane.server, folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(1, count + 1):
            self.boot(f"n{number}", number)

    def boot(self, node: str, number: int) -> None:
        kubelet = [sys.executable, "-m", "tests.kubernetes.kubelet", node, str(number)]
        kubelet += [str(self.server.port), str(self.server.authority), ADMIN]
        place = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        path = f"{Path(sys.executable).parent}:{os.defpath}"
        with (self.folder / f"{node}.log").open("ab") as log:
            self.nodes[node] = subprocess.Popen(
                [*place, *kubelet, str(self.folder / node)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PATH": path},
            )

    def kill(self, node: str) -> None:
        """The power goes out: kubelet and pods are gone, and nobody was told."""
        process = self.nodes.pop(node)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        for node in list(self.nodes):
            self.kill(node)

    # What the API says.

    def ready(self) -> int:
        nodes = self.server.get("/api/v1/nodes")["items"]
        return sum(
            condition["status"] == "True"
            for node in nodes
            for condition in node["status"].get("conditions", [])
            if condition["type"] == "Ready" and not node["spec"].get("taints")
        )

    def pods(self) -> dict[str, Object]:
        return {pod["metadata"]["name"]: pod for pod in self.server.get(PODS)["items"]}

    def running(self, job: str) -> dict[str, str]:
        """The job's machines that run, and their nodes."""
        return {
            name: pod["spec"]["nodeName"]
            for name, pod in self.pods().items()
            if pod["metadata"]["labels"].get("twinstep/job") == job
            and pod["status"]["phase"] == "Running"
        }

    def out(self, pod: str) -> str:
        path = self.folder / f"{pod}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __str__(self) -> str:
        lines = [
            f"{name}: {pod['status'].get('phase')} on {pod['spec'].get('nodeName')} "
            f"{pod['status'].get('conditions')}"
            for name, pod in self.pods().items()
        ]
        logs = [
            f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for path in sorted(self.folder.glob("*.log"))
        ]
        return "\n".join(lines + logs)

    # What is deployed.

    def deploy(self) -> None:
        """What `kubectl apply -k deploy/kubernetes` does, until etcd is ready."""
        (kustomization,) = manifests("kustomization.yaml")
        for name in kustomization["resources"]:
            for value in manifests(name):
                self.server.apply(value)
        account = f"/api/v1/namespaces/{SPACE}/serviceaccounts/{SPACE}"
        until(lambda: self.server.get(account).get("secrets"), "the account's token")
        until(lambda: is_ready(self.pods().get("etcd-0")), "etcd", told=self.__str__)

    def aside(self) -> str:
        """The node with etcd: not one of those that are killed."""
        return str(self.pods()["etcd-0"]["spec"]["nodeName"])

    def etcd(self, job: str) -> str:
        return f"etcd://{self.pods()['etcd-0']['status']['podIP']}:2379/{job}"

    def run(self, job: str, *, machines: int, standbys: int, steps: int) -> None:
        """deploy/kubernetes/run.yaml, with what it tells people to change changed."""
        secret = {"apiVersion": "v1", "kind": "Secret", "stringData": {"token": TOKEN}}
        self.server.apply(secret | {"metadata": {"name": job, "namespace": SPACE}})
        for value in manifests("run.yaml", job):
            match value["kind"]:
                case "ConfigMap":
                    value["data"]["run.toml"] = settings(
                        value["data"]["run.toml"], machines, standbys
                    )
                case "PodTemplate":
                    spec = value["template"]["spec"]
                    adapt(spec, RUN, f"--steps={steps}")
                    spec["affinity"] = {"nodeAffinity": not_on({}, [self.aside()])}
                case "PodDisruptionBudget":
                    value["spec"]["minAvailable"] = machines
                case "Job":
                    spec = value["spec"]["template"]["spec"]
                    adapt(spec, {}, "")
                    spec["nodeSelector"] = {"kubernetes.io/hostname": self.aside()}
            self.server.apply(value)


def manifests(name: str, job: str = "run-1") -> list[Object]:
    text = (DEPLOY / name).read_text().replace("run-1", job)
    return list(yaml.safe_load_all(text))


def settings(text: str, machines: int, standbys: int) -> str:
    for was, becomes in (
        ("machines = 4", f"machines = {machines}"),
        ("standbys = 1", f"standbys = {standbys}"),
        ("ranks_per_machine = 8", 'preload = ["torch", "torch._dynamo"]'),
    ):
        assert was in text
        text = text.replace(was, becomes)
    return text


def adapt(spec: Object, resources: dict[str, str], argument: str) -> None:
    """Another script and place, less room, one thread."""
    (container,) = spec["containers"]
    container["workingDir"] = str(ROOT)
    container["env"].append({"name": "OMP_NUM_THREADS", "value": "1"})
    if resources:
        container["resources"] = {"requests": resources, "limits": resources}
        container["args"][-1] = str(WORKLOAD)
        container["args"] += [argument, "--pause-s=0.05"]


def is_ready(pod: Object | None) -> bool:
    conditions: list[Object] = (pod or {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextmanager
def nodes(folder: Path, count: int) -> Iterator[Cluster]:
    """A cluster that is gone when the block ends."""
    (folder / "plane").mkdir()
    (folder / "nodes").mkdir()
    with plane(folder / "plane") as control:
        found = Cluster(control, folder / "nodes", count)
        try:
            yield found
        finally:
            found.close()


def seconds(since: float) -> float:
    return round(time.monotonic() - since, 2)
