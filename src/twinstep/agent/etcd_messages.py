"""What etcd's JSON gateway says and is told, of which only this much is used.

Numbers of 64 bits travel as strings and bytes as base64; fields that are zero are not
there. Errors have one form for calls, another for streams, and both differ between
etcd's releases; `refusal` reads them all.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import msgspec

from twinstep.agent.kv import Compacted, LeaseGone
from twinstep.errors import DeadlinePassed, ProtocolError, Refused, TwinstepError

RANGE = "/v3/kv/range"
TXN = "/v3/kv/txn"
GRANT = "/v3/lease/grant"
KEEP_ALIVE = "/v3/lease/keepalive"
REVOKE = "/v3/lease/revoke"
WATCH = "/v3/watch"
AUTHENTICATE = "/v3/auth/authenticate"

Json: TypeAlias = dict[str, Any]
encode = msgspec.json.Encoder().encode


class Header(msgspec.Struct):
    revision: int = 0


class KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class Ranged(msgspec.Struct):
    header: Header
    kvs: list[KeyValue] = []


class Transacted(msgspec.Struct):
    header: Header
    succeeded: bool = False


class Granted(msgspec.Struct):
    id: int = msgspec.field(name="ID")
    ttl: int = msgspec.field(name="TTL")


class Kept(msgspec.Struct):
    """`ttl` is 0 when there is no such lease."""

    ttl: int = msgspec.field(name="TTL", default=0)


class KeptLine(msgspec.Struct):
    result: Kept


class Authenticated(msgspec.Struct):
    token: str


class Change(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"


class Watched(msgspec.Struct):
    header: Header
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[Change] = []


class WatchedLine(msgspec.Struct):
    result: Watched


class Problem(msgspec.Struct):
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class ProblemLine(msgspec.Struct):
    """As an etcd says it: the fields themselves, or in `error`, or both."""

    error: Problem | str = ""
    message: str = ""
    code: int = 0


class Away(DeadlinePassed):
    """This endpoint cannot answer now; another may. `done` says whether the request
    may have been done all the same."""

    def __init__(self, reason: str, *, done: bool) -> None:
        super().__init__(reason)
        self.done = done


class TokenRefused(Refused):
    """The token has expired, or its member was started anew: authenticate again."""


_T = TypeVar("_T")
_INVALID_ARGUMENT, _NOT_FOUND, _EXHAUSTED, _OUT_OF_RANGE = 3, 5, 8, 11
_UNAVAILABLE, _UNAUTHENTICATED = 14, 16
_AWAY = {1, 4, 13, _UNAVAILABLE}
"""Cancelled, deadline exceeded, internal: the member stops, or waits for a leader."""
_SURELY_NOT_DONE = ("no leader", "too many requests", "raft proposal dropped")


def decode(body: bytes, kind: type[_T]) -> _T:
    """Raises: ProtocolError."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"etcd sent no {kind.__name__}: {error}") from error


def failed(status: int, body: bytes) -> bool:
    """Whether an answer, or a line of a stream, tells of an error."""
    return status != 200 or body.startswith(b'{"error"')


def refusal(status: int, body: bytes) -> TwinstepError:
    """Returns what an answer that is none means."""
    try:
        line = msgspec.json.decode(body, type=ProblemLine, strict=False)
    except msgspec.MsgspecError:
        text = body[:200].decode(errors="replace")
        return Away(f"HTTP status {status}: {text}", done=True)
    inner = line.error if isinstance(line.error, Problem) else Problem()
    message = inner.message or line.message or str(line.error)
    code = inner.grpc_code or inner.code or line.code
    if any(words in message for words in _SURELY_NOT_DONE):
        return Away(message, done=False)
    if code == _UNAUTHENTICATED or "revision in header is old" in message:
        return TokenRefused(message)
    if code in _AWAY:
        return Away(message, done=True)
    if code == _NOT_FOUND and "lease" in message:
        return LeaseGone(f"{message}: it lapsed or was revoked; grant a new one")
    if code == _OUT_OF_RANGE and "compacted" in message:
        return Compacted(message)
    if code == _EXHAUSTED and "space" in message:
        return Refused(f"{message}; compact and defragment etcd, or raise its quota")
    if code == _INVALID_ARGUMENT and "authentication failed" in message:
        return Refused(f"{message}: see user and password_file of its address")
    return Refused(message or f"HTTP status {status}")
