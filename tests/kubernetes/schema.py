"""Checks calls and objects against the published schema of the API, strictly: what a
definition does not name is an error, as a misspelt field is dropped in silence."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema

SCHEMA = Path(__file__).parent / "openapi.json"
KINDS_OF_ANOTHER_VERSION = {("policy", "v1"): ("policy", "v1beta1")}
"""What this release of the schema has under an older name, with the same fields."""


@cache
def _whole() -> dict[str, Any]:
    return json.loads(SCHEMA.read_bytes())


@cache
def _strict() -> dict[str, Any]:
    """The definitions, in which nothing more is allowed than is named."""
    found: dict[str, Any] = {}
    for name, definition in _whole()["definitions"].items():
        if name.endswith("IntOrString"):
            found[name] = {"type": ["integer", "string"]}
        elif name.endswith("Quantity"):
            found[name] = {"type": ["string", "number"]}
        elif "properties" in definition:
            found[name] = {**definition, "additionalProperties": False}
        else:
            found[name] = definition
    return found


def _errors(value: Any, schema: dict[str, Any]) -> list[str]:
    checker = jsonschema.Draft202012Validator({**schema, "definitions": _strict()})
    return [
        f"{'.'.join(map(str, error.absolute_path)) or 'the object'}: {error.message}"
        for error in checker.iter_errors(value)
    ]


def wrong_object(value: dict[str, Any]) -> list[str]:
    """Returns what is wrong with a manifest; it names its own kind."""
    group, _, version = str(value.get("apiVersion", "")).rpartition("/")
    group, version = KINDS_OF_ANOTHER_VERSION.get((group, version), (group, version))
    kind = {"group": group, "version": version, "kind": value.get("kind")}
    for name, definition in _strict().items():
        if kind in definition.get("x-kubernetes-group-version-kind", []):
            return _errors(value, {"$ref": f"#/definitions/{name}"})
    return [f"no definition has {kind}"]


def wrong_call(method: str, target: str, body: bytes) -> list[str]:
    """Returns what is wrong with a request."""
    split = urlsplit(target)
    for path, methods in _whole()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[a-z0-9.-]+", re.escape(path))
        if re.fullmatch(pattern, split.path) and method.lower() in methods:
            known = [*methods["parameters"], *methods[method.lower()]["parameters"]]
            return _wrong_query(split.query, known) + _wrong_body(body, known)
    return [f"there is no {method} {split.path}"]


def _wrong_query(query: str, known: list[dict[str, Any]]) -> list[str]:
    kinds = {p["name"]: p["type"] for p in known if p["in"] == "query"}
    patterns = {"integer": r"-?\d+", "boolean": "true|false", "string": ".*"}
    wrong: list[str] = []
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=False):
        if name not in kinds:
            wrong.append(f"the query has {name}; known are {sorted(kinds)}")
        elif not re.fullmatch(patterns[kinds[name]], value):
            wrong.append(f"{name}={value} is no {kinds[name]}")
    return wrong


def _wrong_body(body: bytes, known: list[dict[str, Any]]) -> list[str]:
    bodies = [parameter for parameter in known if parameter["in"] == "body"]
    if not bodies:
        return ["a body where none is allowed"] if body else []
    if not body:
        return ["a body is required"] if bodies[0].get("required") else []
    return _errors(json.loads(body), bodies[0]["schema"])
