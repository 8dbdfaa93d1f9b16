"""Every setting of a job, with its unit, its bound and why this default.

Settings come from arguments, then from one TOML file, then from the defaults here;
arguments win. The environment sets nothing. Relations between settings are checked
when a config is made, so that a job which cannot work does not start.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from twinstep.cloud_settings import Kubernetes
from twinstep.errors import ConfigError

STRATEGIES = ("group", "ring", "mixed", "tail")
DATA = ("tls", "plain")


DERIVED = {
    "renew_s": 1 / 5,
    "tick_s": 1 / 15,
    "call_s_max": 4 / 3,
    "retake_s": 1 / 6,
    "campaign_s": 2.0,
}
"""Settings of Timing that follow from silence_s_max where they are not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long anybody waits for anybody. All in seconds."""

    silence_s_max: float = 1.5
    """A machine whose lease was not renewed for so long is lost. A lost machine
    must be decided upon within 2 s, which leaves half a second for the decision.
    The one setting of detection: those below that are 0 follow from it."""
    renew_s: float = 0.0
    """A lease is renewed so often. 0: five times within silence_s_max."""
    tick_s: float = 0.0
    """How often decisions look at the time. 0: a fifteenth of silence_s_max."""
    call_s_max: float = 0.0
    """One call to the key-value store. 0: 4/3 of silence_s_max."""
    retake_s: float = 0.0
    """A machine whose lease is gone while its connection to the root is open (or while
    a new root has none yet) may take its seat again for so long before it is lost:
    stores have ended leases that were renewed. 0: a sixth of silence_s_max, which is
    half of what that leaves for the decision."""
    campaign_s: float = 0.0
    """A standby stands for root only after the machines that train had so long to.
    0: twice silence_s_max."""
    stop_s_max: float = 0.0
    """Killed ranks are gone, and inventories here, within this time. 0: four times
    silence_s_max, and at least 10."""
    hang_s_min: float = 10.0
    """No step for so long, at least, before the ranks are looked at; one that a
    signal has stopped is then ended."""
    hang_s_max: float = 600.0
    """No step for so long is a hang although no rank is stopped: an evaluation or a
    save between two steps must not take longer."""
    hang_steps: float = 10.0
    """The ranks are looked at after this many median step times without a step (if
    that is longer than hang_s_min)."""
    deadlock_s_min: float = 60.0
    """No step for so long, at least, before a deadlock that the stacks of all ranks
    prove is ended; hang_s_max where they prove nothing."""
    first_step_s_max: float = 900.0
    """The first step of a round compiles and warms up; so long it may take, while no
    rank is stopped."""
    connect_s_max: float = 5.0
    """One connection attempt, handshake included."""
    transfer_s_max: float = 60.0
    """One chunk, sent or received, or the verdict on a copy."""
    machine_s_max: float = 600.0
    """A replacement machine joins within this time after it was asked for."""
    store_start_s_max: float = 10.0
    """The key-value store answers a machine that starts within this time."""
    store_s_max: float = 600.0
    """The key-value store may be away for so long before the agents give up and end.
    Meanwhile training goes on, and what a root decides waits to be written."""
    operator_s_max: float = 60.0
    """A call to the cloud operator that takes longer is named in the log. Nothing
    else waits for it."""
    ask_again_s: float = 30.0
    """After the operator had no machine, it is asked again this much later."""
    return_s_max: float = 60.0
    """Under another launcher (torchrun, srun, mpirun): once no rank is left on a
    machine, and no launcher to start one, its agent keeps the memory for so long."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default == 0.0:
                if value < 0:
                    raise ConfigError(
                        f"timing.{field.name} is {value}; it must be > 0, or 0 to "
                        "follow from silence_s_max"
                    )
            elif not value > 0:
                raise ConfigError(f"timing.{field.name} is {value}; it must be > 0")
        for name, share in DERIVED.items():
            if not getattr(self, name):
                object.__setattr__(self, name, round(share * self.silence_s_max, 6))
        if not self.stop_s_max:
            object.__setattr__(self, "stop_s_max", max(10.0, 4 * self.silence_s_max))
        self._check_relations()

    def _check_relations(self) -> None:
        """What makes one wait depend on another."""
        healthy = "or a healthy machine misses its renewal"
        for name, bound, part, why in (
            ("tick_s", self.silence_s_max / 4, "a quarter of", healthy),
            ("renew_s", self.silence_s_max / 3, "a third of", healthy),
        ):
            if getattr(self, name) > bound:
                raise ConfigError(
                    f"timing.{name} ({getattr(self, name)}) must be at most {part} "
                    f"timing.silence_s_max ({self.silence_s_max}), {why}; lower "
                    f"{name} (0 lets it follow) or raise silence_s_max"
                )
        for name, least, why in (
            ("campaign_s", "silence_s_max", "standbys stand for root too early"),
            ("stop_s_max", "silence_s_max", "a lost machine is taken for a slow one"),
            ("hang_s_max", "hang_s_min", "nobody is looked at before it is a hang"),
            ("deadlock_s_min", "hang_s_min", "nobody is looked at before it is one"),
            ("first_step_s_max", "hang_s_min", "nobody is looked at before"),
        ):
            if getattr(self, name) < getattr(self, least):
                raise ConfigError(
                    f"timing.{name} ({getattr(self, name)}) is less than "
                    f"timing.{least} ({getattr(self, least)}): {why}; raise {name} "
                    f"or lower {least}"
                )

    @property
    def look_s(self) -> float:
        """While no step comes, the ranks are looked at so often."""
        return max(self.tick_s, self.hang_s_min / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is watched of ranks and machines beyond their lives."""

    stacks: bool = True
    """While no step comes, ask ranks for their stacks (by a real-time signal that
    Python's faulthandler answers) and save them in the job's folder."""
    stack_rounds_max: int = 8
    """Rounds whose stacks are kept; those of older ones are deleted."""
    stack_bytes_max: int = 256 * 1024
    """Of one rank's stacks, as much is read and saved."""
    strikes_max: int = 3
    """A machine whose ranks have died by themselves so often within strikes_s, as no
    other's have, is replaced, if another machine is to be had."""
    strikes_s: float = 600.0
    """The time within which a machine's strikes are counted."""
    replace: bool = True
    """Replace a machine whose probes fail; else that is only said."""
    looks_min: int = 3
    """A deadlock is proven when all ranks have stood at the same lines, and used no
    processor, for so many looks in a row."""
    port: int = 0
    """Each agent answers GET /healthz and /readyz at this port of its host, for a
    prober such as a kubelet; 0: it does not."""

    def __post_init__(self) -> None:
        for name in ("stack_rounds_max", "stack_bytes_max", "looks_min", "strikes_max"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"health.{name} is {value}; it must be at least 1")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"health.port is {self.port}; a port, or 0 for none")
        if not self.strikes_s > 0:
            raise ConfigError(f"health.strikes_s is {self.strikes_s}; it must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How bytes move between machines, and what a peer may make us hold."""

    chunk_bytes: int = 512 * 1024
    """A chunk is hashed and copied while it is in the second-level cache."""
    streams: int = 1
    """Connections per copy; more where one TCP stream does not fill the link."""
    streams_max: int = 16
    """Connections per copy that a peer may use."""
    threads_max: int = 16
    """Copies sent, and copies received, at the same time."""
    socket_buffer_bytes: int = 4 * 1024 * 1024
    """Kernel buffer asked for per data connection."""
    header_bytes_max: int = 4 * 1024 * 1024
    """A header larger than this ends the connection (a plan for 10,000 ranks
    takes about 1 MB)."""
    connections_max: int = 4096
    """Connections an agent accepts at the same time."""
    queue_max: int = 10_000
    """Messages waiting to be written to one peer; a fuller queue drops the peer."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ConfigError(f"transfer.{field.name} is {value}; at least 1")
        if self.chunk_bytes % 4096:
            raise ConfigError(
                f"transfer.chunk_bytes ({self.chunk_bytes}) must be a multiple of 4096"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What this job's agents prove to each other, and what strangers may cost.

    Without a token and without certificates, agents speak on loopback only."""

    token_file: str = ""
    """A file with the job's shared secret, at least 32 bytes that nobody can guess and
    that others cannot read; for a network that is trusted."""
    certs: str = ""
    """A folder with ca.pem, cert.pem and key.pem, or with such a folder for each
    machine, as `twinstep certs` makes it: mutual TLS."""
    data: str = "tls"
    """With certificates: copies travel encrypted (tls), or (plain) in the clear once
    both ends have proved themselves."""
    strangers_max: int = 256
    """Connections at the same time that have not proved themselves; one more, and the
    oldest silent one is dropped."""
    handshake_s_max: float = 5.0
    """A connection has proved itself within this time, or is dropped."""
    handshake_threads: int = 2
    """Threads that compute handshakes, so that strangers do not hold up decisions."""
    strangers_lines_max: int = 10
    """Lines about strangers in the log at once; then one a second, with a count."""

    def __post_init__(self) -> None:
        if self.token_file and self.certs:
            raise ConfigError(
                f"trust names both token_file ({self.token_file}) and certs "
                f"({self.certs}); use one: certificates need no token"
            )
        if self.data not in DATA:
            raise ConfigError(
                f"trust.data is {self.data!r}; use one of {', '.join(DATA)}"
            )
        for name in (
            "strangers_max",
            "handshake_s_max",
            "handshake_threads",
            "strangers_lines_max",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"trust.{name} is {getattr(self, name)}; it must be > 0"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A whole job: what runs where, what is kept, and the parts' own settings."""

    machines: int = 1
    """Machines that train. On one computer, agents that each stand for a machine."""
    ranks_per_machine: int = 1
    """Training processes on each machine, usually one per accelerator."""
    standbys: int = 0
    """Machines that wait, frameworks imported, to replace a lost one."""
    copies: int = 0
    """Machines that hold each shard, the owner among them; 0 means two where there
    are two machines, else one."""
    placement: str = "mixed"
    """Which machines hold which copies: group, ring, mixed or tail."""
    domains: tuple[str, ...] = ()
    """The failure domain of each machine rank; empty: each machine its own."""
    store: str = ""
    """Address of the key-value store: etcd://HOST:2379/JOB, or HOST:PORT of a
    `twinstep store`; empty: `twinstep run` keeps one itself."""
    memory_bytes_max: int = 0
    """What an agent may reserve for slots; 0: what its computer has available."""
    asks_max: int = 3
    """So many times another machine is asked for in place of one that was lost, when
    those that came died before they joined, or none was to be had."""
    rounds_without_progress_max: int = 3
    """So many rounds in a row without a new step, and the job ends with a report."""
    warm: bool = True
    """Fork ranks from a process that has already imported the frameworks."""
    preload: tuple[str, ...] = (
        "torch",
        "torch.distributed.fsdp",
        "torch.distributed.optim",
        "torch._dynamo",
        "twinstep.adapters.torch",
    )
    """Modules the warm process imports, where they are installed: what scripts import
    anyway, here at the start or (dynamo) in the first update. They must not start
    threads, nor touch a GPU."""
    output_lines_max: int = 40
    """Last lines of each rank's output kept for the report of a crash loop."""
    timing: Timing = dataclasses.field(default_factory=Timing)
    health: Health = dataclasses.field(default_factory=Health)
    transfer: Transfer = dataclasses.field(default_factory=Transfer)
    trust: Trust = dataclasses.field(default_factory=Trust)
    kubernetes: Kubernetes = dataclasses.field(default_factory=Kubernetes)

    def __post_init__(self) -> None:
        if self.machines < 1 or self.ranks_per_machine < 1 or self.standbys < 0:
            raise ConfigError(
                f"machines ({self.machines}) and ranks_per_machine "
                f"({self.ranks_per_machine}) must be at least 1, standbys "
                f"({self.standbys}) at least 0"
            )
        for name, least in (
            ("memory_bytes_max", 0),
            ("rounds_without_progress_max", 1),
            ("asks_max", 1),
            ("output_lines_max", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least {least}"
                )
        if self.placement not in STRATEGIES:
            raise ConfigError(
                f"placement is {self.placement!r}; use one of {', '.join(STRATEGIES)}"
            )
        if not 0 <= self.copies <= self.machines:
            raise ConfigError(
                f"copies ({self.copies}) must be between 1 and machines "
                f"({self.machines}): each copy is on a machine of its own; "
                f"use --copies {self.machines} or more machines"
            )
        if self.domains and len(self.domains) != self.machines:
            raise ConfigError(
                f"domains names {len(self.domains)} machines, but machines is "
                f"{self.machines}; name the domain of each, or none"
            )

    @property
    def copies_held(self) -> int:
        return self.copies or min(2, self.machines)


def load(path: Path | None, **arguments: Any) -> Job:
    """Returns the job that a TOML file and arguments describe; arguments win.

    Raises: ConfigError naming the file, the setting and what is allowed."""
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"config {path} cannot be read: {error}") from error
    settings |= {name: value for name, value in arguments.items() if value is not None}
    unknown = _unknown(settings)
    if unknown:
        raise ConfigError(f"unknown setting(s) {', '.join(unknown)} in {path}")
    try:
        return msgspec.convert(settings, Job)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path or 'arguments'}: {error}") from error


def _unknown(settings: dict[str, Any]) -> list[str]:
    parts: dict[str, type] = {
        "timing": Timing,
        "health": Health,
        "transfer": Transfer,
        "trust": Trust,
        "kubernetes": Kubernetes,
    }
    known = {field.name for field in dataclasses.fields(Job)}
    wrong = [name for name in settings if name not in known]
    for part, kind in parts.items():
        names = {field.name for field in dataclasses.fields(kind)}
        inner = settings.get(part, {})
        if isinstance(inner, dict):
            given = cast("dict[str, Any]", inner)
            wrong += [f"{part}.{name}" for name in given if name not in names]
    return sorted(wrong)
