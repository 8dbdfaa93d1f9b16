"""Plans the service of cubes while a job trains, and how many wait in reserve.

All cubes are serviced in turn, `at_once` in each pod, pods in step with each other. The
standby cubes come first, for nothing; then each turn puts serviced ones in the place of
the next, at one stop of training: a planned one, so no step is trained again.

    at_once = 1, s standby, t training cubes of a pod
    turn 1 .. s    standby cubes                          training goes on
    turn s+1 ..    swap, service; swap, service; ...      t stops

How many: of cubes that fail at the rate L each and are repaired in R seconds, as many
are in repair at any instant as a Poisson number N of mean L t R says, however repair
times vary (M/G/infinity; Palm 1943). A cube that fails finds a standby one with the
probability

    P(N < s) = sum over n < s of e^-m m^n / n!,   m = L t R

Cubes in service are not there for it: s less those.

It is a little more than that: a job that has to stop fails less. Left out: a repair
that waits for people, and service that is put off after a failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from twinstep.errors import ConfigError
from twinstep.planner.policies import SEND_SHARE
from twinstep.planner.quantities import DAY_S, in_words_s
from twinstep.planner.topology import Pods


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What servicing all cubes once costs a job."""

    turns: int
    stops: int
    stop_s: float
    """Each."""
    lost_s: float
    """Training, in all."""
    round_s: float
    """Until all cubes are serviced."""
    says: str

    @property
    def lost_share(self) -> float:
        """Of training, where one round follows the other."""
        return self.lost_s / self.round_s if self.round_s else 0.0


def service(
    pods: Pods,
    *,
    service_s: float,
    restart_s: float,
    state_bytes: float,
    at_once: int = 1,
) -> Upkeep:
    """What it costs to service every cube for service_s, one re-wiring and one planned
    restart (restart_s) a stop, the state read from the memory of the cube that left.
    Without standby cubes training stops once, for the service of all."""
    for name, value in (
        ("service_s", service_s),
        ("restart_s", restart_s),
        ("state_bytes", state_bytes),
    ):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} is {value:.6g}; it must be at least 0")
    host_bytes = state_bytes / pods.state_hosts
    load_s = host_bytes / pods.chips_bytes_per_s
    if pods.standby_cubes == 0:
        stop_s = service_s + restart_s + load_s
        return _upkeep(turns=1, stops=1, stop_s=stop_s, round_s=stop_s)
    if not 1 <= at_once <= pods.standby_cubes:
        raise ConfigError(
            f"at_once ({at_once}) must be between 1 and standby_cubes "
            f"({pods.standby_cubes}): a serviced cube's place is taken by a standby one"
        )
    read_s = host_bytes / (SEND_SHARE * pods.host_bytes_per_s) + load_s
    stops = -(-pods.training_cubes // at_once)
    turns = stops + -(-pods.standby_cubes // at_once)
    stop_s = pods.rewire_s + read_s + restart_s
    round_s = turns * service_s + stops * stop_s
    return _upkeep(turns=turns, stops=stops, stop_s=stop_s, round_s=round_s)


def _upkeep(*, turns: int, stops: int, stop_s: float, round_s: float) -> Upkeep:
    lost_s = stops * stop_s
    times = f"{stops} stops" if stops > 1 else "1 stop"
    return Upkeep(
        turns=turns,
        stops=stops,
        stop_s=stop_s,
        lost_s=lost_s,
        round_s=round_s,
        says=f"all cubes serviced in {in_words_s(round_s)}: {times} of "
        f"{in_words_s(stop_s)}, {in_words_s(lost_s)} of training lost "
        f"({lost_s / round_s if round_s else 0:.2%})",
    )


def free_chance(
    pods: Pods, *, cube_per_day: float, repair_s: float, serviced: int = 0
) -> float:
    """The probability that a cube that fails finds a standby one in its pod.
    `cube_per_day`: of each cube, all that takes it out of the torus."""
    for name, value in (("cube_per_day", cube_per_day), ("repair_s", repair_s)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} is {value:.6g}; it must be at least 0")
    if serviced < 0:
        raise ConfigError(f"serviced is {serviced}; it must be at least 0")
    mean = cube_per_day / DAY_S * pods.training_cubes * repair_s
    term, chance = math.exp(-mean), 0.0
    for number in range(pods.standby_cubes - serviced):
        chance += term
        term *= mean / (number + 1)
    return min(1.0, chance)


def standbys_needed(
    pods: Pods,
    *,
    cube_per_day: float,
    repair_s: float,
    chance: float = 0.99,
    serviced: int = 0,
) -> int:
    """The fewest standby cubes of a pod with which one is free with this probability.

    Raises: ConfigError where all but one cube would not do."""
    if not 0 <= chance < 1:
        raise ConfigError(f"chance is {chance:.6g}; at least 0, below 1")
    best = 0.0
    for standby in range(1, pods.cubes_per_pod):
        with_so_many = replace(pods, standby_cubes=standby)
        best = free_chance(
            with_so_many,
            cube_per_day=cube_per_day,
            repair_s=repair_s,
            serviced=serviced,
        )
        if best >= chance:
            return standby
    raise ConfigError(
        f"chance is {chance:.6g}, but {pods.cubes_per_pod - 1} standby cubes of "
        f"{pods.cubes_per_pod} come to {best:.3g}; ask for less, or lower cube_per_day "
        f"({cube_per_day:.6g}) or repair_s ({repair_s:.6g})"
    )
