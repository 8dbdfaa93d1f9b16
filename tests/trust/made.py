"""Credentials for tests: made once a session by the code that users run."""

from __future__ import annotations

import atexit
import datetime
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from twinstep.config import Trust
from twinstep.trust import certs
from twinstep.trust.credentials import Credentials, load

TOKEN = "0123456789abcdef0123456789abcdef"


@cache
def folder() -> Path:
    """A folder with a job's authority and the certificates of `m0` and `m1`."""
    made = Path(mkdtemp(prefix="twinstep-certs-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    for machine in ("m0", "m1"):
        certs.make(made / "ours", machine=machine, hosts=["127.0.0.1"], days=2)
    certs.make(made / "theirs", machine="m0", hosts=["127.0.0.1"], days=2)
    return made


def tls(whose: str = "ours", machine: str = "m0", **changed: object) -> Credentials:
    settings = {"data": "tls", **changed}
    trust = Trust(certs=str(folder() / whose / machine), **settings)  # type: ignore
    return load(trust)


def token(text: str = TOKEN, **changed: object) -> Credentials:
    path = folder() / f"token-{len(text)}-{text[:1]}"
    if not path.exists():
        certs.write(path, text.encode())
    return load(Trust(token_file=str(path), **changed))  # type: ignore[arg-type]


def expired(there: Path) -> Path:
    """A folder whose certificate the job's authority signed, for yesterday."""
    ours = folder() / "ours"
    there.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    first, last = (
        (now - datetime.timedelta(days=d)).strftime("%y%m%d%H%M%SZ") for d in (3, 1)
    )
    (there / "index.txt").write_text("")
    (there / "serial").write_text("01")
    (there / "ca.conf").write_text(
        f"[ca]\ndefault_ca = a\n[a]\ndatabase = {there}/index.txt\n"
        f"serial = {there}/serial\nnew_certs_dir = {there}\ndefault_md = sha256\n"
        "policy = p\nx509_extensions = e\nunique_subject = no\n"
        "[p]\ncommonName = supplied\n"
        "[e]\nextendedKeyUsage = serverAuth,clientAuth\n"
    )
    for line in (
        "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=m0 "
        f"-keyout {there}/key.pem -out {there}/m0.csr",
        f"ca -batch -config {there}/ca.conf -cert {ours}/ca.pem -keyfile "
        f"{ours}/ca.key -in {there}/m0.csr -out {there}/cert.pem -notext "
        f"-startdate {first} -enddate {last}",
    ):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    (there / "ca.pem").write_bytes((ours / "ca.pem").read_bytes())
    return there
