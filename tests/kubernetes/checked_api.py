"""An HTTP server on loopback that checks every call against the schema.

It is no cluster: it keeps pods as they were put, and gives the answers that a test
has laid out for it. What a cluster does is seen in the long test (on_a_cluster.py).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes.client

from tests.kubernetes import schema
from twinstep.cloud.kubernetes_api import Api
from twinstep.cloud_settings import Kubernetes

Object = dict[str, Any]


def status(code: int, reason: str, message: str, **details: Any) -> tuple[int, Object]:
    """An answer as the API gives it with an error."""
    said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    said |= {"message": message, "reason": reason, "code": code}
    said = said | ({"details": details} if details else {})
    assert schema.wrong_object(said) == []
    return code, said


@dataclass
class CheckedApi:
    """What the server has, what it was asked, and what was wrong with that."""

    pods: dict[str, Object] = field(default_factory=dict[str, Object])
    templates: dict[str, Object] = field(default_factory=dict[str, Object])
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    wrong: list[str] = field(default_factory=list[str])
    deletions: list[Object] = field(default_factory=list[Object])
    """The options of each."""
    answers: dict[str, list[tuple[int, Any]]] = field(
        default_factory=dict[str, list[tuple[int, Any]]]
    )
    """By method: what the next calls get instead. A code of 0: nothing, ever."""
    silent: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    token: str = "bearer a-token"

    def api(self, **settings: Any) -> Api:
        setup = kubernetes.client.Configuration(host=f"http://127.0.0.1:{self.port}")
        setup.retries = False  # as in kubernetes_api.in_cluster
        setup.api_key["BearerToken"] = self.token
        client = kubernetes.client.ApiClient(setup)
        made = Kubernetes(**settings)
        return Api(namespace="trial", settings=made, client=client)

    def run(self, name: str, phase: str = "Running", **status: Any) -> None:
        self.pods[name]["status"] = {"phase": phase, **status}

    def serve(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        split = urlsplit(target)
        *_, kind, name = ["", *split.path.split("/")]
        if kind == "trial":
            kind, name = name, ""
        self.calls.append((method, f"{kind}/{name}".rstrip("/")))
        self.wrong += schema.wrong_call(method, target, body)
        if self.answers.get(method):
            return self.answers[method].pop(0)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        if kind == "podtemplates":
            found = self.templates.get(name)
            return (200, found) if found else _missing(kind, name)
        match method:
            case "POST":
                return self._create(json.loads(body))
            case "GET" if not name:
                return self._list(query)
            case "GET":
                found = self.pods.get(name)
                return (200, found) if found else _missing(kind, name)
            case _:
                return self._delete(name, json.loads(body))

    def _create(self, pod: Object) -> tuple[int, Any]:
        name = pod["metadata"]["name"]
        if name in self.pods:
            text = f'pods "{name}" already exists'
            return status(409, "AlreadyExists", text)
        pod["metadata"]["uid"] = f"uid-{len(self.calls)}"
        self.pods[name] = pod | {"status": {"phase": "Pending"}}
        return 201, self.pods[name]

    def _delete(self, name: str, options: Object) -> tuple[int, Any]:
        if name not in self.pods:
            return _missing("pods", name)
        self.deletions.append(options)
        uid = self.pods[name]["metadata"]["uid"]
        if options["preconditions"]["uid"] != uid:
            return status(409, "Conflict", "Precondition failed: UID")
        return 200, self.pods.pop(name)

    def _list(self, query: dict[str, str]) -> tuple[int, Any]:
        label, _, value = query["labelSelector"].partition("=")
        found = [
            pod
            for pod in self.pods.values()
            if pod["metadata"].get("labels", {}).get(label) == value
        ]
        start, limit = int(query.get("continue", 0)), int(query["limit"])
        more = str(start + limit) if start + limit < len(found) else ""
        metadata = {"continue": more} if more else {}
        items = found[start : start + limit]
        return 200, {"kind": "PodList", "metadata": metadata, "items": items}


def _missing(kind: str, name: str) -> tuple[int, Object]:
    return status(404, "NotFound", f'{kind} "{name}" not found')


@contextmanager
def checked_api() -> Iterator[CheckedApi]:
    """A server that is gone when the block ends; a wrong call fails the test."""
    found = CheckedApi()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if self.headers.get("Authorization") != found.token:
                found.wrong.append(f"no token: {self.headers}")
            code, said = found.serve(self.command, self.path, body)
            if code == 0:
                found.silent.wait(30)
                self.close_connection = True
                return
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
        assert found.wrong == [], "\n".join(found.wrong)
    finally:
        found.silent.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
