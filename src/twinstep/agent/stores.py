"""Chooses the key-value store by its address.

HOST:PORT is the embedded store of a launcher, etcd:// and etcds:// (with TLS) are
etcd. What etcd needs is imported only for it: it is an extra.
"""

from __future__ import annotations

from twinstep.agent import kv_client
from twinstep.agent.kv import KeyValueStore
from twinstep.errors import ConfigError
from twinstep.trust.credentials import NONE, Credentials

ETCD = ("etcd://", "etcds://")
ETCD_PORT = 2379


def open_store(
    address: str, *, call_s_max: float = 2.0, credentials: Credentials = NONE
) -> KeyValueStore:
    """Returns the store at `address`; each call to it ends within `call_s_max`.

    Nothing is sent before the first call. Raises: ConfigError."""
    if not is_shared(address):
        return kv_client.connect(
            address, call_s_max=call_s_max, credentials=credentials
        )
    try:
        from twinstep.agent import etcd
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{address} needs the package {error.name}: pip install 'twinstep[etcd]'"
        ) from error
    return etcd.connect(address, call_s_max=call_s_max, credentials=credentials)


def is_shared(address: str) -> bool:
    """Whether the store may serve several jobs, each under the name it ends with."""
    return address.startswith(ETCD)


def job_of(address: str) -> str:
    """Returns the job that an address of etcd ends with; empty if it names none."""
    rest = address.partition("://")[2].partition("?")[0]
    return rest.partition("/")[2].strip("/").replace("/", "-")


def for_job(address: str, name: str) -> str:
    """Returns the address of etcd with a job's name at its end, if it had none."""
    if not is_shared(address) or job_of(address):
        return address
    place, mark, query = address.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{query}"


def endpoint_of(address: str) -> tuple[str, int]:
    """Returns host and port of the (first) server. Raises: ConfigError."""
    place = address.partition("://")[2] if is_shared(address) else address
    first = place.partition("?")[0].partition("/")[0].partition(",")[0]
    host, mark, port = first.rpartition(":")
    if not mark and is_shared(address):
        host, port = first, str(ETCD_PORT)
    if not host or not port.isdecimal():
        raise ConfigError(
            f"the store's address is {address!r}; use HOST:PORT, or "
            "etcd://HOST:2379,HOST:2379/JOB"
        )
    return host, int(port)
