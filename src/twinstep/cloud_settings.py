"""Settings of those who give machines: parts of a job's config, as config.py says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.errors import ConfigError


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
    """After so long without a running pod, the log tells what it waits for."""
    ask_s_max: float = 600.0
    """So long is tried what may pass: a quota, no room, an API that is away."""
    avoid_s: float = 600.0
    """No new pod goes to a node from which a machine was lost so recently."""
    answer_bytes_max: int = 16 * 1024 * 1024
    """A longer answer of the API is refused."""
    requests_max: int = 10_000
    """Machines that a root asks for in its life, and pods that a list may have."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "template" and not value > 0:
                raise ConfigError(f"kubernetes.{field.name} is {value}; must be > 0")
