"""Makes openapi.json from the specification in Kubernetes' sources:

    python -m tests.kubernetes.prune_schema KUBERNETES/api/openapi-spec/swagger.json

What the operator calls and what deploy/ has is kept, less the prose. Kubernetes is
under the Apache License 2.0, as this project is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRUNED = Path(__file__).parent / "openapi.json"
SOURCE = "Kubernetes 1.20.2, api/openapi-spec/swagger.json, Apache License 2.0"
PODS = "/api/v1/namespaces/{namespace}/pods"
CALLS = {
    PODS: ("get", "post"),
    f"{PODS}/{{name}}": ("get", "delete"),
    "/api/v1/namespaces/{namespace}/podtemplates/{name}": ("get",),
}
KINDS = (
    "io.k8s.api.apps.v1.StatefulSet",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Node",
    "io.k8s.api.core.v1.PodTemplate",
    "io.k8s.api.core.v1.ResourceQuota",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ServiceAccount",
    "io.k8s.api.policy.v1beta1.PodDisruptionBudget",
    "io.k8s.api.rbac.v1.Role",
    "io.k8s.api.rbac.v1.RoleBinding",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
)


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(name)}:
            yield name.removeprefix("#/definitions/")
        case dict():
            for inner in value.values():
                yield from references(inner)
        case list():
            for inner in value:
                yield from references(inner)


def without_prose(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: without_prose(inner)
                for name, inner in value.items()
                if not (name == "description" and isinstance(inner, str))
            }
        case list():
            return [without_prose(inner) for inner in value]
        case _:
            return value


def prune(whole: dict[str, Any]) -> dict[str, Any]:
    paths = {
        path: {name: whole["paths"][path][name] for name in ("parameters", *methods)}
        for path, methods in CALLS.items()
    }
    wanted, kept = [*KINDS, *references(paths)], set[str]()
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept.add(name)
            wanted += references(whole["definitions"][name])
    definitions = {name: whole["definitions"][name] for name in sorted(kept)}
    return without_prose(
        {"x-source": SOURCE, "paths": paths, "definitions": definitions}
    )


if __name__ == "__main__":
    pruned = prune(json.loads(Path(sys.argv[1]).read_bytes()))
    text = json.dumps(pruned, separators=(",", ":")).replace('"io.k8s', '\n"io.k8s')
    PRUNED.write_text(text + "\n")
