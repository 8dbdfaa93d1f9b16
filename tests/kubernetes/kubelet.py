"""A kubelet of the size of a test: one node, whose pods are processes here.

    python -m tests.kubernetes.kubelet NODE NUMBER PORT AUTHORITY TOKEN FOLDER

It registers the node, renews its lease, runs the first container of each pod that is
bound to it, probes it over HTTP, and tells phases. A pod has an address of its own
(10.78.NUMBER.n, all of them local to the namespace of the test) and its own mounts
(secrets, config maps, /tmp, /etc/hosts with the names of services), and none of the
other walls: images, networks and limits are not what is tried here. The node is a
process namespace: killing it kills all its pods.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3

from tests.kubernetes.plane import Object, Server

LOOK_S = 0.1
MERGE = "application/merge-patch+json"
# Mounts first what comes from the outside's /tmp, then a /tmp of the pod's own.
MOUNTS = """
set -e
mount --make-rprivate /
mount --bind "$HOSTS" /etc/hosts
mount -t tmpfs tmpfs /run
for name in $(ls "$VOLUMES"); do
    path=$(cat "$VOLUMES/$name/path")
    mkdir -p "$path"
    mount --bind "$VOLUMES/$name/data" "$path"
done
cd "$FOLDER"
mount -t tmpfs tmpfs /tmp
exec "$@"
"""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True, kw_only=True)
class Running:
    """A pod here."""

    pod: Object
    process: subprocess.Popen[bytes]
    address: str
    told: str = ""
    ready: bool = False
    probed_s: float = 0.0


class Kubelet:
    def __init__(self, server: Server, node: str, number: int, folder: Path) -> None:
        self.server, self.node, self.number = server, node, number
        self.folder = folder
        self.running: dict[str, Running] = {}
        self.started = 0
        self.renewed_s = 0.0
        self.hosts = folder / "hosts"
        self.probes = urllib3.PoolManager(retries=False, timeout=0.5)

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.register()
        while True:
            try:
                self.renew()
                self.look()
            except urllib3.exceptions.HTTPError as error:
                print(f"kubelet {self.node}: {error}", flush=True)
            time.sleep(LOOK_S)

    # The node.

    def register(self) -> None:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        times = {"lastHeartbeatTime": now()[:19] + "Z"}
        room = {"cpu": "2", "memory": "4Gi", "pods": "20"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.node,
                "labels": {"kubernetes.io/hostname": self.node},
            },
            "status": {
                "capacity": room,
                "allocatable": room,
                "conditions": [{**ready, **times}],
            },
        }
        code, _ = self.server.call("POST", "/api/v1/nodes", node)
        if code == 409:  # it was here before
            path = f"/api/v1/nodes/{self.node}/status"
            self.server.call("PATCH", path, {"status": node["status"]}, kind=MERGE)

    def renew(self) -> None:
        if time.monotonic() - self.renewed_s < 1:
            return
        self.renewed_s = time.monotonic()
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": self.node, "leaseDurationSeconds": 40}
        lease = {"metadata": {"name": self.node}, "spec": {**spec, "renewTime": now()}}
        code, _ = self.server.call("PATCH", f"{leases}/{self.node}", lease, kind=MERGE)
        if code == 404:
            self.server.call("POST", leases, lease)
        self.name_services()

    def name_services(self) -> None:
        lines = ["127.0.0.1 localhost"]
        for found in self.server.get("/api/v1/endpoints")["items"]:
            name, space = found["metadata"]["name"], found["metadata"]["namespace"]
            for subset in found.get("subsets") or []:
                for address in subset.get("addresses") or []:
                    lines.append(f"{address['ip']} {name}.{space} {name}.{space}.svc")
        self.hosts.write_text("\n".join(lines) + "\n")  # in place: pods have it mounted

    # Pods.

    def look(self) -> None:
        query = f"fieldSelector=spec.nodeName%3D{self.node}"
        pods = {
            pod["metadata"]["uid"]: pod
            for pod in self.server.get(f"/api/v1/pods?{query}")["items"]
        }
        for uid, pod in pods.items():
            if uid in self.running:
                self.running[uid].pod = pod
            elif (
                pod["status"].get("phase") == "Pending"
                and "deletionTimestamp" not in (pod["metadata"])
            ):
                self.start(uid, pod)
        for uid in list(self.running):
            self.attend(uid, gone=uid not in pods)

    def start(self, uid: str, pod: Object) -> None:
        self.started += 1
        address = f"10.78.{self.number}.{self.started}"
        container = pod["spec"]["containers"][0]
        values = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.server.port),
        }
        for item in container.get("env") or []:
            values[item["name"]] = self.value(item, pod, address)
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        command = [
            re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), word)
            for word in words
        ]
        volumes = self.folder / f"{pod['metadata']['name']}-{self.started}"
        if not self.prepare(volumes, pod, container):
            return  # what it mounts is not there yet; looked at again
        log = (self.folder.parent / f"{pod['metadata']['name']}.log").open("ab")
        where = {"VOLUMES": str(volumes), "HOSTS": str(self.hosts)}
        where["FOLDER"] = container.get("workingDir") or "/"
        with log:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", MOUNTS, "sh", *command],
                env={**os.environ, **values, **where},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[uid] = Running(pod=pod, process=process, address=address)

    def value(self, item: Object, pod: Object, address: str) -> str:
        if "valueFrom" not in item:
            return item.get("value") or ""
        path = item["valueFrom"]["fieldRef"]["fieldPath"]
        if path == "status.podIP":
            return address
        if label := re.fullmatch(r"metadata\.labels\['(.+)'\]", path):
            return pod["metadata"].get("labels", {}).get(label[1], "")
        return pod["metadata"][path.removeprefix("metadata.")]

    def prepare(self, folder: Path, pod: Object, container: Object) -> bool:
        volumes = pod["spec"].get("volumes") or []
        sources = {volume["name"]: volume for volume in volumes}
        for mount in container.get("volumeMounts") or []:
            files = self.files(pod["metadata"]["namespace"], sources[mount["name"]])
            if files is None:
                return False
            place = folder / mount["name"]
            (place / "data").mkdir(parents=True, exist_ok=True)
            (place / "path").write_text(mount["mountPath"])
            for name, content in files.items():
                path = place / "data" / name
                path.touch(mode=0o400)
                path.write_bytes(content)
        folder.mkdir(exist_ok=True)
        return True

    def files(self, space: str, volume: Object) -> dict[str, bytes] | None:
        if "emptyDir" in volume:
            return {}
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            code, found = self.server.call(
                "GET", f"/api/v1/namespaces/{space}/configmaps/{name}"
            )
            data = found.get("data") or {}
            return {k: v.encode() for k, v in data.items()} if code == 200 else None
        name = volume["secret"]["secretName"]
        code, found = self.server.call(
            "GET", f"/api/v1/namespaces/{space}/secrets/{name}"
        )
        data = found.get("data") or {}
        decoded = {key: base64.b64decode(value) for key, value in data.items()}
        return decoded if code == 200 else None

    def attend(self, uid: str, *, gone: bool) -> None:
        one = self.running[uid]
        if gone or "deletionTimestamp" in one.pod["metadata"]:
            kill(one.process)
            del self.running[uid]
            if not gone:
                self.server.call("DELETE", self.path(one), {"gracePeriodSeconds": 0})
            return
        status = one.process.poll()
        if status is None:
            self.probe(one)
            self.tell(one, "Running", {"running": {"startedAt": now()[:19] + "Z"}})
            return
        phase = "Failed" if status else "Succeeded"
        code = status if status >= 0 else 128 - status
        self.tell(one, phase, {"terminated": {"exitCode": code}})
        if one.told.startswith(phase):
            kill(one.process)

    def probe(self, one: Running) -> None:
        """The readiness probe, once a second."""
        probe = one.pod["spec"]["containers"][0].get("readinessProbe")
        if probe is None:
            one.ready = True
        elif time.monotonic() - one.probed_s > 1:
            one.probed_s = time.monotonic()
            get = probe["httpGet"]
            try:
                url = f"http://{one.address}:{get['port']}{get['path']}"
                one.ready = self.probes.request("GET", url).status == 200
            except urllib3.exceptions.HTTPError:
                one.ready = False

    def tell(self, one: Running, phase: str, state: Object) -> None:
        ready = one.ready and phase == "Running"
        told = f"{phase} {ready}"
        if told == one.told:
            return
        container = one.pod["spec"]["containers"][0]
        conditions = [
            {"type": kind, "status": str(value)}
            for kind, value in (
                ("Initialized", True),
                ("PodScheduled", True),
                ("ContainersReady", ready),
                ("Ready", ready),
            )
        ]
        named = {"name": container["name"], "image": container["image"], "imageID": ""}
        more: dict[str, Any] = {"restartCount": 0, "ready": ready, "state": state}
        status: Object = {
            "phase": phase,
            "podIP": one.address,
            "podIPs": [{"ip": one.address}],
            "hostIP": "127.0.0.1",
            "startTime": now()[:19] + "Z",
            "conditions": conditions,
            "containerStatuses": [named | more],
        }
        path = f"{self.path(one)}/status"
        code, found = self.server.call("PATCH", path, {"status": status}, kind=MERGE)
        if code == 200:
            one.told = told
        elif code != 404:
            print(f"kubelet {self.node}: {code} {found.get('message')}", flush=True)

    def path(self, one: Running) -> str:
        data = one.pod["metadata"]
        return f"/api/v1/namespaces/{data['namespace']}/pods/{data['name']}"


def is_new(pod: Object) -> bool:
    is_ending = "deletionTimestamp" in pod["metadata"]
    return pod["status"].get("phase") == "Pending" and not is_ending


def kill(process: subprocess.Popen[bytes]) -> None:
    """Everything of the pod's session is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


if __name__ == "__main__":
    node, number, port, authority, token, folder = sys.argv[1:]
    api = Server(port=int(port), authority=Path(authority), token=token)
    Kubelet(api, node, int(number), Path(folder)).run()
