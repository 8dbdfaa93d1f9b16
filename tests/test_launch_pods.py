"""The launcher of a job's first pods: real calls, checked, and a real store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

pytest.importorskip("kubernetes")
pytest.importorskip("jsonschema")

from tests.kubernetes.checked_api import CheckedApi, checked_api
from tests.kubernetes.plane import until
from twinstep import config, launch_pods
from twinstep.agent import seat
from twinstep.agent.kv import KeyValueStore, Put
from twinstep.agent.kv_server import serve
from twinstep.agent.stores import open_store
from twinstep.cloud import pods
from twinstep.cloud.kubernetes import KubernetesOperator
from twinstep.cloud_settings import Kubernetes
from twinstep.errors import Refused

JOB = config.Job(machines=2, standbys=1)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[CheckedApi]:
    monkeypatch.setattr(launch_pods, "LOOK_S", 0.02)
    with checked_api() as found:
        template = {"spec": {"containers": [{"name": "machine", "image": "x"}]}}
        found.templates["run"] = {"metadata": {"name": "run"}, "template": template}
        yield found


@pytest.fixture
def store() -> Iterator[KeyValueStore]:
    with (
        closing(serve(host="127.0.0.1", port=0)) as server,
        closing(open_store(server.address)) as found,
    ):
        yield found


def operator(api: CheckedApi) -> KubernetesOperator:
    settings: dict[str, Any] = {"look_s": 0.02, "patience_s": 60.0}
    made = Kubernetes(**settings)
    return KubernetesOperator(
        job="run", machine="launcher", settings=made, api=api.api(**settings)
    )


def launching(
    api: CheckedApi, store: KeyValueStore, told: list[Any]
) -> tuple[threading.Thread, Callable[[], None]]:
    asked = operator(api)

    def work() -> None:
        try:
            told.append(launch_pods.launch(JOB, asked, store))
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, asked.close


def end(store: KeyValueStore, status: int) -> None:
    value = msgspec.json.encode({"status": status, "reason": "all ranks have ended"})
    store.transact([Put(key=seat.RESULT, value=value)])


def test_it_makes_the_first_pods_and_ends_as_the_run_does(
    api: CheckedApi, store: KeyValueStore
) -> None:
    told: list[Any] = []
    thread, close = launching(api, store, told)
    until(lambda: sorted(api.pods) == ["run-0", "run-1", "run-s0"], "three pods")
    roles = [api.pods[n]["metadata"]["labels"][pods.ROLE] for n in sorted(api.pods)]
    assert roles == ["trains", "trains", "standby"]
    for name in api.pods:
        api.run(name)
    assert thread.is_alive()
    end(store, 3)
    thread.join(10)
    assert told[0].status == 3
    close()


def test_once_the_job_has_begun_pods_are_the_roots_matter(
    api: CheckedApi, store: KeyValueStore
) -> None:
    store.transact([Put(key=seat.PLAN, value=b"a plan")])
    end(store, 0)
    told: list[Any] = []
    thread, close = launching(api, store, told)
    thread.join(10)
    assert told[0].status == 0 and api.pods == {}
    close()


def test_it_does_not_wait_for_machines_that_have_all_ended(
    api: CheckedApi, store: KeyValueStore
) -> None:
    told: list[Any] = []
    thread, close = launching(api, store, told)
    until(lambda: len(api.pods) == 3, "three pods")
    for name in api.pods:
        api.run(name, "Failed")
    thread.join(10)
    assert isinstance(told[0], Refused) and "without a result" in str(told[0])
    close()
