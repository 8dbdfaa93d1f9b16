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

from twinstep.bounds import SHARDS_MAX
from twinstep.cloud_settings import Kubernetes, Slurm
from twinstep.errors import ConfigError
from twinstep.schedule_settings import Schedule as Schedule
from twinstep.storage_settings import Storage as Storage
from twinstep.values import check_numbers
from twinstep.vigilance import Health as Health, Timing as Timing

STRATEGIES = ("group", "ring", "mixed", "tail")
TRANSFER_MAX = (1 << 31) - 1
"""What the kernel takes for the size of a buffer."""
DATA = ("sealed", "tls", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How bytes move between machines, and what a peer may make us hold."""

    chunk_bytes: int = 512 * 1024
    """A chunk is hashed and copied while it is in the second-level cache."""
    streams: int = 1
    """Connections per copy; more where one TCP stream does not fill the link."""
    streams_max: int = 16
    """Connections per copy that a peer may use."""
    waits_max: int = 1000
    """So often a sender may say before a chunk that it still waits for its turn; it
    says so three times in timing.transfer_s_max."""
    twin_ms_max: int = 1000
    """So long a holder waits for its own rank's capture, which has much of a copy that
    comes in hybrid sharding, before it has all of that sent; never longer than half of
    timing.transfer_s_max."""
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
            if not 1 <= value <= TRANSFER_MAX:
                raise ConfigError(
                    f"transfer.{field.name} is {value:.6g}; at least 1, at most "
                    f"{TRANSFER_MAX}"
                )
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
    data: str = "sealed"
    """How copies travel once certificates were shown: sealed (encrypted in records of a
    chunk), tls (in TLS's own, at half the speed) or plain (in the clear)."""
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
        check_numbers(self, part="trust")
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
    min_machines: int = 0
    """With no fewer machines than this the job goes on when no machine is to be had in
    place of a lost one, and grows again when one comes; its state is resharded through
    storage.path. 0: it never goes on with fewer than `machines`."""
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
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    trust: Trust = dataclasses.field(default_factory=Trust)
    storage: Storage = dataclasses.field(default_factory=Storage)
    kubernetes: Kubernetes = dataclasses.field(default_factory=Kubernetes)
    slurm: Slurm = dataclasses.field(default_factory=Slurm)

    def __post_init__(self) -> None:
        check_numbers(self, part="")
        if self.machines * self.ranks_per_machine > SHARDS_MAX:
            raise ConfigError(
                f"machines ({self.machines}) times ranks_per_machine "
                f"({self.ranks_per_machine}) must be at most {SHARDS_MAX}"
            )
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
        self._check_fewer()
        if self.domains and len(self.domains) != self.machines:
            raise ConfigError(
                f"domains names {len(self.domains)} machines, but machines is "
                f"{self.machines}; name the domain of each, or none"
            )
        schedule, chunk_bytes = self.schedule, self.transfer.chunk_bytes
        if schedule.buffer_bytes // schedule.buffers < chunk_bytes:
            raise ConfigError(
                f"schedule.buffer_bytes ({schedule.buffer_bytes}) in schedule.buffers "
                f"({schedule.buffers}) parts holds no chunk of transfer.chunk_bytes "
                f"({chunk_bytes}); raise buffer_bytes, or lower buffers or chunk_bytes"
            )

    def _check_fewer(self) -> None:
        """What going on with fewer machines needs."""
        if not 0 <= self.min_machines <= self.machines:
            raise ConfigError(
                f"min_machines is {self.min_machines}; it must be between 1 and "
                f"machines ({self.machines}), or 0 to go on with all only"
            )
        if not self.min_machines:
            return
        if not self.storage.path:
            raise ConfigError(
                f"min_machines ({self.min_machines}) without storage.path: state is "
                "resharded for fewer machines through storage; set storage.path to a "
                "folder that all machines see (tmpfs will do on one computer)"
            )
        if self.timing.resize_after_s >= self.timing.machine_s_max:
            raise ConfigError(
                f"timing.resize_after_s ({self.timing.resize_after_s}) must be less "
                f"than timing.machine_s_max ({self.timing.machine_s_max}), or the job "
                "ends before it goes on with fewer machines; lower resize_after_s"
            )

    @property
    def copies_held(self) -> int:
        return self.copies or min(2, self.machines)


def load(path: Path | None, **arguments: Any) -> Job:
    """Returns the job that a TOML file and arguments describe; arguments win. Folders
    of its storage are absolute: agents and ranks may run in other ones.

    Raises: ConfigError naming the file, the setting and what is allowed."""
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"config {path} cannot be read: {error}") from error
    given = {name: value for name, value in arguments.items() if value is not None}
    if "storage" in given:
        inner = settings.get("storage", {})
        given["storage"] = (inner if isinstance(inner, dict) else {}) | {
            "path": given["storage"]
        }
    settings |= given
    unknown = _unknown(settings)
    if unknown:
        raise ConfigError(f"unknown setting(s) {', '.join(unknown)} in {path}")
    try:
        job = msgspec.convert(settings, Job)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path or 'arguments'}: {error}") from error
    places = {name: _absolute(getattr(job.storage, name)) for name in ("path", "start")}
    return dataclasses.replace(job, storage=dataclasses.replace(job.storage, **places))


def _absolute(place: str) -> str:
    if not place or "://" in place:
        return place
    try:
        return str(Path(place).expanduser().absolute())
    except RuntimeError as error:
        raise ConfigError(f"storage {place!r}: {error}; name the folder") from error


def _unknown(settings: dict[str, Any]) -> list[str]:
    parts: dict[str, type] = {
        "timing": Timing,
        "health": Health,
        "transfer": Transfer,
        "schedule": Schedule,
        "trust": Trust,
        "storage": Storage,
        "kubernetes": Kubernetes,
        "slurm": Slurm,
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
