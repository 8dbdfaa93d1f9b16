"""Certificates and tokens as files: who may read them, what they are for."""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from tests.trust import made
from twinstep.config import Trust
from twinstep.errors import ConfigError
from twinstep.trust import certs, credentials
from twinstep.trust.certificates import Certificates


def test_the_authority_is_made_once_and_machines_are_added(tmp_path: Path) -> None:
    first = certs.make(tmp_path / "c", machine="m0", hosts=["10.0.0.1"], days=30)
    second = certs.make(tmp_path / "c", machine="m1", hosts=["h", "::1"], days=5000)
    assert (first.ca_made, second.ca_made) == (True, False)
    assert second.expires == second.ca_expires, "none outlives its authority"
    left = first.expires - datetime.datetime.now(datetime.UTC)
    assert 29 <= left.days <= 30
    for path in (tmp_path / "c").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    authority = x509.load_pem_x509_certificate((tmp_path / "c/ca.pem").read_bytes())
    for one in (first, second):
        found = x509.load_pem_x509_certificate((one.folder / "cert.pem").read_bytes())
        found.verify_directly_issued_by(authority)
        assert (one.folder / "ca.pem").read_bytes() == (
            tmp_path / "c/ca.pem"
        ).read_bytes()
    assert not list((tmp_path / "c").rglob(".*"))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["m1", "h"]
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use._name for use in usage} == {"serverAuth", "clientAuth"}


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    for machine, hosts, days, says in (
        ("a/b", ["h"], 1, "'a/b'; use letters"),
        ("m", [], 1, "no host of m"),
        ("m", ["h"], 0, "days is 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            certs.make(tmp_path, machine=machine, hosts=hosts, days=days)
    certs.make(tmp_path, machine="m", hosts=["h"], days=1)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key: add machines where"):
        certs.make(tmp_path, machine="m2", hosts=["h"], days=1)


def test_the_command_says_what_to_copy_and_until_when(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twinstep", "certs", str(tmp_path / "c")]
    done = subprocess.run(
        [*command, "--machine", "m3", "--host", "10.0.0.3", "--days", "10"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/c/ca.key where only you are" in done.stdout
    day = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10)
    assert f"valid until {day:%Y-%m-%d}; copy it" in " ".join(done.stdout.split())


def test_a_token_is_for_one_user_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "job" / "token"
    certs.make_token(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(credentials.load(Trust(token_file=str(path))).token) == 64
    assert "0123" not in repr(made.token())
    with pytest.raises(ConfigError, match="is there already"):
        certs.make_token(path)
    path.chmod(0o604)
    with pytest.raises(ConfigError, match="others; chmod 600"):
        credentials.load(Trust(token_file=str(path)))
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="holds 5 bytes; it must be 32"):
        credentials.load(Trust(token_file=str(path)))
    with pytest.raises(ConfigError, match="`twinstep token /none` makes one"):
        credentials.load(Trust(token_file="/none"))


def test_a_machines_folder_is_found(tmp_path: Path) -> None:
    ours = made.folder() / "ours"
    for where, machine in ((ours, "m1"), (ours / "m1", "m7")):
        found = credentials.load(Trust(certs=str(where)), machine=machine)
        assert found.certificates is not None
        assert found.certificates.folder == ours / "m1"
    with pytest.raises(ConfigError, match=r"no cert.pem in .*ours/m9.*--machine m9"):
        credentials.load(Trust(certs=str(ours)), machine="m9")
    (tmp_path / "cert.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be used"):
        credentials.load(Trust(certs=str(tmp_path)))


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made_for = certs.make(tmp_path, machine="m", hosts=["h"], days=1)
    (made_for.folder / "key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read .*chmod 600"):
        credentials.load(Trust(certs=str(made_for.folder)))


def test_without_credentials_only_loopback_is_spoken_to() -> None:
    for host in ("127.0.0.1", "127.3.2.1", "localhost", "::1"):
        credentials.NONE.check_host(host)
    for host in ("10.0.0.1", "0.0.0.0", "example.org", "::", ""):
        with pytest.raises(ConfigError, match="trust.certs.*trust.token_file"):
            credentials.NONE.check_host(host)
    made.token().check_host("10.0.0.1")
    made.tls().check_host("10.0.0.1")


def test_a_replaced_certificate_is_used_for_the_next_connection(tmp_path: Path) -> None:
    folder = certs.make(tmp_path, machine="m", hosts=["h"], days=1).folder
    found = Certificates(folder)

    def present() -> ssl.SSLContext:
        return found.context(server=True, protocols=("a",))

    first = present()
    assert present() is first
    certs.make(tmp_path, machine="m", hosts=["h"], days=1)
    second = present()
    assert second is not first
    os.truncate(folder / "cert.pem", 10)  # half written
    assert present() is second
    certs.make(tmp_path, machine="m", hosts=["h"], days=1)
    assert present() is not second
