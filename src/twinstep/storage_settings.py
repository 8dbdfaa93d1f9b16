"""Where steps are written for good, how often, and which of them are kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from twinstep.errors import ConfigError
from twinstep.values import check_numbers

FORMATS = ("auto", "dcp", "orbax")
LEAST = {
    "every_steps": 0,
    "every_s": 0,
    "bandwidth_max": 0,
    "keep_every": 0,
}
"""The smallest value of a setting where it is not just above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The last tier: steps in files that outlive every machine."""

    path: str = ""
    """A folder that all machines see (a disk, NFS), or an address that fsspec knows:
    s3://BUCKET/RUN, gs://BUCKET/RUN. Empty: nothing is written."""
    start: str = ""
    """A folder or address of a checkpoint that a job without any step of its own starts
    from: a torch.distributed.checkpoint directory, or for JAX one of Orbax. Empty: from
    the script's own state."""
    format: Literal["auto", "dcp", "orbax"] = "auto"
    """Whose checkpoints steps are: "dcp" those of torch.distributed.checkpoint, "orbax"
    those of Orbax, "auto" those of the ranks' framework."""
    options: dict[str, str] = dataclasses.field(
        default_factory=dict[str, str], repr=False
    )
    """What fsspec is told of the address: endpoint_url, key, secret, ... Each machine
    has its own; they are never shown, nor put into the key-value store."""
    every_steps: int = 0
    """At least so many steps lie between two that are written; 0: as many as pass."""
    every_s: float = 0.0
    """At least so much time lies between the starts of two; 0: the next begins as soon
    as the one before is written, which is as often as the storage allows."""
    bandwidth_max: int = 0
    """Bytes a second that a machine writes at most; 0: what the storage takes."""
    keep_last: int = 2
    """So many of the newest steps are kept; older ones are removed."""
    keep_every: int = 0
    """Steps that are a multiple of this are never removed; 0: none is spared."""
    write_s_max: float = 3600.0
    """A step that is not written after this time is given up, and a newer one begun."""
    retry_s: float = 30.0
    """After a step that could not be written, so long until the next is tried."""
    look_s_max: float = 120.0
    """So long a job waits at its start for the storage to say what it holds."""
    away_s_max: float = 60.0
    """So long a rank tries to read a step from storage that cannot be reached; then the
    round ends, and rounds without a new step are counted."""
    steps_max: int = 10_000
    """Steps that are looked at in one storage; of more, the newest."""
    background: bool = True
    """Writing gets processor time that nobody else wants (nice 19)."""

    def __post_init__(self) -> None:
        check_numbers(self, part="storage")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | bool | dict):
                continue
            least = LEAST.get(field.name)
            if least is None and not value > 0:
                raise ConfigError(f"storage.{field.name} is {value}; it must be > 0")
            if least is not None and not value >= least:
                raise ConfigError(
                    f"storage.{field.name} is {value}; it must be at least {least}"
                )
        if self.format not in FORMATS:
            raise ConfigError(
                f"storage.format is {self.format!r}; use one of {', '.join(FORMATS)}"
            )
        if self.options and not (self.path or self.start):
            names = ", ".join(sorted(self.options))  # a value may be a secret
            raise ConfigError(
                f"storage.options ({names}) without storage.path; name the address "
                "that they are for"
            )
