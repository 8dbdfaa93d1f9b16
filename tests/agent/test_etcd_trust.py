"""Users, tokens and certificates of a real etcd."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.etcd_nodes import Cluster, ask, cluster, needs_etcd
from tests.agent.kv_calls import events_until, put_in
from tests.trust import made
from twinstep.agent import etcd
from twinstep.agent.stores import open_store
from twinstep.errors import ConfigError, DeadlinePassed, Refused
from twinstep.trust.credentials import NONE

pytestmark = needs_etcd
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make certificates with"
)
GRANTED = {"key": "dHdpbnN0ZXAvYS8=", "range_end": "dHdpbnN0ZXAvYTA="}
"""All keys of job `a`: from twinstep/a/ to before twinstep/a0."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Cluster]:
    """An etcd whose user `agent` may use the keys of job `a`, with tokens that expire
    after a second."""
    with cluster(tmp_path, arguments=["--auth-token-ttl=1"]) as nodes:
        permission = {"permType": "READWRITE", **GRANTED}
        calls: list[tuple[str, dict[str, object]]] = [
            ("user/add", {"name": "root", "password": "over"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "agent", "password": "secret"}),
            ("role/add", {"name": "job"}),
            ("role/grant", {"name": "job", "perm": permission}),
            ("user/grant", {"user": "agent", "role": "job"}),
            ("enable", {}),
        ]
        for path, body in calls:
            ask(nodes.nodes[0], f"/v3/auth/{path}", json.dumps(body).encode())
        password = tmp_path / "password"
        password.write_text("secret\n")
        nodes.name = "a"
        nodes.query = f"?user=agent&password_file={password}"
        yield nodes


def test_a_user_works_on_when_the_token_has_expired(guarded: Cluster) -> None:
    store = guarded.open()
    watch = store.watch("", after=1)
    lease = store.grant(20)
    first = put_in(store, "a", lease=lease.id)
    assert [event.key for event in events_until(watch, 1)] == ["a"]
    assert watch.next(3.0) == []  # its questions come once a second, and are answered
    store._gateway._token = "forged.1"
    assert put_in(store, "a") == first + 1
    store._gateway._token = "forged.2"
    assert lease.renew()
    store._gateway._token = "forged.3"
    anew = store.watch("", after=first)
    assert [event.revision for event in events_until(anew, 1)] == [first + 1]
    for node in guarded.nodes:
        node.kill()  # and with it all tokens
        node.start()
    assert put_in(store, "a") == first + 2
    assert [event.revision for event in events_until(watch, 2)] == [
        first + 1,
        first + 2,
    ]
    assert "secret" not in str(store._gateway.address)


def test_a_wrong_password_and_a_foreign_key_are_refused(guarded: Cluster) -> None:
    guarded.name = "b"
    foreign = guarded.open()
    for call in (
        lambda: foreign.get(""),
        lambda: put_in(foreign, "a"),
        lambda: foreign.watch("", after=1).next(5),
    ):
        with pytest.raises(Refused, match="permission denied"):
            call()
    path = Path(guarded.query.rpartition("=")[2])
    path.write_text("guessed")
    store = guarded.open()
    with pytest.raises(Refused, match="authentication failed.*password_file"):
        store.get("")
    path.unlink()
    with pytest.raises(ConfigError, match="password of agent cannot be read"):
        guarded.open().get("")
    guarded.query = ""
    with pytest.raises(Refused, match="user name is empty"):
        guarded.open().get("")


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A CA in a folder, made by openssl."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._run("req -x509 -nodes -subj /CN=ca -keyout ca.key -out ca.pem -days 2")

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key. etcd's gateway is a client of its
        own member, so a server's certificate serves clients as well."""
        extensions = self.folder / "extensions"
        extensions.write_text(
            "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        self._run(f"req -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        self._run(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial "
            f"-days 2 -extfile extensions -out {name}.pem"
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _run(self, command: str) -> None:
        kind, rest = command.split(" ", 1)
        new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1" * (kind == "req")
        subprocess.run(
            ["openssl", kind, *new_key.split(), *rest.split()],
            cwd=self.folder,
            check=True,
            capture_output=True,
            timeout=30,
        )


@needs_openssl
def test_both_sides_show_certificates(tmp_path: Path) -> None:
    ours, theirs = Authority(folder=tmp_path / "a"), Authority(folder=tmp_path / "b")
    server, server_key = ours.sign("server")
    client, client_key = ours.sign("client")
    stranger, stranger_key = theirs.sign("stranger")
    ca = ours.folder / "ca.pem"
    arguments = [
        f"--cert-file={server}",
        f"--key-file={server_key}",
        f"--trusted-ca-file={ca}",
        "--client-cert-auth",
    ]
    query = f"?ca={ca}&cert={client}&key={client_key}"
    with cluster(tmp_path, arguments=arguments, query=query, tls=True) as nodes:
        store = nodes.open()
        watch = store.watch("", after=1)
        large = bytes(range(256)) * 4096
        put_in(store, "a", large)
        (event,) = events_until(watch, 1)
        assert event.item is not None and event.item.value == large
        assert store.get("")[1]["a"].value == large
        lease = store.grant(5)
        assert lease.renew()
        closing = store.watch("", after=1000)
        assert closing.next(1.5) == []
        closing.close()
        assert closing.next(30) == []
        refused = {
            "?ca=" + str(ca): "bad certificate|certificate required|EOF|closed|reset",
            f"?ca={ca}&cert={stranger}&key={stranger_key}": (
                "unknown ca|bad certificate|decrypt error|EOF|closed|reset"
            ),
            f"?ca={theirs.folder}/ca.pem&cert={client}&key={client_key}": (
                "certificate verify failed"
            ),
        }
        for query, reason in refused.items():
            nodes.query = query
            with pytest.raises(DeadlinePassed, match=reason):
                nodes.open(call_s_max=1.0).get("")
        nodes.scheme, nodes.query = "etcd", ""
        with pytest.raises((DeadlinePassed, Refused)):
            nodes.open(call_s_max=0.5).get("")


def test_the_jobs_own_certificates_serve_etcd_too(tmp_path: Path) -> None:
    """What `twinstep certs` makes is what the member and its clients show."""
    ours = made.folder() / "ours"
    arguments = [
        f"--cert-file={ours}/m0/cert.pem",
        f"--key-file={ours}/m0/key.pem",
        f"--trusted-ca-file={ours}/ca.pem",
        "--client-cert-auth",
    ]
    # The cluster asks its members whether they are there, and shows this.
    query = f"?ca={ours}/ca.pem&cert={ours}/m1/cert.pem&key={ours}/m1/key.pem"
    with cluster(tmp_path, arguments=arguments, query=query, tls=True) as nodes:
        address = f"etcds://127.0.0.1:{nodes.nodes[0].port}/job"
        store = open_store(address, credentials=made.tls(machine="m1"))
        put_in(store, "a")
        assert "a" in store.get("")[1]
        store.close()
        for stranger in (NONE, made.token(), made.tls("theirs")):
            refused = open_store(address, call_s_max=0.5, credentials=stranger)
            with pytest.raises(DeadlinePassed):
                refused.get("")
            refused.close()


def test_a_key_that_is_not_the_certificates_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "cert.pem"
    wrong.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"cert=.*cert\.pem.*cannot be used"):
        etcd.connect(f"etcds://127.0.0.1:1?cert={wrong}&key={wrong}")
