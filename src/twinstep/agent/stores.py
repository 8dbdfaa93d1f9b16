"""Chooses the key-value store by its address.

HOST:PORT is the embedded store of a launcher, etcd:// and etcds:// (with TLS) are
etcd. What etcd needs is imported only for it: it is an extra.
"""

from __future__ import annotations

from twinstep.agent import kv_client
from twinstep.agent.kv import KeyValueStore
from twinstep.errors import ConfigError
from twinstep.trust.credentials import NONE, Credentials


def open_store(
    address: str, *, call_s_max: float = 2.0, credentials: Credentials = NONE
) -> KeyValueStore:
    """Returns the store at `address`; each call to it ends within `call_s_max`.

    Nothing is sent before the first call. Raises: ConfigError."""
    if not address.startswith(("etcd://", "etcds://")):
        return kv_client.connect(
            address, call_s_max=call_s_max, credentials=credentials
        )
    try:
        from twinstep.agent import etcd
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{address} needs the package {error.name}: pip install 'twinstep[etcd]'"
        ) from error
    return etcd.connect(address, call_s_max=call_s_max)
