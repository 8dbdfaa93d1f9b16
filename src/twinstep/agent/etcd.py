"""Reaches etcd v3 as a key-value store of five calls.

Over etcd's JSON gateway, which every etcd serves on its client port: HTTP/1.1 in, and
what etcd itself calls gRPC inside. Where keys, transactions, leases and watches of
kv.py are etcd's own, this file only spells them; what is not the same is time. A lease
of etcd lives whole seconds, no fewer than one and a half election timeouts, and its end
is looked for twice a second. `grant(ttl_s)` asks for the whole seconds in `ttl_s`: with
1.5 s asked for, the keys are gone 1.0 to 1.5 s after the last renewal (and some
milliseconds), if etcd's election timeout is at most 0.66 s. With etcd's own default of
1 s they are gone after 2.0 to 2.5 s, and `grant` warns of it.

Left out: etcd's API for anything else. Compaction is etcd's operator's (set
--auto-compaction-retention): a library that compacts an etcd it shares ends the
watches of others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from twinstep.agent.etcd_gateway import Bounds, Gateway
from twinstep.agent.etcd_http import Address, parse
from twinstep.agent.etcd_messages import (
    GRANT,
    KEEP_ALIVE,
    RANGE,
    REVOKE,
    TXN,
    Granted,
    Json,
    KeptLine,
    Ranged,
    Transacted,
    decode,
)
from twinstep.agent.etcd_watch import EtcdWatch
from twinstep.agent.kv import Compare, Delete, Item, LeaseGone, Operation, Put
from twinstep.agent.kv_ledger import Limits
from twinstep.errors import Refused
from twinstep.trust.credentials import NONE, Credentials

LAPSE_S = 0.5
"""How late etcd looks for leases that are over."""
_TARGETS = {
    "created": ("CREATE", "create_revision"),
    "changed": ("MOD", "mod_revision"),
    "value": ("VALUE", "value"),
}
_log = logging.getLogger(__name__)


@final
class Etcd:
    """The key-value store in an etcd cluster; safe to use from any thread."""

    def __init__(
        self, address: Address, *, call_s_max: float, bounds: Bounds, limits: Limits
    ) -> None:
        self._gateway = Gateway(address, call_s_max=call_s_max, bounds=bounds)
        self._limits = limits
        self._prefix = address.prefix.encode()
        self._lock = threading.Lock()
        self._watches: set[EtcdWatch] = set()
        self._warned = False

    def get(self, prefix: str) -> tuple[int, Mapping[str, Item]]:
        body = self._gateway.call(RANGE, self._span(prefix), care="hedged")
        ranged = decode(body, Ranged)
        items = {
            pair.key[len(self._prefix) :].decode(): Item(
                value=pair.value,
                created=pair.create_revision,
                changed=pair.mod_revision,
                lease=pair.lease,
            )
            for pair in ranged.kvs
        }
        return ranged.header.revision, items

    def transact(
        self, operations: Sequence[Operation], *, when: Sequence[Compare] = ()
    ) -> tuple[bool, int]:
        request = {
            "compare": [self._compare(compare) for compare in when],
            "success": [self._operation(operation) for operation in operations],
        }
        transacted = decode(self._gateway.call(TXN, request, care="once"), Transacted)
        return transacted.succeeded, transacted.header.revision

    def grant(self, ttl_s: float) -> EtcdLease:
        if not 0 < ttl_s <= self._limits.ttl_s_max:
            raise Refused(
                f"ttl_s is {ttl_s}; it must be above 0 and at most "
                f"{self._limits.ttl_s_max}"
            )
        request = {"TTL": str(max(1, int(ttl_s)))}
        # Granted twice, the first is left to lapse.
        granted = decode(self._gateway.call(GRANT, request, care="repeated"), Granted)
        if granted.ttl + LAPSE_S > ttl_s and not self._warned:
            self._warned = True
            _log.warning(
                "etcd at %s gave leases of %d s, which it ends up to %s s late; asked "
                "for were %s s: a lost machine is noticed after up to %s s; start etcd "
                "with --election-timeout=600 --heartbeat-interval=100, and let "
                "timing.silence_s_max be 1.5 or 2.5",
                *(self._gateway.address, granted.ttl, LAPSE_S, ttl_s),
                granted.ttl + LAPSE_S,
            )
        return EtcdLease(self._gateway, granted.id, ttl_s=granted.ttl)

    def watch(self, prefix: str, *, after: int) -> EtcdWatch:
        """As the interface says; Compacted is raised by the first `next`."""
        span, cut = self._span(prefix), len(self._prefix)
        watch = EtcdWatch(self._gateway, span, after=after, cut=cut)
        with self._lock:
            self._watches = {other for other in self._watches if not other.closed}
            self._watches.add(watch)
        return watch

    def close(self) -> None:
        self._gateway.close()
        with self._lock:
            for watch in self._watches:
                watch.close()

    def _key(self, key: str) -> bytes:
        name = key.encode()
        if not 0 < len(name) <= self._limits.key_bytes_max:
            raise Refused(
                f"key takes {len(name)} bytes; at least 1, at most "
                f"{self._limits.key_bytes_max}"
            )
        return self._prefix + name

    def _span(self, prefix: str) -> Json:
        """All keys under a prefix, as etcd says it: from this one to before that."""
        first = self._prefix + prefix.encode()
        stem = first.rstrip(b"\xff")
        final = stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
        return {"key": first or b"\0", "range_end": final}

    def _compare(self, compare: Compare) -> Json:
        target, name = _TARGETS[compare.what]
        equals: Any = compare.equals
        if isinstance(equals, int):
            equals = str(equals)
        key = self._key(compare.key)
        return {"key": key, "target": target, "result": "EQUAL", name: equals}

    def _operation(self, operation: Operation) -> Json:
        match operation:
            case Delete(key=key):
                return {"request_delete_range": {"key": self._key(key)}}
            case Put(key=key, value=value, lease=lease):
                if len(value) > self._limits.value_bytes_max:
                    raise Refused(
                        f"{key} takes {len(value)} bytes; at most "
                        f"{self._limits.value_bytes_max}"
                    )
                put = {"key": self._key(key), "value": value, "lease": str(lease)}
                return {"request_put": put}


@final
class EtcdLease:
    """A lease in etcd. `ttl_s` is the life that etcd gave it, which may be another
    than was asked for; its keys are gone up to LAPSE_S after that."""

    def __init__(self, gateway: Gateway, lease: int, *, ttl_s: int) -> None:
        self._gateway = gateway
        self.id = lease
        self.ttl_s = ttl_s

    def renew(self) -> bool:
        body = self._gateway.call(KEEP_ALIVE, {"ID": str(self.id)}, care="hedged")
        return decode(body, KeptLine).result.ttl > 0

    def revoke(self) -> None:
        try:
            self._gateway.call(REVOKE, {"ID": str(self.id)}, care="hedged")
        except LeaseGone:
            return


def connect(
    address: str,
    *,
    call_s_max: float = 2.0,
    bounds: Bounds | None = None,
    credentials: Credentials = NONE,
) -> Etcd:
    """Returns the store at etcd://HOST:PORT,HOST:PORT/JOB; the first call connects.

    The job's certificates are shown to etcds:// where its address names none.
    Raises: ConfigError."""
    parsed, ours = parse(address), credentials.certificates
    if ours is not None and parsed.tls and parsed.ca is None and parsed.cert is None:
        parsed = replace(parsed, ca=ours.ca, cert=ours.cert, key=ours.key)
    return Etcd(
        parsed,
        call_s_max=call_s_max,
        bounds=bounds or Bounds(),
        limits=Limits(),
    )
