"""A control plane of Kubernetes on loopback: etcd, API server with RBAC and service
accounts, controller manager, scheduler. All real; gone when the block ends."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from tests.agent.etcd_nodes import cluster, free_ports

Object = dict[str, Any]
BINARIES = Path(os.environ.get("KUBERNETES", "~/.cache/twinstep/kubernetes/bin"))
COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
ADMIN = "admin-of-the-trial"
NODE_GRACE_S = 8
"""Without a word for so long a node is not Ready (40 s by default)."""
PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Namespace": "/api/v1/namespaces",
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "/apis/policy/v1beta1/namespaces/{}/poddisruptionbudgets",
    "PodTemplate": "/api/v1/namespaces/{}/podtemplates",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}


def binaries() -> Path | None:
    """The folder with the three commands, if they are there."""
    folder = BINARIES.expanduser()
    return folder if all((folder / name).exists() for name in COMMANDS) else None


@dataclass(kw_only=True)
class Server:
    """The API, spoken to by a token."""

    port: int
    authority: Path
    token: str = ADMIN
    pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        self.pool = urllib3.PoolManager(ca_certs=str(self.authority), retries=False)

    def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        kind: str = "application/json",
    ) -> tuple[int, Object]:
        reply = self.pool.request(
            method,
            f"https://127.0.0.1:{self.port}{path}",
            body=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": kind},
            timeout=5.0,
        )
        try:
            return reply.status, json.loads(reply.data)
        except ValueError:
            return reply.status, {"message": reply.data.decode(errors="replace")}

    def get(self, path: str) -> Object:
        code, found = self.call("GET", path)
        assert code == 200, f"GET {path}: {code} {found.get('message')}"
        return found

    def apply(self, value: Object) -> None:
        """Creates an object. This release knows a budget under an older name."""
        if value["kind"] == "PodDisruptionBudget":
            value = {**value, "apiVersion": "policy/v1beta1"}
        path = PATHS[value["kind"]].format(value["metadata"].get("namespace"))
        code, found = self.call("POST", path, value)
        assert code == 201, f"{value['kind']}: {code} {found.get('message')}"


@dataclass(kw_only=True)
class Plane:
    """What runs, and where its logs are."""

    server: Server
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]


def until(
    true: Callable[[], Any], what: str, *, timeout_s: float = 60.0, told: Any = ""
) -> Any:
    """Returns what is true at last."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := true()):
        more = told() if callable(told) else told
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}\n{more}"
        time.sleep(0.05)
    return found


def _keys(folder: Path) -> None:
    """A certificate of the API server, its authority, and the key of tokens."""

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=folder, check=True, capture_output=True
        )

    names = "subjectAltName=IP:127.0.0.1,DNS:kubernetes.default.svc"
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-sha256")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=trial")
    openssl(*new, "-keyout", "api.key", "-out", "api.csr", "-subj", "/CN=api")
    (folder / "names").write_text(names)
    sign = ("x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key")
    openssl(*sign, "-CAcreateserial", "-extfile", "names", "-out", "api.crt")
    openssl("genrsa", "-out", "account.key", "2048")
    openssl("rsa", "-in", "account.key", "-pubout", "-out", "account.pub")
    (folder / "tokens.csv").write_text(f"{ADMIN},admin,1,system:masters\n")


def _access(server: Server) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "trial",
        "clusters": [
            {
                "name": "trial",
                "cluster": {
                    "server": f"https://127.0.0.1:{server.port}",
                    "certificate-authority": str(server.authority),
                },
            }
        ],
        "users": [{"name": "admin", "user": {"token": server.token}}],
        "contexts": [
            {"name": "trial", "context": {"cluster": "trial", "user": "admin"}}
        ],
    }


@contextmanager
def plane(folder: Path) -> Iterator[Plane]:
    commands = binaries()
    assert commands is not None
    _keys(folder)
    port, manager_port, scheduler_port = free_ports(3)
    server = Server(port=port, authority=folder / "ca.crt")
    found = Plane(server=server, folder=folder, processes={})
    (folder / "access").write_text(json.dumps(_access(server)))

    def start(name: str, **settings: object) -> None:
        flags = [f"--{key.replace('_', '-')}={val}" for key, val in settings.items()]
        with (folder / f"{name}.log").open("wb") as log:
            found.processes[name] = subprocess.Popen(
                [commands / name, *flags], stdout=log, stderr=log, cwd=folder
            )

    with cluster(folder, heartbeat_ms=100, election_ms=1000) as etcd:
        try:
            start(
                "kube-apiserver",
                etcd_servers=f"http://{etcd.nodes[0].endpoint}",
                bind_address="127.0.0.1",
                advertise_address="10.78.0.1",
                secure_port=port,
                insecure_port=0,
                tls_cert_file="api.crt",
                tls_private_key_file="api.key",
                authorization_mode="RBAC",
                token_auth_file="tokens.csv",
                service_account_key_file="account.pub",
                service_account_signing_key_file="account.key",
                service_account_issuer="https://kubernetes.default.svc",
                service_cluster_ip_range="10.96.0.0/24",
                endpoint_reconciler_type="none",
                cert_dir="certs",
            )
            api = COMMANDS[0]
            until(lambda: _is_ready(server), "the API", told=lambda: found.log(api))
            start(
                "kube-controller-manager",
                kubeconfig="access",
                leader_elect="false",
                service_account_private_key_file="account.key",
                root_ca_file="ca.crt",
                node_monitor_period="1s",
                node_monitor_grace_period=f"{NODE_GRACE_S}s",
                bind_address="127.0.0.1",
                port=0,
                secure_port=manager_port,
                cert_dir="certs",
            )
            start(
                "kube-scheduler",
                kubeconfig="access",
                leader_elect="false",
                bind_address="127.0.0.1",
                port=0,
                secure_port=scheduler_port,
                cert_dir="certs",
            )
            yield found
        finally:
            for process in reversed(found.processes.values()):
                process.kill()
                process.wait(10)


def _is_ready(server: Server) -> bool:
    try:
        return server.call("GET", "/readyz")[0] == 200
    except urllib3.exceptions.HTTPError:
        return False
