"""Describes pods of cubes of chips, and what an optical switch makes of them.

Chips are wired in cubes; a switch joins any face of a cube to any face of another, so
that cubes make 3D tori of many shapes. Pods are joined by a slower network:

    chip ── host ─┐
    chip ─┘       ├─ cube ──┐ optical switch: any cube in any place, in rewire_s
    ...    host ──┘   cube ──┼─ pod ──┐ data centre network: each host host_bytes_per_s
                  standby cube ┘   pod ──┘

The Gemini 1.0 report (arXiv 2312.11805), section 3: SuperPods of 4096 TPUv4 chips,
4x4x4 cubes, around 10 seconds to make another torus, a small number of cubes kept for
hot standbys and rolling maintenance, model parallelism within pods and data
parallelism across them. A pod of 64 cubes that keeps 2 has only 1x2x31 cubes left; one
that keeps 4 has 3x4x5: see near_cubic.

Left out: twisted tori, tori of less than a cube, links that fail alone, and the time to
route around what is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from twinstep.errors import ConfigError
from twinstep.planner.failures import Domain, Failures

Sides = tuple[int, int, int]
CUBES_MAX = 4096
"""Of a pod: shapes and blocks are found by trying all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """The chips of a job. Speeds in bytes a second, in each direction at once."""

    cube: Sides = (4, 4, 4)
    """In chips: what the switch can move as a whole."""
    chips_per_host: int = 4
    cubes_per_pod: int = 64
    """The standby cubes among them."""
    pods: int = 1
    standby_cubes: int = 0
    """Of each pod, that do not train."""
    switched: bool = True
    """Whether a switch joins the faces of cubes; else they are wired once."""
    rewire_s: float = 10.0
    link_bytes_per_s: float = 50e9
    """Of each link between two chips: 400 Gbit/s (TPUv4)."""
    host_bytes_per_s: float = 12.5e9
    """Of each host on the network that also joins the pods."""
    chips_bytes_per_s: float = 63e9
    """Between a host's memory and its chips: four PCIe 3.0 x16 (TPUv4)."""
    replicated: bool = True
    """Whether each pod has the whole state (data parallelism across pods): training
    itself then keeps a copy in each. False where the optimizer is cut over pods too."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("chips_per_host", 1, 64),
            ("cubes_per_pod", 1, CUBES_MAX),
            ("pods", 1, 1024),
            ("standby_cubes", 0, self.cubes_per_pod - 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    f"{name} is {value}; at least {least}, at most {most}"
                )
        if not all(1 <= side <= 64 for side in self.cube):
            raise ConfigError(f"cube is {self.cube}; each side has 1 to 64 chips")
        if self.cube_chips % self.chips_per_host:
            raise ConfigError(
                f"chips_per_host ({self.chips_per_host}) must divide the "
                f"{self.cube_chips} chips of a cube {in_words(self.cube)}, since hosts "
                "are not split over cubes"
            )
        if self.standby_cubes and not self.switched:
            raise ConfigError(
                f"standby_cubes is {self.standby_cubes}, but switched is False: only a "
                "switch can put a cube in another's place; use standby_cubes=0"
            )
        if not 0 <= self.rewire_s < math.inf:
            raise ConfigError(f"rewire_s is {self.rewire_s:.6g}; it must be at least 0")
        for name in ("link_bytes_per_s", "host_bytes_per_s", "chips_bytes_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name):.6g}; it must be more than 0"
                )

    @property
    def cube_chips(self) -> int:
        return math.prod(self.cube)

    @property
    def cube_hosts(self) -> int:
        return self.cube_chips // self.chips_per_host

    @property
    def training_cubes(self) -> int:
        """Of each pod."""
        return self.cubes_per_pod - self.standby_cubes

    @property
    def pod_hosts(self) -> int:
        """Of each pod, that train."""
        return self.training_cubes * self.cube_hosts

    @property
    def hosts(self) -> int:
        """All that train: the machines of the job, numbered by pod, cube and host."""
        return self.pods * self.pod_hosts

    @property
    def chips(self) -> int:
        """All there are, standby ones among them."""
        return self.pods * self.cubes_per_pod * self.cube_chips

    @property
    def standby_chips(self) -> int:
        return self.pods * self.standby_cubes * self.cube_chips

    @property
    def standby_share(self) -> float:
        """Of all chips, what the standby cubes cost while nothing fails."""
        return self.standby_chips / self.chips

    @property
    def state_hosts(self) -> int:
        """The hosts over which one whole state is cut."""
        return self.pod_hosts if self.replicated else self.hosts

    @property
    def torus(self) -> Torus:
        """The most compact torus of a pod's training cubes."""
        return shapes(self.training_cubes, cube=self.cube)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Torus:
    """A torus of whole cubes, the shortest side first."""

    chips: Sides
    cubes: Sides

    @property
    def bisection_links(self) -> int:
        """Links that a cut across the longest side crosses: two faces of the cut,
        since each line of chips is a ring, but one where a ring has two chips."""
        a, b, longest = self.chips
        return a * b * min(longest - 1, 2)

    def __str__(self) -> str:
        return in_words(self.chips)


def shapes(cubes: int, *, cube: Sides = (4, 4, 4)) -> tuple[Torus, ...]:
    """The tori that so many cubes can make, the most compact first: the one with the
    shortest longest side, over which messages travel farthest."""
    if not 1 <= cubes <= CUBES_MAX:
        raise ConfigError(f"cubes is {cubes}; at least 1, at most {CUBES_MAX}")
    found: dict[Sides, Torus] = {}
    for counts in _counts(cubes):
        ordered = sorted(zip(counts, cube, strict=True), key=lambda n: n[0] * n[1])
        sides = [n * side for n, side in ordered]
        chips = sides[0], sides[1], sides[2]
        found[chips] = Torus(
            chips=chips, cubes=(ordered[0][0], ordered[1][0], ordered[2][0])
        )
    return tuple(found[key] for key in sorted(found, key=lambda c: (c[2], c[1])))


def near_cubic(cubes: int, *, cube: Sides = (4, 4, 4), ratio: float = 2.0) -> Torus:
    """The largest torus of at most so many cubes whose longest side is at most `ratio`
    times its shortest: what is left over is best kept as standby."""
    for count in range(cubes, 0, -1):
        torus = shapes(count, cube=cube)[0]
        if torus.chips[2] <= ratio * torus.chips[0]:
            return torus
    raise ConfigError(
        f"ratio is {ratio:.6g}, but a cube of {in_words(cube)} chips alone is longer; "
        f"use at least {max(cube) / min(cube):.6g}"
    )


def failures(
    pods: Pods,
    *,
    chip_per_day: float = 0.0,
    host_per_day: float = 0.0,
    cube_per_day: float = 0.0,
    pod_per_day: float = 0.0,
    process_per_host_day: float = 0.0,
    apart: bool | None = None,
) -> Failures:
    """Each one's failures a day, as the planner's model takes them: hosts are its
    machines, cubes and pods its domains. `apart`: whether holders are in separate pods;
    by default, where each pod has the whole state.

    A lost chip counts as its host, since both take a cube out of the torus; that the
    host's memory is still there makes the model say a little too much."""
    if apart is None:
        apart = pods.replicated
    return Failures(
        process_per_machine_day=process_per_host_day,
        machine_per_machine_day=host_per_day + pods.chips_per_host * chip_per_day,
        domains=(
            Domain(
                name="cube",
                machines=pods.cube_hosts,
                per_day=cube_per_day,
                apart=pods.hosts > pods.cube_hosts,
            ),
            Domain(
                name="pod",
                machines=pods.pod_hosts,
                per_day=pod_per_day,
                apart=apart and pods.pods > 1,
            ),
        ),
    )


def in_words(sides: Sides) -> str:
    return "x".join(map(str, sides))


def _counts(cubes: int) -> list[Sides]:
    """All ways to write a number as a product of three, in order."""
    divisors = [n for n in range(1, cubes + 1) if cubes % n == 0]
    return [
        (a, b, cubes // a // b)
        for a, b in product(divisors, divisors)
        if cubes // a % b == 0
    ]
