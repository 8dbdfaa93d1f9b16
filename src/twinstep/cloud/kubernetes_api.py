"""Asks the Kubernetes API by the official client: five calls, each with a deadline.

The client sends; answers are read and decoded here, no more of them than is allowed.
What goes wrong, in the network, in the API or in the client's own checks, becomes one
kind of error with words for people and whether it may pass.

Left out: repeating a call. Who asks knows what is worth it (kubernetes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, final

import kubernetes.client  # pyright: ignore[reportMissingTypeStubs]
import kubernetes.config  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from kubernetes.client.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    ApiException,
)
from urllib3.exceptions import HTTPError

from twinstep.cloud import pods
from twinstep.cloud.pods import Denial, Object, Pod, PodList, PodTemplate
from twinstep.cloud_settings import Kubernetes
from twinstep.errors import ConfigError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE = 500
T = TypeVar("T")


class Denied(Exception):
    """A call did not do what it was for."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.text)
        self.denial = denial


@final
class Api:
    """The five calls, each with its deadline and the right that it takes."""

    def __init__(
        self, *, namespace: str, settings: Kubernetes, client: Any = None
    ) -> None:
        self.namespace, self._settings = namespace, settings
        self._v1: Any = kubernetes.client.CoreV1Api(client or in_cluster())

    def create(self, pod: Object) -> Pod:
        return self._call(
            f"creating pod {pod['metadata']['name']}",
            "create pods",
            Pod,
            self._v1.create_namespaced_pod,
            namespace=self.namespace,
            body=pod,
        )

    def pod(self, name: str) -> Pod:
        return self._call(
            f"reading pod {name}",
            "get pods",
            Pod,
            self._v1.read_namespaced_pod,
            name=name,
            namespace=self.namespace,
        )

    def delete(self, pod: Pod) -> None:
        """This very pod is gone from the cluster's books, whoever still runs it."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}}
        name = pod.metadata.name
        self._call(
            f"deleting pod {name}",
            "delete pods",
            Object,
            self._v1.delete_namespaced_pod,
            name=name,
            namespace=self.namespace,
            body=options,
        )

    def of_job(self, job: str, *, most: int) -> list[Pod]:
        found: list[Pod] = []
        token = ""
        while len(found) < most:
            page = self._call(
                f"listing the pods of {job}",
                "list pods",
                PodList,
                self._v1.list_namespaced_pod,
                namespace=self.namespace,
                label_selector=f"{pods.JOB}={job}",
                limit=PAGE,
                **({"_continue": token} if token else {}),
            )
            found += page.items
            token = page.metadata.continue_
            if not token:
                break
        return found[:most]

    def template(self, name: str) -> Object:
        found = self._call(
            f"reading the PodTemplate {name}",
            "get podtemplates",
            PodTemplate,
            self._v1.read_namespaced_pod_template,
            name=name,
            namespace=self.namespace,
        )
        return found.template

    def _call(
        self,
        doing: str,
        right: str,
        kind: type[T],
        call: Callable[..., Any],
        **arguments: Any,
    ) -> T:
        """Raises: Denied, whatever the client or the API raises or says."""
        limit = self._settings.answer_bytes_max
        try:
            reply = call(
                **arguments,
                _request_timeout=self._settings.call_s_max,
                _preload_content=False,
            )
            body = cast(bytes, reply.read(limit + 1))
            reply.release_conn()
            if len(body) > limit:
                raise ValueError(f"an answer of more than {limit} bytes")
            return msgspec.json.decode(body, type=kind)
        except ApiException as failure:
            error = cast(Any, failure)
            code = int(error.status or 0)
            body = error.body if code else str(error.reason)
            body = body.encode() if isinstance(body, str) else body or b""
            raise Denied(pods.denial(code, body, doing=doing, right=right)) from error
        except (HTTPError, OSError) as error:
            text = f"{type(error).__name__}: {error}"
            found = pods.denial(0, text.encode(), doing=doing, right=right)
            raise Denied(found) from error
        except (ValueError, TypeError) as error:  # the client's own validation, too
            found = Denial(code=-1, reason="", text=f"{doing}: {error}", passes=False)
            raise Denied(found) from error


def in_cluster() -> Any:
    """Returns a client with the pod's service account. Raises: ConfigError."""
    setup = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(setup)  # pyright: ignore
    except kubernetes.config.ConfigException as error:
        raise ConfigError(
            f"the operator kubernetes works in a pod with a service account: {error}; "
            "set serviceAccountName in the pod's template"
        ) from error
    setup.retries = cast(Any, False)  # retries are counted here
    return kubernetes.client.ApiClient(setup)


def own_namespace() -> str:
    """Returns this pod's namespace. Raises: ConfigError."""
    try:
        return (ACCOUNT / "namespace").read_text().strip()
    except OSError as error:
        raise ConfigError(f"this pod's namespace is not known: {error}") from error
