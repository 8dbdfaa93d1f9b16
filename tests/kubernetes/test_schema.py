"""The checks of calls find what the schema does not know."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema")

from tests.kubernetes.schema import wrong_call


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("PATCH", "pods/x", b"{}", "there is no PATCH"),
        ("GET", "pods?labelSelectors=a", b"", "the query has labelSelectors"),
        ("GET", "pods?limit=many", b"", "limit=many is no integer"),
        ("GET", "pods", b"{}", "a body where none is allowed"),
        ("POST", "pods", b"", "a body is required"),
        ("POST", "pods", b'{"spec": {"containerz": []}}', "'containerz'"),
        ("DELETE", "pods/x", b'{"gracePeriodSeconds": "0"}', "not of type 'integer'"),
    ],
)
def test_a_call_that_the_schema_does_not_know_is_found(
    method: str, path: str, body: bytes, says: str
) -> None:
    target = f"/api/v1/namespaces/trial/{path}"
    assert any(says in line for line in wrong_call(method, target, body))
