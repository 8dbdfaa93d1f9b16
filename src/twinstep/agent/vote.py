"""One machine's side of the vote: where its ranks stand and what they write.

Design: two slots, one vote. A machine reports a step when all its ranks stand at it;
a rank that still writes an earlier step takes no part in the next capture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import messages as say
from twinstep.agent.copies import Copies
from twinstep.store.slots import SlotTable
from twinstep.values import DIGEST_BYTES, Grid, chunk_count


@dataclass(slots=True, kw_only=True)
class Vote:
    """Where the ranks of one machine stand in the present round.

    Invariant: reported <= the step of every rank; keep never falls in a round."""

    keep: int = 0
    reached_max: int = 0
    """How far any rank has come in this round: what an earlier one lost is counted."""
    reported: int = 0
    reported_in_flight: bool = False
    """What was said of `reported`; worth saying again once it is no longer so."""
    storing: int = 0
    """The step that was last told to be written to storage in this round."""
    steps: dict[int, int] = field(default_factory=dict[int, int])
    layouts: dict[int, say.Layout] = field(default_factory=dict[int, say.Layout])
    writing: dict[int, tuple[int, list[tuple[int, int]]]] = field(
        default_factory=dict[int, tuple[int, list[tuple[int, int]]]]
    )
    """Per rank the step it was told to capture, and into which (shard, slot)."""

    def start(self, begin: say.Begin, *, ranks: range) -> None:
        self.keep = self.reached_max = begin.step
        self.reported, self.reported_in_flight = begin.step, False
        self.storing = 0
        self.steps = dict.fromkeys(ranks, begin.step)
        self.layouts.clear()
        self.writing.clear()

    def reached(self, rank: int, step: int) -> None:
        if rank in self.steps:
            self.steps[rank] = max(self.steps[rank], step)
            self.reached_max = max(self.reached_max, step)

    def to_report(self, *, in_flight: bool) -> int | None:
        """The step that all ranks reached, if it was not reported yet, or was while
        something was in flight and nothing is now."""
        step = min(self.steps.values())
        if step <= self.reported and (in_flight or not self.reported_in_flight):
            return None
        if step < self.reported or step == 0:
            return None
        self.reported, self.reported_in_flight = step, in_flight
        return step

    def finished(self, rank: int, step: int) -> list[tuple[int, int]]:
        """The rank is done with writing `step`; returns the slots it wrote."""
        told, places = self.writing.get(rank, (0, []))
        if told != step:
            return []
        del self.writing[rank]
        return places

    def wrote(
        self,
        message: say.Captured,
        shard: int,
        slot: int,
        table: SlotTable,
        chunk_bytes: int,
    ) -> None:
        """The slot is written afterwards; whole, if its rank told the digests of all
        that the slot holds: of less, after the state shrank, they are not enough."""
        table.written(shard, slot)
        layout, size = self.layouts.get(message.rank), table.sizes[shard]
        digests = message.digests.get(shard, b"")
        due = chunk_count(size, chunk_bytes) * DIGEST_BYTES
        if layout is None or len(digests) != due:
            return
        laid = layout.own_bytes if shard == message.rank else layout.shared_bytes
        if laid == size:
            table.whole(shard, slot, digests=digests)

    def order(self, rank: int, answer: say.Answer, copies: Copies) -> say.Capture:
        """Gives a rank the slots that do not hold what is kept, if it is to capture
        and all of them are free.

        From now on they are its own, though the step may lie ahead: what they held is
        safe nowhere, or was everywhere before `keep` was."""
        table = copies.table
        passed = answer.at < self.steps.get(rank, 0)
        shards = copies.written_by(rank) if answer.capture and not passed else []
        targets = {shard: table.target(shard, keep=self.keep) for shard in shards}
        places = [(s, slot) for s, slot in targets.items() if slot is not None]
        capture = bool(shards) and len(places) == len(shards)
        if capture:
            for shard, slot in places:
                table.start(
                    shard,
                    slot,
                    step=answer.at,
                    captured_in=answer.round,
                    writer=f"rank {rank}",
                )
            self.writing[rank] = (answer.at, places)
        return say.Capture(
            round=answer.round,
            step=answer.at,
            capture=capture,
            keep=self.keep,
            own_slot=places[0][1] if capture else 0,
            shared_slot=places[-1][1] if capture else 0,
            again=answer.again,
        )

    def sizes(self, grid: Grid) -> dict[int, int]:
        """Bytes of each shard that the machine's ranks capture."""
        sizes = {rank: layout.own_bytes for rank, layout in self.layouts.items()}
        for rank, layout in self.layouts.items():
            if layout.shared_bytes:
                shard = grid.shared_shard(rank % grid.ranks_per_machine)
                sizes[shard] = layout.shared_bytes
        return sizes

    def shared_digests(self) -> list[bytes]:
        """What each rank that shares state says of it."""
        layouts = self.layouts.values()
        return [one.shared_digest for one in layouts if one.shared_bytes]
