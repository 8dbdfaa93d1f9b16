"""Decides what a machine tells of its ranks' processes: how they ended, their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from twinstep.agent import actions as do, messages as say
from twinstep.agent.worker import Actions, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookout:
    """The part of a worker's decisions that watches processes."""

    worker: Worker

    def rank_ended(
        self, round: int, rank: int, status: int, tail: list[str]
    ) -> Actions:
        """A rank's process is gone: `status` is its exit status or minus a signal."""
        if round != self.worker.round or self.worker.stopped:
            return []
        message = say.RankEnded(
            machine=self.worker.machine,
            round=self.worker.round,
            term=self.worker.term,
            rank=rank,
            status=status,
            step=self.worker.vote.steps.get(rank, 0),
            tail=tail,
        )
        self.worker.latest[f"ended {rank}"] = message
        return [do.TellRoot(message=message)]

    def condition(self, failing: str, warnings: list[str]) -> Actions:
        """The machine's probes have something new to tell: of it, and not of a round,
        so a later root is told as well."""
        worker = self.worker
        worker.condition = say.Condition(
            machine=worker.machine,
            round=worker.round,
            term=worker.term,
            failing=failing,
            warnings=warnings,
        )
        words = [f"failing: {failing}"] if failing else []
        words += [f"warning: {text}" for text in warnings]
        text = "; ".join(words) or "its probes find nothing amiss any more"
        return [do.Log(text=text), do.TellRoot(message=worker.condition)]

    def looked(self, round: int, sights: Mapping[int, say.Sight]) -> Actions:
        """The ranks were looked at; their steps are added here."""
        if round != self.worker.round or self.worker.stopped:
            return []
        steps = self.worker.vote.steps
        message = say.Looked(
            machine=self.worker.machine,
            round=round,
            term=self.worker.term,
            ranks={
                rank: msgspec.structs.replace(sight, step=steps.get(rank, 0))
                for rank, sight in sights.items()
            },
        )
        return [do.TellRoot(message=message)]
