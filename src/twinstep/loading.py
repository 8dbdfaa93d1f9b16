"""A rank's way back: copies named by its agent become live state, every byte verified.

The head of a copy, from which names and values are read, is verified first. The rest
is verified by a second thread while it is copied into place: the time of one memcpy,
and nothing is used before the verdict. A copy with a wrong checksum is reported, and
the agent gives the next one, from another machine or of another step.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from twinstep.adapters.state import StateAdapter
from twinstep.agent import messages as say
from twinstep.agent.tether import Tether
from twinstep.environment import RankPlace
from twinstep.errors import Corrupt, NoCopyLeft, ProtocolError
from twinstep.pulsing import OwnPulse
from twinstep.store.memory import Slot, adopt
from twinstep.store.places import place_of
from twinstep.store.reading import open_step
from twinstep.telling import tell
from twinstep.transfer.sender import verify_copy

WAIT_S_MAX = 3600.0
"""Copies may come from far, and a machine may have to be found first; the root ends
the round long before when somebody is to blame."""
ATTEMPTS_MAX = 64
AWAY_AGAIN_S = 2.0


def load(
    tether: Tether, adapter: StateAdapter, place: RankPlace, pulse: OwnPulse
) -> int:
    """Returns the step that the live state has now; 0 when there is nothing to load.

    `pulse` has the page that came beside the agent's welcome, if one did.

    Raises: NoCopyLeft when no attempt gave good bytes; StateError when the state does
        not fit the live objects."""
    tether.send(say.Hello(rank=place.rank, round=place.round, pid=0))
    for _ in range(ATTEMPTS_MAX):
        welcome = tether.receive(WAIT_S_MAX)
        if not isinstance(welcome, say.Welcome):
            raise ProtocolError(f"the agent said {type(welcome).__name__}, not Welcome")
        if not welcome.may_share:
            adapter.unshare()
        descriptors = tether.take(len(welcome.slots) + welcome.pulse)
        if welcome.pulse:
            pulse.adopt(descriptors.pop())
        began_s = time.perf_counter()
        if welcome.stored is not None:
            failed = _load_stored(adapter, welcome, place)
            if failed is not None:
                tether.send(failed)
                continue
        if welcome.step == 0:
            return 0
        slots = [adopt(fd) for fd in descriptors]
        try:
            if welcome.stored is None:
                _load(adapter, welcome, slots)
        except _Bad as bad:
            tether.send(
                say.BadCopy(
                    rank=place.rank,
                    round=place.round,
                    shard=bad.info.shard,
                    step=welcome.step,
                    chunk=bad.chunk,
                    source=bad.info.source,
                )
            )
            continue
        finally:
            for slot in slots:
                slot.close()
        tether.send(
            say.Restored(
                rank=place.rank,
                round=place.round,
                step=welcome.step,
                seconds=time.perf_counter() - began_s,
            )
        )
        return welcome.step
    raise NoCopyLeft(f"rank {place.rank}: {ATTEMPTS_MAX} copies in a row were bad")


def _load_stored(
    adapter: StateAdapter, welcome: say.Welcome, place: RankPlace
) -> say.BadStored | None:
    """The live objects have the stored step's state, or, at step 0, that of a
    checkpoint of somebody else's; returns why not, if it was not to be read."""
    assert welcome.stored is not None
    where = welcome.stored
    if welcome.step == 0:
        adapter.start_from(where.path, where.options)
        return None
    until_s, corrupt = time.monotonic() + where.away_s_max, False
    while True:
        try:
            stored = open_step(place_of(where.path, where.options), welcome.step)
            adapter.restore_stored(stored, rank=place.rank, world_size=where.world_size)
            return None
        except (Corrupt, ProtocolError) as error:
            corrupt, reason = True, " ".join(str(error).split())
        except OSError as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        if corrupt or time.monotonic() > until_s:
            return say.BadStored(
                rank=place.rank,
                round=place.round,
                step=welcome.step,
                corrupt=corrupt,
                reason=reason,
            )
        text = f"rank {place.rank}: step {welcome.step} cannot be read yet: {reason}"
        tell(
            f"twinstep: {text}; tries again for {where.away_s_max:g} s in all",
            error=True,
        )
        time.sleep(AWAY_AGAIN_S)


class _Bad(Corrupt):
    def __init__(self, info: say.SlotInfo, chunk: int) -> None:
        super().__init__(f"chunk {chunk} of shard {info.shard} is corrupt")
        self.info, self.chunk = info, chunk


def _load(adapter: StateAdapter, welcome: say.Welcome, slots: list[Slot]) -> None:
    """Verifies and restores at the same time; raises _Bad if any chunk is."""
    infos = welcome.slots
    _verify_head(infos[0], slots[0], welcome.chunk_bytes)
    with ThreadPoolExecutor(1, thread_name_prefix="twinstep-verify") as verifier:
        verdicts = [
            verifier.submit(_verify, info, slot, welcome.chunk_bytes)
            for info, slot in zip(infos, slots, strict=True)
        ]
        failure: Exception | None = None
        try:
            step = adapter.restore(slots[0].view, [slot.view for slot in slots[1:]])
            if step != welcome.step:
                raise ProtocolError(f"a copy of step {step}, not {welcome.step}")
        except Exception as error:
            failure = error
        for verdict in verdicts:
            verdict.result()  # a corrupt copy explains any failure better
        if failure is not None:
            raise failure


def _verify_head(info: say.SlotInfo, slot: Slot, chunk_bytes: int) -> None:
    size = 8 + int.from_bytes(slot.view[:8], "little")
    chunks = min(-(-size // chunk_bytes), len(info.digests) // 16)
    bad = verify_copy(
        slot.view,
        min(info.size, chunks * chunk_bytes),
        chunk_bytes,
        info.digests[: chunks * 16],
    )
    if bad is not None:
        raise _Bad(info, bad)


def _verify(info: say.SlotInfo, slot: Slot, chunk_bytes: int) -> None:
    bad = verify_copy(slot.view, info.size, chunk_bytes, info.digests)
    if bad is not None:
        raise _Bad(info, bad)
