"""Settings of those who give machines: parts of a job's config, as config.py says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.errors import ConfigError
from twinstep.values import check_numbers

DRAIN = ("bad", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """How the operator `kubernetes` asks for pods."""

    template: str = ""
    """The PodTemplate object that machines are made from; empty: it has the job's
    name."""
    call_s_max: float = 5.0
    """One call to the API."""
    look_s: float = 0.5
    """How often a pod that was asked for is looked at, and a call that failed is
    tried again."""
    patience_s: float = 30.0
    """While there is no running pod, the log tells so often what it waits for."""
    ask_s_max: float = 600.0
    """So long is tried what may pass: a quota, no room, an API that is away."""
    avoid_s: float = 600.0
    """No new pod goes to a node from which a machine was lost so recently."""
    answer_bytes_max: int = 16 * 1024 * 1024
    """A longer answer of the API is refused."""
    requests_max: int = 10_000
    """Machines that a root asks for in its life, and pods that a list may have."""

    def __post_init__(self) -> None:
        check_numbers(self, part="kubernetes")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "template" and not value > 0:
                raise ConfigError(f"kubernetes.{field.name} is {value}; must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """How the operator `slurm` asks for nodes."""

    script: str = ""
    """The batch script of a replacement; empty: the one that this job began with."""
    options: tuple[str, ...] = ()
    """More options of sbatch for a replacement, such as --partition=spare."""
    drain: str = "bad"
    """Which nodes are drained with the reason: bad ones (what ran there failed while
    it was heard of), never any. It needs the rights of a Slurm operator."""
    return_s: float = 3.0
    """So long a lost machine's agent may take to be started again on its node, before
    another node is asked for."""
    replacements_max: int = 16
    """Machines asked for in one run."""
    call_s_max: float = 20.0
    """One command of Slurm's."""
    look_s: float = 2.0
    """What became of a replacement is asked for no more often."""

    def __post_init__(self) -> None:
        check_numbers(self, part="slurm")
        if self.drain not in DRAIN:
            raise ConfigError(
                f"slurm.drain is {self.drain!r}; use one of {', '.join(DRAIN)}"
            )
        if self.return_s < 0:
            raise ConfigError(f"slurm.return_s is {self.return_s}; at least 0")
        for name in ("replacements_max", "call_s_max", "look_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"slurm.{name} is {getattr(self, name)}; must be > 0")
