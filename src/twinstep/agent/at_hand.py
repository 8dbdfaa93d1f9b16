"""What a machine has at hand of a copy that another one offers.

Two kinds of copies may have chunks in common with the one that comes (transfer/reuse):

    the shard's other slot    a step before: what training does not change
    the own rank's capture    of the same step, by the rank of the same local number:
                              hybrid sharding, where each pod has the whole state

The second is being written about when the first chunk comes, as all ranks capture at
the same time. Where the last capture had anything in common with what came, it is
worth waiting for, a moment; where it had nothing, as in plain sharding, never.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from twinstep.agent.copies import Copies
from twinstep.agent.worker import Actions
from twinstep.config import Transfer
from twinstep.store.memory import Slot
from twinstep.store.slots import State
from twinstep.transfer.channel import Channel
from twinstep.transfer.exchange import accept_copy
from twinstep.transfer.frame import Offer
from twinstep.transfer.reuse import Source

LOOK_S = 0.005
"""Between two looks at a capture that is being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtHand:
    """Slots with whole copies, and their digests. `own` are of the own rank; `soon`
    says that one of these is being written."""

    former: dict[tuple[int, int], bytes]
    own: dict[tuple[int, int], bytes]
    soon: bool

    @property
    def any(self) -> bool:
        return bool(self.former or self.own or self.soon)


NOTHING = AtHand(former={}, own={}, soon=False)


def look(copies: Copies, *, shard: int, step: int, captured_in: int) -> AtHand:
    """Returns what may have chunks of a copy of `shard` that comes."""
    table, grid = copies.table, copies.grid
    former = {
        (shard, index): entry.digests
        for index, entry in enumerate(table.slots.get(shard, ()))
        if entry.state is State.WHOLE
    }
    rank = grid.ranks(copies.machine_rank)[shard % grid.ranks_per_machine]
    own: dict[tuple[int, int], bytes] = {}
    soon = False
    for index, entry in enumerate(table.slots.get(rank, ())):
        if (entry.step, entry.captured_in) != (step, captured_in):
            continue
        if entry.state is State.WHOLE:
            own[rank, index] = entry.digests
        soon = soon or entry.state in (State.FILLING, State.WRITTEN)
    return AtHand(former=former, own=own, soon=soon and not own)


@final
class Taker:
    """Takes in the copies that others offer, and what is at hand of them from here, in
    the threads that they come by.

    `ask` runs a decision in the agent's loop, and returns when it has run."""

    def __init__(
        self,
        copies: Copies,
        memory: Mapping[tuple[int, int], Slot],
        ask: Callable[[Callable[[], Actions]], None],
        limits: Transfer,
        *,
        deadline_s: float,
    ) -> None:
        """`deadline_s` is the sender's patience, of which at most half is waited."""
        self._copies, self._memory, self._ask = copies, memory, ask
        self._limits = limits
        self._wait_s_max = min(limits.twin_ms_max / 1000, deadline_s / 2)
        self._alike: dict[int, bool] = {}
        """Whether the own rank's last capture had a chunk of the shard's."""

    def take(
        self, channel: Channel, offer: Offer, slot: int, over: Callable[[], bool]
    ) -> bytes:
        """Returns the digests of the part that is in the slot now. Raises: what
        accept_copy does."""
        at_hand = self._look(offer) if offer.told else NOTHING
        own: list[Source] = []

        def sources() -> list[Source]:
            found = self._awaited(at_hand, offer, over)
            own.extend(self._opened(found.own))
            if found.soon:  # waited for in vain
                self._alike.setdefault(offer.shard, False)
            return [*own, *self._opened(found.former)]

        digests = accept_copy(
            channel,
            offer,
            view=self._memory[offer.shard, slot].view[: offer.size],
            chunk_bytes_max=self._limits.chunk_bytes,
            waits_max=self._limits.waits_max,
            cancelled=over,
            sources=sources if at_hand.any else None,
        )
        if own:
            self._alike[offer.shard] = any(source.taken for source in own)
        return digests

    def _awaited(self, found: AtHand, offer: Offer, over: Callable[[], bool]) -> AtHand:
        until_s = time.monotonic() + self._wait_s_max
        while found.soon and self._alike.get(offer.shard, True):
            if over() or time.monotonic() > until_s:
                break
            time.sleep(LOOK_S)
            found = self._look(offer)
        return found

    def _look(self, offer: Offer) -> AtHand:
        found: list[AtHand] = []

        def decide() -> Actions:
            at_hand = look(
                self._copies,
                shard=offer.shard,
                step=offer.step,
                captured_in=offer.captured_in,
            )
            found.append(at_hand)
            return []

        self._ask(decide)
        return found[0]

    def _opened(self, places: Mapping[tuple[int, int], bytes]) -> list[Source]:
        return [
            Source(view=self._memory[place].view, digests=digests)
            for place, digests in places.items()
            if place in self._memory
        ]
