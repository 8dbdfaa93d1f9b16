"""How large every shard is, and whether state is really the same where it is said so.

Ranks say at their first step how large their state is, and the digest of what they
hold as shared. Different digests mean that it is not the same: then nothing is shared
in this job any more, and the ranks lay out anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from twinstep.agent.messages import Begin, Inventory, Laid, Reserve
from twinstep.agent.record import Plan
from twinstep.values import Grid


@dataclass(slots=True, kw_only=True)
class Layouts:
    """The sizes of a job's shards.

    Invariant: sizes, once known, stay for the whole job."""

    machines: int
    sizes: dict[int, int] = field(default_factory=dict[int, int])
    shared: bool = True
    may_share: bool = True
    laid: dict[str, Laid] = field(default_factory=dict[str, Laid])

    def recall(self, plan: Plan) -> None:
        """What the former root knew."""
        self.sizes, self.shared = dict(plan.sizes), plan.shared
        self.may_share = plan.may_share

    def take(self, laid: Laid) -> bool:
        """Returns whether every machine has said its sizes; they are decided then.

        Without sizes afterwards, what was said to be shared is not."""
        if laid.shared_digests and not self.may_share:
            return False  # said before the machine heard that nothing is shared
        self.laid[laid.machine] = laid
        if len(self.laid) < self.machines:
            return False
        everyone = list(self.laid.values())
        self.laid.clear()
        digests = {digest for one in everyone for digest in one.shared_digests}
        if len(digests) > 1:
            self.may_share = self.shared = False
            self.sizes = {}
            return True
        self.sizes = {shard: n for one in everyone for shard, n in one.sizes.items()}
        self.shared = bool(digests)
        return True

    def reserve(self, begin: Begin) -> Reserve:
        """What members are told of the sizes."""
        return Reserve(
            round=begin.round,
            term=begin.term,
            sizes=dict(self.sizes),
            shared=self.shared,
        )

    def missed(self, begin: Begin) -> list[Reserve]:
        """What a machine may have missed that has heard of Begin and no more."""
        known = (begin.sizes, begin.may_share) == (self.sizes, self.may_share)
        return [] if known else [self.reserve(begin)]

    def learn(self, inventories: Iterable[Inventory], *, grid: Grid) -> None:
        """A new root may hear the sizes from those who have slots. Each of them knows
        those of its own slots, so only together they may know all."""
        known = {s: n for one in inventories for s, n in one.sizes.items()}
        if not self.sizes and all(rank in known for rank in range(grid.world_size)):
            self.sizes = known
            self.shared = any(grid.is_shared(shard) for shard in known)
