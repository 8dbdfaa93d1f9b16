"""Runs the cluster of a seed, and shrinks a failing one to the faults it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from twinstep.sim.check import Violation
from twinstep.sim.faults import Fault, plan
from twinstep.sim.further_faults import with_fewer_faults, with_storage_faults
from twinstep.sim.world import World, draw, with_fewer, with_storage, with_traffic

HEAL_S = 1.0
"""After the last fault, before everything is healed."""
WRONG = (
    AssertionError,
    ArithmeticError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
"""What a decision raises only where it is wrong."""
OPTIONS = {"machines": "machines", "ranks": "ranks-per-machine", "copies": "copies"}
"""Per setting that may be fixed the option that does so."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What became of a seed."""

    seed: int
    faults: list[Fault]
    kinds: tuple[str, ...] = ()
    """The kinds that the seed's faults were drawn from, if not all."""
    fixed: dict[str, int] = field(default_factory=dict[str, int])
    invariant: str = ""
    """The invariant that did not hold; empty when all did."""
    what: str = ""
    trace: list[str] = field(default_factory=list[str])
    probes: Counter[str] = field(default_factory=Counter[str])
    events: int = 0
    simulated_s: float = 0.0

    @property
    def again(self) -> str:
        """The command that runs it once more, with all its faults."""
        words = [f"twinstep simulate --first {self.seed} --seeds 1 --trace"]
        words += [f"--{OPTIONS[name]} {value}" for name, value in self.fixed.items()]
        words += [f"--faults {','.join(self.kinds)}"] if self.kinds else []
        return " ".join(words)


def run(
    seed: int,
    *,
    faults: Sequence[Fault] | None = None,
    kinds: Sequence[str] | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Run:
    """Runs a seed to its end.

    Args:
      faults: instead of the seed's own.
      kinds: the kinds that the seed's own are drawn from.
      fixed: settings that are not drawn: machines, ranks, standbys, copies."""
    chance = Random(f"twinstep {seed}")
    settings = with_traffic(draw(chance, **(fixed or {})), Random(f"traffic {seed}"))
    settings = with_storage(settings, Random(f"storage {seed}"))
    settings = with_fewer(settings, Random(f"fewer {seed}"))
    if faults is None:
        struck = plan(chance, seed, kinds)
        if not kinds and settings.storage_s:
            struck = with_storage_faults(struck, seed)
        if not kinds and settings.min_machines:
            struck = with_fewer_faults(struck, seed)
    else:
        struck = list(faults)
    world = World(settings=settings, random=Random(f"world {seed}"))
    found = Run(
        seed=seed, faults=struck, kinds=tuple(kinds or ()), fixed=dict(fixed or {})
    )
    try:
        for fault in struck:
            world.run_until(world.events.now_s + fault.after_s)
            world.run_steps(fault.steps)
            fault.strike(world)
        world.run_until(world.events.now_s + HEAL_S)
        world.heal()
        world.log("----", "healed")
        world.run_to_health()
    except Violation as error:
        found.invariant, found.what = error.invariant, str(error)
    except WRONG as error:
        found.invariant, found.what = "assertion", f"{type(error).__name__}: {error}"
    found.trace = list(world.lines)
    found.probes, found.events = world.events.probes, world.events.count
    found.simulated_s = world.events.now_s
    return found


def shrink(failed: Run) -> Run:
    """Returns the run with the fewest faults that still breaks the same invariant:
    each is left out, as long as that is so."""
    best = failed
    changed = True
    while changed:
        changed = False
        for left_out in range(len(best.faults)):
            fewer = [f for n, f in enumerate(best.faults) if n != left_out]
            again = run(best.seed, faults=fewer, kinds=failed.kinds, fixed=failed.fixed)
            if again.invariant == best.invariant:
                best, changed = again, True
                break
    return best
