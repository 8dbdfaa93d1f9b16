"""Makes what `twinstep certs` and `twinstep token` make: files, once, on one computer.

    DIR/ca.pem  DIR/ca.key          the job's authority; the key stays here
    DIR/NAME/ca.pem cert.pem key.pem   what machine NAME gets, and nothing else

A machine's certificate serves both ends of a connection, and etcd's members and
clients. Its hosts are for etcd, which looks at them; twinstep's own agents do not
(certificates.py). Keys are P-256: a handshake costs half a millisecond on each end.
Files are written beside their place and moved into it, so a machine that runs finds
the old ones or the new.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twinstep.errors import ConfigError
from twinstep.trust.certificates import CA, CERT, KEY

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder, GeneralName

CA_KEY = "ca.key"
CA_DAYS = 3650
BACKDATED = datetime.timedelta(minutes=10)
"""Valid from a little before now: machines' clocks differ."""
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What there is now."""

    folder: Path
    """Of the machine: what is to be copied to it."""
    machine: str
    hosts: tuple[str, ...]
    expires: datetime.datetime
    ca_made: bool
    ca_expires: datetime.datetime


def make(folder: Path, *, machine: str, hosts: Sequence[str], days: int) -> Made:
    """A machine has a certificate; the authority is made with the first.

    A machine that has one gets another, with a new key. Raises: ConfigError."""
    _check(machine, hosts, days)
    x509 = _library()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = (folder / CA).exists() or (folder / CA_KEY).exists()
    ca, ca_key = _read_authority(folder) if known else _make_authority(folder)
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    wished = _now() + datetime.timedelta(days=days)
    expires = min(wished, ca.not_valid_after_utc)  # none outlives its authority
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [_general_name(name) for name in dict.fromkeys([machine, *hosts])]
    builder = _builder(machine, key, expires).issuer_name(ca.subject)
    signer = ca_key.public_key()
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(ca=False), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.SubjectAlternativeName(names), False),
        (authority, False),
    ):
        builder = builder.add_extension(extension, critical)
    there = folder / machine
    there.mkdir(exist_ok=True, mode=0o700)
    write(there / CA, _pem(ca))
    write(there / KEY, _key_pem(key))
    write(there / CERT, _pem(_signed(builder, ca_key)))
    return Made(
        folder=there,
        machine=machine,
        hosts=tuple(hosts),
        expires=expires,
        ca_made=not known,
        ca_expires=ca.not_valid_after_utc,
    )


def make_token(path: Path) -> None:
    """The file holds a new secret that only this user can read.

    Raises: ConfigError when the file is there: a job may be using it."""
    if path.exists():
        raise ConfigError(f"{path} is there already; name another file, or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(path, f"{secrets.token_hex(TOKEN_BYTES)}\n".encode())
    except OSError as error:
        raise ConfigError(f"the token {path} cannot be written: {error}") from error


def write(path: Path, content: bytes) -> None:
    """The file has this content, whole, and only this user can read it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(number, "wb") as file:
        file.write(content)
        os.fsync(number)
    part.replace(path)


def _check(machine: str, hosts: Sequence[str], days: int) -> None:
    plain = machine.replace("-", "").replace(".", "").replace("_", "")
    if not plain.isalnum() or not plain.isascii() or len(machine) > 63:
        raise ConfigError(
            f"a machine's name is {machine!r}; use letters, digits, - . and _, at "
            "most 63"
        )
    if not hosts:
        raise ConfigError(
            f"no host of {machine} is named; give each address or name that others "
            "reach it at with --host"
        )
    if days < 1:
        raise ConfigError(f"days is {days}; it must be at least 1")


def _make_authority(folder: Path) -> tuple[Certificate, EllipticCurvePrivateKey]:
    x509 = _library()
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: who trusts two authorities can tell them apart.
    name = f"twinstep {secrets.token_hex(4)}"
    builder = _builder(name, key, _now() + datetime.timedelta(days=CA_DAYS))
    builder = (
        builder.issuer_name(_name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(_key_usage(ca=True), True)
    )
    ca = _signed(builder, key)
    write(folder / CA_KEY, _key_pem(key))
    write(folder / CA, _pem(ca))
    return ca, key


def _read_authority(folder: Path) -> tuple[Certificate, EllipticCurvePrivateKey]:
    x509 = _library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        ca = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        raw = (folder / CA_KEY).read_bytes()
        key = serialization.load_pem_private_key(raw, password=None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the authority in {folder} cannot be used: {error}; it needs both {CA} "
            f"and {CA_KEY}: add machines where they were made"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder / CA_KEY} is no key that `twinstep certs` makes")
    if key.public_key() != ca.public_key():
        raise ConfigError(f"{folder / CA_KEY} does not belong to {folder / CA}")
    return ca, key


def _library():  # pyright infers the module's own type
    try:
        from cryptography import x509
    except ModuleNotFoundError as error:
        raise ConfigError(
            "making certificates needs the package cryptography: "
            "pip install 'twinstep[tls]'"
        ) from error
    return x509


def _builder(
    name: str, key: EllipticCurvePrivateKey, expires: datetime.datetime
) -> CertificateBuilder:
    x509 = _library()
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - BACKDATED)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )


def _signed(builder: CertificateBuilder, key: EllipticCurvePrivateKey) -> Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _name(name: str):
    x509 = _library()
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> GeneralName:
    x509 = _library()
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, ca: bool):
    return _library().KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
