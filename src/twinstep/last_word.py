"""Says to the agent why a script cannot work, so that nobody tries it again.

A UsageError that nobody catches (state that cannot be captured, a second Session, a
step out of order) is the script's own: the next round would end as this one did. It
travels rank -> agent -> root, the job ends with status 2, and the launcher shows the
one message, where a traceback from each rank in each round would bury it.

Left out: errors that the script catches, and those that are not twinstep's.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

from twinstep.agent import messages as say
from twinstep.agent.tether import Tether
from twinstep.environment import RankPlace
from twinstep.errors import TwinstepError, UsageError

WAIT_S_MAX = 5.0
"""The agent ends this process within this time, or the traceback is shown after all."""
REASON_CHARACTERS_MAX = 4000
OURS = Path(__file__).parent
_prepared: list[RankPlace] = []


def prepare(place: RankPlace) -> None:
    """A usage error that nobody catches is said to the agent from now on."""
    _prepared.append(place)
    if len(_prepared) > 1:
        return
    former = sys.excepthook

    def last(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UsageError):
            _say(_prepared[-1], describe(error, trace))
        former(kind, error, trace)

    sys.excepthook = last


def describe(error: UsageError, trace: TracebackType | None) -> str:
    """Returns the error with the line of the script that it came from."""
    where = ""
    for frame in traceback.extract_tb(trace):
        if not Path(frame.filename).is_relative_to(OURS):
            where = f"{frame.filename}:{frame.lineno}: "
    return f"{where}{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]


def _say(place: RankPlace, reason: str) -> None:
    """The agent knows; it normally ends this process before this returns."""
    try:
        tether = Tether(place.agent, connect_s_max=WAIT_S_MAX)
        try:
            tether.send(say.Hopeless(rank=place.rank, round=place.round, reason=reason))
            tether.receive(WAIT_S_MAX)
        finally:
            tether.close()
    except (OSError, TwinstepError):
        pass  # nobody to tell: the traceback says it
