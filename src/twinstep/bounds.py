"""What a number or a name that travels may be, whoever sends it.

Messages are declared with these types, and the decoder refuses what is outside: a
negative step, a port of 100,000, a name with a line break that would forge a line of
the log. So a decision meets no number that it could not add one to, and none that the
encoder could not send on. What is possible here may still be impossible for a job
(shard 7 of 4): who knows the job says so (agent/border.py).

The bounds are far beyond what a job comes to, and far below where arithmetic ends:
msgpack has integers up to 2**64 - 1.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

from twinstep.values import DIGEST_BYTES

COUNT_MAX = 1 << 53
"""Steps, rounds, terms: also what every JSON reader still counts exactly."""
SHARDS_MAX = 1 << 24
BYTES_MAX = 1 << 46
"""Of one shard: 64 TiB."""
NAME_CHARS_MAX = 256
"""A host's name in the DNS has 253."""
SECONDS_MAX = 1e12

Count: TypeAlias = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
"""A step, a round or a term."""
Shard: TypeAlias = Annotated[int, Meta(ge=0, le=SHARDS_MAX)]
"""A shard or a rank."""
Place: TypeAlias = Annotated[int, Meta(ge=-1, le=SHARDS_MAX)]
"""A machine rank; -1 for none."""
Bytes: TypeAlias = Annotated[int, Meta(ge=0, le=BYTES_MAX)]
"""How many bytes something has."""
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Process: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 31)]
Status: TypeAlias = Annotated[int, Meta(gt=-(1 << 31), lt=1 << 31)]
"""An exit status, or minus the signal."""
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
Digest: TypeAlias = Annotated[bytes, Meta(max_length=DIGEST_BYTES)]
ONE_LINE = r"\A[^\x00-\x1f\x7f]*\Z"
Name: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=ONE_LINE)
]
"""A machine: one line, without control characters."""
Host: TypeAlias = Annotated[str, Meta(max_length=NAME_CHARS_MAX, pattern=ONE_LINE)]
"""Where a machine is; empty where there is no network (the simulator)."""
