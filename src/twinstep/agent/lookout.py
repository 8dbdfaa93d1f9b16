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
