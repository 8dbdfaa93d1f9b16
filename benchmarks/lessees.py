"""Many machines' seats in one process: real leases, real renewals, no training.

    python -m benchmarks.lessees STORE TOKEN_FILE NAME COUNT

Each seat has connections of its own to the store, as each agent has. At the end of
its input it prints one JSON object: renewals, the longest times between two that were
answered, and what its seats said.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from twinstep.agent.kv import KeyValueStore, Lease
from twinstep.agent.seat import Seat
from twinstep.agent.stores import open_store
from twinstep.clock import monotonic_s
from twinstep.config import Timing, Trust
from twinstep.errors import TwinstepError
from twinstep.trust.credentials import load

LONGEST = 10


class Tally:
    """What all seats of a process saw."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.renewals = 0
        self.failed = 0
        self.gaps_s: list[float] = []
        """The longest times without an answered renewal."""
        self.notes: list[str] = []

    def gap(self, gap_s: float) -> None:
        with self.lock:
            self.renewals += 1
            if len(self.gaps_s) < LONGEST or gap_s > self.gaps_s[0]:
                self.gaps_s = sorted([*self.gaps_s, gap_s])[-LONGEST:]


class TimedLease:
    """A lease whose renewals are told to a tally."""

    def __init__(self, lease: Lease, tally: Tally) -> None:
        self._lease, self._tally = lease, tally
        self.id, self.ttl_s = lease.id, lease.ttl_s
        self._renewed_s = monotonic_s()

    def renew(self) -> bool:
        try:
            lives = self._lease.renew()
        except TwinstepError:
            self._tally.failed += 1
            raise
        now_s = monotonic_s()
        self._tally.gap(now_s - self._renewed_s)
        self._renewed_s = now_s
        return lives

    def revoke(self) -> None:
        self._lease.revoke()


class TimedStore:
    """A key-value store whose leases are timed."""

    def __init__(self, store: KeyValueStore, tally: Tally) -> None:
        self._store, self._tally = store, tally
        self.get, self.transact = store.get, store.transact
        self.watch, self.close = store.watch, store.close

    def grant(self, ttl_s: float) -> TimedLease:
        return TimedLease(self._store.grant(ttl_s), self._tally)


def sit(store: KeyValueStore, name: str, tally: Tally) -> None:
    """A machine has its seat, and takes it again when it is lost."""

    def note(text: str) -> None:
        tally.notes.append(f"{name}: {text}")

    seat = Seat(
        TimedStore(store, tally),
        machine=name,
        timing=Timing(),
        post=lambda work: work(),
        on_root=lambda _root, _term: None,
        on_machine=lambda _name, _here: None,
        on_lost=note,
        log=note,
    )
    seat.take(b"{}")


def main() -> None:
    address, token_file, name, count = sys.argv[1:]
    credentials = load(Trust(token_file=token_file))
    tally = Tally()

    for number in range(int(count)):
        sit(open_store(address, credentials=credentials), f"{name}-{number}", tally)
    sys.stdin.read()
    record = {
        "renewals": tally.renewals,
        "failed": tally.failed,
        "gaps_s": [round(gap_s, 3) for gap_s in tally.gaps_s],
        "notes": tally.notes,
    }
    print(json.dumps(record), flush=True)
    os._exit(0)  # leases are not given back, and threads not waited for


if __name__ == "__main__":
    main()
