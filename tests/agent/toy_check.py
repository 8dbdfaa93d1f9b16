"""What must hold in a toy cluster at every instant, whatever is done to it.

The newest state that must come back: the newest `keep` that anybody has acted on or,
before there is one in a round, the step that the round began from. It must be found
again for as long as one good copy of each of its shards is on a machine that nothing
has happened to, and no such copy may be overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.agent.toy_ranks import Content
from twinstep.agent import messages as say
from twinstep.values import Grid


@dataclass
class Kept:
    """A step, and the machines with a good copy of each of its shards."""

    step: int
    captured_in: int
    holders: dict[int, set[str]]


@dataclass
class ToyCheck:
    grid: Grid
    shared: bool
    fit: Any
    """Whether a machine is here and not cut off, by name."""
    holds: Any
    """Whether a machine has these very bytes: by name, shard, step and round."""
    kept: Kept | None = None
    round: tuple[int, int] = (0, 0)
    acted: int = 0
    """The newest keep that anybody has acted on in this round."""
    began: list[int] = field(default_factory=list)
    reached: int = 0
    spoiled: set[tuple[str, int, int]] = field(default_factory=set)
    """(machine, shard, step) of copies that were damaged."""

    def lose(self, machine: str) -> None:
        if self.kept is not None:
            for shard in list(self.kept.holders):
                self._drop(shard, machine)

    def spoil(self, machine: str, shard: int, step: int) -> None:
        self.spoiled.add((machine, shard, step))
        if self.kept is not None and self.kept.step == step:
            self._drop(shard, machine)

    def _drop(self, shard: int, machine: str) -> None:
        if self.kept is not None and shard in self.kept.holders:
            self.kept.holders[shard].discard(machine)
            if not self.kept.holders[shard]:
                self.kept = None  # nobody could bring it back

    def overwrites(self, machine: str, content: Content) -> None:
        """A slot with this content is about to be written."""
        if self.kept is None or not isinstance(content, tuple):
            return
        shard, *version = content[:3]
        same = version == [self.kept.step, self.kept.captured_in]
        good = same and machine in self.kept.holders[shard]
        assert not good, f"{machine} overwrites {content}, which is kept"

    def keep(self, step: int, captured_in: int, holders: dict[int, set[str]]) -> None:
        good = {
            shard: {
                name
                for name in names
                if self.fit(name) and (name, shard, step) not in self.spoiled
            }
            for shard, names in holders.items()
        }
        for shard, names in good.items():
            for name in names:
                found = self.holds(name, shard, step, captured_in)
                assert found, f"{name} has no copy of shard {shard} at {step}"
        self.kept = None
        if all(good.values()):
            self.kept = Kept(step=step, captured_in=captured_in, holders=good)

    def begins(self, begin: say.Begin) -> None:
        """A worker has accepted Begin."""
        if (begin.term, begin.round) <= self.round:
            return
        floor = self.kept.step if self.kept is not None else 0
        assert begin.step >= floor, (
            f"round {begin.round} goes back to {begin.step}, but {floor} was kept and "
            f"has copies on {self.kept.holders if self.kept else {}}"
        )
        self.round, self.acted = (begin.term, begin.round), 0
        self.began.append(begin.step)
        holders = self.holders(begin)
        sources = {s: holders[s] & set(names) for s, names in begin.sources.items()}
        self.kept = None
        if begin.step > 0:
            self.keep(begin.step, begin.captured_in, sources)

    def answers(self, answer: say.Answer, begin: say.Begin) -> None:
        """A worker of the present round acts on an answer."""
        if (answer.term, answer.round) != self.round or answer.keep <= self.acted:
            return
        self.acted = answer.keep
        assert answer.keep <= answer.step, "a step is kept that nobody has reached"
        restored = answer.keep == begin.step
        captured_in = begin.captured_in if restored else begin.round
        self.keep(answer.keep, captured_in, self.holders(begin))

    def holders(self, begin: say.Begin) -> dict[int, set[str]]:
        """Whose copies of each shard stay where they are in this round."""
        names = [member.machine for member in begin.members]
        holders = {
            shard: {names[holder] for holder in begin.holders[owner]}
            for owner in range(self.grid.machines)
            for shard in self.grid.ranks(owner)
        }
        if self.shared:
            for local in range(self.grid.ranks_per_machine):
                holders[self.grid.shared_shard(local)] = set(names)
        return holders
