"""What is in deploy/ is what the API's schema says, and asks for no right too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.kubernetes.schema import wrong_object  # noqa: E402
from twinstep import config  # noqa: E402

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(path.name for path in DEPLOY.glob("*.yaml"))
CODE = Path(config.__file__).parent / "cloud" / "kubernetes_api.py"


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.mark.parametrize("name", [n for n in FILES if n != "kustomization.yaml"])
def test_a_manifest_is_valid(name: str) -> None:
    found = objects(name)
    assert found
    for value in found:
        where = f"{name}: {value['kind']} {value['metadata']['name']}"
        assert wrong_object(value) == [], where
        if value["kind"] != "Namespace":
            assert value["metadata"]["namespace"] == "twinstep", where


def test_the_kustomization_names_what_is_there() -> None:
    (value,) = objects("kustomization.yaml")
    assert sorted([*value["resources"], "kustomization.yaml", "run.yaml"]) == FILES


def test_a_misspelt_field_is_found() -> None:
    job = objects("run.yaml")[-1]
    assert job["kind"] == "Job"
    job["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    assert "comand" in str(wrong_object(job))
    assert "no definition" in str(wrong_object({"apiVersion": "v2", "kind": "Pod"}))


def test_the_role_allows_what_is_called_and_nothing_else() -> None:
    (role,) = [value for value in objects("rights.yaml") if value["kind"] == "Role"]
    allowed = {
        f"{verb} {resource}"
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    text = CODE.read_text()
    known = {"get", "list", "watch", "create", "update", "patch", "delete"}
    called = {
        f"{verb} {resource}"
        for verb in known
        for resource in ("pods", "podtemplates", "nodes", "pods/eviction")
        if f'"{verb} {resource}"' in text
    }
    assert allowed == called


def test_the_run_is_one_run() -> None:
    found = {value["kind"]: value for value in objects("run.yaml")}
    names = {value["metadata"]["name"] for value in found.values()}
    assert names == {"run-1"}
    template = found["PodTemplate"]["template"]["spec"]["containers"][0]
    launcher = found["Job"]["spec"]["template"]["spec"]["containers"][0]
    for container in (template, launcher):
        assert "--store=etcd://etcd.twinstep:2379/run-1" in container["args"]
    resources = template["resources"]
    assert resources["requests"] == resources["limits"]


def test_the_settings_of_the_run_are_settings(tmp_path: Path) -> None:
    (found,) = [v for v in objects("run.yaml") if v["kind"] == "ConfigMap"]
    (tmp_path / "run.toml").write_text(found["data"]["run.toml"])
    job = config.load(tmp_path / "run.toml")
    (template,) = [v for v in objects("run.yaml") if v["kind"] == "PodTemplate"]
    container = template["template"]["spec"]["containers"][0]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == job.health.port
    (budget,) = [v for v in objects("run.yaml") if v["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["minAvailable"] == job.machines
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert str(Path(job.trust.token_file).parent) in mounts
