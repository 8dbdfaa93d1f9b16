"""Whoever has started a job waits for its end, whatever the store does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.agent.etcd_relay import Relay
from tests.agent.kv_calls import put_in
from twinstep.agent import kv_client, kv_server
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.seat import RESULT
from twinstep.cloud.hosting import Result, wait_for_result
from twinstep.cloud.operator import LIVING

WAIT_S = 20.0


class Waiting:
    """`wait_for_result` in a thread, with one machine that lives."""

    def __init__(self, store: KeyValueStore) -> None:
        self.machines = [SimpleNamespace(state=LIVING)]
        self.ended: list[int] = []
        self.status: int | None = None
        operator: Any = SimpleNamespace(machines=lambda: self.machines)

        def wait() -> None:
            self.status = wait_for_result(store, operator, self.ended)

        self._thread = threading.Thread(target=wait, daemon=True)
        self._thread.start()

    def join(self, timeout_s: float = WAIT_S) -> int | None:
        """Its status, or None while it waits."""
        self._thread.join(timeout_s)
        return self.status


@pytest.fixture
def server() -> Iterator[kv_server.Server]:
    with kv_server.serve() as made:
        yield made


def through(relay: Relay) -> KeyValueStore:
    return kv_client.connect(f"127.0.0.1:{relay.port}", call_s_max=0.2)


def test_a_store_that_was_away_says_how_the_job_ended(
    server: kv_server.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    port = int(server.address.rpartition(":")[2])
    with Relay(port) as relay:
        store = through(relay)
        waiting = Waiting(store)
    assert waiting.join(1.0) is None
    put_in(server.store, RESULT, msgspec.json.encode(Result(status=3, reason="why")))
    with Relay(port, here=relay.port):
        assert waiting.join() == 3
    said = capsys.readouterr().err
    assert said.count("the machines train on without it") == 1, said
    assert "the job ended: why" in said
    store.close()


def test_who_waits_for_a_store_that_is_away_can_be_ended(
    server: kv_server.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    port = int(server.address.rpartition(":")[2])
    for end, status in (("signal", 130), ("machines", 1)):
        with Relay(port) as relay:
            store = through(relay)
            waiting = Waiting(store)
        assert waiting.join(0.5) is None
        if end == "signal":
            waiting.ended.append(2)
        else:
            waiting.machines.clear()
        assert waiting.join() == status
        store.close()
    assert "ended without a result" in capsys.readouterr().err
