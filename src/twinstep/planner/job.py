"""What a job is to the planner: its machines, its state, and the ways out of them.

The state is counted per machine, since a machine is what is lost. Mixed precision with
Adam keeps 12 bytes a parameter that a checkpoint needs (float32 weights and two
moments, as in GEMINI, section 2.2; doi 10.1145/3600006.3613145); 14 or 16 where the
weights or the gradients that are computed with are kept as well.

Left out: machines that are not alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from twinstep.errors import ConfigError
from twinstep.schedule_settings import Schedule

MACHINES_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training job. Speeds in bytes a second, both directions at once."""

    machines: int
    parameters: float
    bytes_per_parameter: float = 12.0
    ranks_per_machine: int = 8
    step_s: float
    network_bytes_per_s: float
    """Of each machine, towards other machines."""
    idle_share: float = 0.15
    """Of a step, in which training leaves the network alone. 0.13 to 0.16 for the five
    models of GEMINI's Figure 8."""
    storage_bytes_per_s: float
    """Of the storage that all machines share, together."""
    storage_machine_bytes_per_s: float = 0.0
    """Of each machine to storage that grows with the machines (a shard each, object
    stores); 0: as fast as the network."""
    disk_bytes_per_s: float = 3e9
    """Of each machine's own disk: two NVMe devices write as fast."""
    host_bytes_per_s: float = 0.0
    """From the accelerators of a machine into its memory; 0: as the network, which is
    what GEMINI measured (section 5.2)."""
    memory_bytes: float = 0.0
    """Of each machine, that copies may take; 0: not known."""
    copies: int = 2
    """Machines that are to hold each shard, the owner among them."""
    schedule: Schedule = field(default_factory=Schedule)
    """How the job plans its traffic: of it count mu, every_max and buffer_bytes."""
    replicas: int = 1
    """How often training itself holds the whole state, each on other machines (data
    parallelism): these are copies that exist already, and are not sent."""
    standbys: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("machines", 1, MACHINES_MAX),
            ("ranks_per_machine", 1, 1024),
            ("copies", 1, 1024),
            ("replicas", 1, MACHINES_MAX),
            ("standbys", 0, MACHINES_MAX),
            ("parameters", 1, 1e18),
            ("bytes_per_parameter", 0.1, 64),
            ("idle_share", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    f"{name} is {value:.6g}; at least {least:g}, at most {most:g}"
                )
        for name in ("step_s", "network_bytes_per_s", "storage_bytes_per_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name):.6g}; it must be more than 0"
                )
        for name in (
            "storage_machine_bytes_per_s",
            "disk_bytes_per_s",
            "host_bytes_per_s",
            "memory_bytes",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name):.6g}; it must be at least 0"
                )
        if self.copies > self.machines:
            raise ConfigError(
                f"copies ({self.copies}) must be at most machines ({self.machines}): "
                f"each copy is on a machine of its own; use {self.machines} copies, or "
                "more machines"
            )

        if self.machines % self.replicas:
            raise ConfigError(
                f"replicas ({self.replicas}) must divide machines ({self.machines}): "
                "each replica of the state is on as many machines"
            )

    @property
    def sent_copies(self) -> int:
        """Copies of each machine's state that are sent to others."""
        return max(0, self.copies - self.replicas)

    @property
    def holders(self) -> int:
        """Machines that have each shard, by training or by what is sent."""
        return max(self.copies, self.replicas)

    @property
    def state_bytes(self) -> float:
        """What a checkpoint of the whole job has."""
        return self.parameters * self.bytes_per_parameter

    @property
    def machine_bytes(self) -> float:
        """What of it one machine trains, all its ranks together."""
        return self.state_bytes * self.replicas / self.machines

    @property
    def rank_bytes(self) -> float:
        return self.machine_bytes / self.ranks_per_machine

    @property
    def to_host_bytes_per_s(self) -> float:
        return self.host_bytes_per_s or self.network_bytes_per_s

    @property
    def to_shards_bytes_per_s(self) -> float:
        """All machines together, to storage that grows with them."""
        each = self.storage_machine_bytes_per_s or self.network_bytes_per_s
        return each * self.machines
