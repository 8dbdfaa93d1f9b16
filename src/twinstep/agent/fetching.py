"""Fetches a copy from one machine, again while what arrives is damaged on the way.

A link that flips bits below TCP's checksum damages a large copy again and again. One
must then not call the copy bad: it may be the last one. So every attempt but the first
tells the holder to look at its copy, and only what the holder says is final.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twinstep.errors import Corrupt, ProtocolError, Refused
from twinstep.transfer.channel import PeerClosed
from twinstep.transfer.exchange import CopyIsBad, Fetched

ATTEMPTS_MAX = 8
"""Where half of all arrivals are damaged, 1 in 256 is given up."""
RETRY_S = 0.05
"""Between two attempts."""


def fetch_whole(fetch: Callable[[bool], Fetched]) -> Fetched:
    """Returns what `fetch`, told whether to doubt, has brought undamaged.

    Raises: CopyIsBad by the holder's word; Refused when no attempt brought it whole;
    ProtocolError when the holder speaks nonsense; and what else `fetch` raises."""
    failed: Exception | None = None
    for attempt in range(ATTEMPTS_MAX):
        try:
            return fetch(attempt > 0)
        except CopyIsBad:
            raise
        except (Corrupt, ProtocolError) as error:
            failed = error
        time.sleep(RETRY_S)
    assert failed is not None
    if isinstance(failed, Corrupt | PeerClosed):
        raise Refused(f"{failed}; so {ATTEMPTS_MAX} times in a row") from failed
    raise failed
