"""The damage that a cluster with more parts meets on top of the usual: to its storage,
and to whoever could give it machines. Each has chance of its own, so that the usual
damage of a seed is the same with and without.
"""

from __future__ import annotations

from random import Random

from twinstep.sim.faults import Fault
from twinstep.sim.storage_faults import FEWER_FAULTS, STORAGE_FAULTS


def with_fewer_faults(faults: list[Fault], seed: int) -> list[Fault]:
    """Returns the faults of a seed whose job goes on with fewer machines, and some
    that make it do so."""
    random, more = Random(f"fewer faults {seed}"), list(faults)
    for number in range(random.randint(1, 2)):
        kind = random.choice(sorted(FEWER_FAULTS))
        fault = Fault(
            kind=kind,
            after_s=random.random() * random.choice((0.1, 4.0, 10.0)),
            steps=random.choice((0, 2, 4)),
            seed=f"{seed} fewer {number} {kind}",
        )
        more.insert(random.randint(0, len(more)), fault)
    return more


def with_storage_faults(faults: list[Fault], seed: int) -> list[Fault]:
    """Returns the faults of a seed whose cluster has a storage, and some of that."""
    random, more = Random(f"storage faults {seed}"), list(faults)
    for number in range(random.randint(0, 3)):
        kind = random.choice(sorted(STORAGE_FAULTS))
        fault = Fault(
            kind=kind,
            after_s=random.random() * random.choice((0.1, 4.0)),
            steps=random.choice((0, 0, 2)),
            seed=f"{seed} storage {number} {kind}",
        )
        more.insert(random.randint(0, len(more)), fault)
    return more
