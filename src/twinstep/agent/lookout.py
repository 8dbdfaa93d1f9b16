"""Decides what a machine tells of its ranks' processes: how they ended, their state."""

from __future__ import annotations

from dataclasses import dataclass

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

    def probed(self, round: int, states: dict[int, str]) -> Actions:
        if round != self.worker.round or self.worker.stopped:
            return []
        message = say.Probed(
            machine=self.worker.machine,
            round=round,
            term=self.worker.term,
            states=states,
            steps={rank: self.worker.vote.steps.get(rank, 0) for rank in states},
        )
        return [do.TellRoot(message=message)]
