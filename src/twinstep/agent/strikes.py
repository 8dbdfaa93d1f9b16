"""Tells a machine on which ranks die from a script that dies on any machine.

A rank that ends by itself is a strike against its machine, if it was the first of the
round: the others end in their collectives for want of it. A machine with `strikes_max`
of them within `strikes_s` is to be replaced, unless the same end was seen on another
machine meanwhile: then it is the script, or its data, and another machine would not
help (health.CrashGuard ends such a job). What somebody does to a process from outside
(SIGKILL, SIGTERM) says nothing about its machine.

Leaves out: whether another machine is to be had (relief.py).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from twinstep.agent.record import Strike

STRIKES_KEPT = 256
"""So many are remembered; of a job that fails so often in a window, older ones tell
nothing more."""
SIGN_MAX = 160
FROM_OUTSIDE = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGSTOP,
}
_ERROR = re.compile(
    r"^(?:\[rank\d+\]: ?)?[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b"
)
_PEER = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused"
    r"|connectFullMesh|remote process exited|ncclRemoteError|Timed out waiting"
    r"|Socket Timeout|store->get|recvBytes|sendBytes"
)
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")


def sign(status: int, tail: Sequence[str]) -> str:
    """How a rank ended, in words that are equal for equal causes: numbers, which
    differ between ranks, are left out. Empty if somebody else ended it."""
    if status < 0:
        return "" if -status in FROM_OUTSIDE else f"signal {-status}"
    lines = [line.strip() for line in tail if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    last = (errors or lines)[-1] if lines else ""
    if _PEER.search(last):
        return ""
    return _NUMBER.sub("#", last)[:SIGN_MAX] or f"status {status}"


@dataclass(slots=True, kw_only=True)
class Strikes:
    """Who failed first, of late.

    Invariant: in the order of time, none older than `strikes_s` at the last one."""

    strikes_max: int
    strikes_s: float
    known: list[Strike] = field(default_factory=list[Strike])

    def failed(
        self, machine: str, *, status: int, tail: Sequence[str], now_s: float
    ) -> str:
        """A rank of `machine` was the first of its round to end by itself. Returns why
        the machine is to be replaced, or nothing."""
        how = sign(status, tail)
        if not how:
            return ""
        self.known.append(Strike(machine=machine, at_s=now_s, sign=how))
        since_s = now_s - self.strikes_s
        self.known = [one for one in self.known if one.at_s >= since_s][-STRIKES_KEPT:]
        mine = [one for one in self.known if one.machine == machine]
        others = [one for one in self.known if one.machine != machine]
        alike = any(one.sign == how for one in others)
        if len(mine) < self.strikes_max or alike or 2 * len(others) > len(mine):
            return ""
        return (
            f"its ranks ended by themselves {len(mine)} times within "
            f"{now_s - mine[0].at_s:.0f} s, and no others so (last: {how})"
        )

    def excuse(self, *, since_s: float) -> None:
        """A machine was lost: what ended since then, ended for want of it."""
        self.known = [one for one in self.known if one.at_s < since_s]
