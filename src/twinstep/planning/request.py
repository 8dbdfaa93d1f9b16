"""Makes a planner's job of what a person wrote: options, a preset, a job's settings.

Options win over the preset, and the preset over defaults. What no default can be a
guess for (machines, parameters, the length of a step) must be given.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from twinstep import config
from twinstep.errors import ConfigError
from twinstep.planner.failures import Domain, Event, Failures, read_trace
from twinstep.planner.job import Job
from twinstep.planner.measured import costs_of
from twinstep.planner.policies import Costs
from twinstep.planner.presets import PRESETS, Preset, preset
from twinstep.planner.quantities import (
    count,
    duration_s,
    failure_rate,
    size_bytes,
    speed_bytes_per_s,
)
from twinstep.planner.topology import Pods, failures as pods_failures
from twinstep.schedule_settings import Schedule

FILE_BYTES_MAX = 256 * 1024 * 1024
STORAGE = "20Gbps"
"""Of a cluster that nothing is known of: GEMINI's FSx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What was written, as it was written; empty: not given."""

    machines: int | None = None
    parameters: str = ""
    step: str = ""
    network: str = ""
    storage: str = ""
    shard_storage: str = ""
    disk: str = ""
    memory: str = ""
    failures: str = "1.5%/day"
    process_failures: str = "0/day"
    domain_machines: int = 0
    domain_failures: str = "0/day"
    copies: int | None = None
    replicas: int | None = None
    standby: int | None = None
    ranks_per_machine: int | None = None
    bytes_per_parameter: float = 12.0
    idle_share: float = 0.15
    warm_up: str = ""
    replace: str = ""
    preset: str = ""
    pods: int = 0
    standby_cubes: int | None = None
    costs: Path | None = None
    trace: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is planned for."""

    job: Job
    failures: Failures
    costs: Costs
    trace: tuple[Event, ...] = ()
    pods: Pods | None = None
    """How the chips are wired, where the preset says and pods were asked for."""
    assumed: list[str] = field(default_factory=list[str])
    """What was not given, in words."""


def understand(words: Words, *, settings: config.Job | None = None) -> Request:
    """Returns the job that the words, a preset and a job's own settings describe.

    Raises: ConfigError naming the option, the value, and what is allowed."""
    base = preset(words.preset) if words.preset else None
    pods = _pods(words, base)
    machines = words.machines or (settings.machines if settings else None)
    machines = pods.hosts if pods else machines
    missing = [
        f"{option} ({example})"
        for option, given, example in (
            ("--machines", machines is not None, "1000"),
            ("--parameters", words.parameters, "100e9"),
            ("--step-seconds", words.step, "62"),
            ("--network", words.network or words.preset, "400Gbps, or a --preset"),
        )
        if not given
    ]
    if missing or machines is None:
        raise ConfigError(f"a plan needs {', '.join(missing)}; or --paper")
    assumed = list(base.assumed) if base else []
    job = Job(
        machines=machines,
        parameters=count(words.parameters, option="--parameters"),
        bytes_per_parameter=words.bytes_per_parameter,
        ranks_per_machine=_ranks(words, base, settings),
        step_s=duration_s(words.step, option="--step-seconds"),
        network_bytes_per_s=_network(words, base),
        idle_share=words.idle_share,
        storage_bytes_per_s=_storage(words, assumed),
        storage_machine_bytes_per_s=_speed(words.shard_storage, "--shard-storage"),
        disk_bytes_per_s=_speed(words.disk, "--disk") or 3e9,
        memory_bytes=_memory(words, base, settings, assumed),
        copies=_copies(words, settings, machines),
        replicas=words.replicas or (pods.hosts // pods.state_hosts if pods else 1),
        standbys=_standbys(words, settings),
        schedule=settings.schedule if settings else Schedule(),
    )
    failures = _failures(words, pods, machines)
    costs = _costs(words, settings, assumed)
    trace = ()
    if words.trace:
        trace = read_trace(read_file(words.trace, "--trace"), option=str(words.trace))
    return Request(
        job=job,
        failures=failures,
        costs=costs,
        trace=trace,
        pods=pods,
        assumed=assumed,
    )


def _pods(words: Words, base: Preset | None) -> Pods | None:
    if not words.pods:
        return None
    if base is None or base.pods is None:
        wired = ", ".join(name for name, one in PRESETS.items() if one.pods)
        raise ConfigError(
            f"--pods is {words.pods}, but --preset {words.preset or '(none)'} has no "
            f"pods; use one of {wired}"
        )
    cubes = words.standby_cubes
    spare = base.pods.standby_cubes if cubes is None else cubes
    return dataclasses.replace(base.pods, pods=words.pods, standby_cubes=spare)


def _failures(words: Words, pods: Pods | None, machines: int) -> Failures:
    process = failure_rate(words.process_failures, option="--process-failures")
    machine = failure_rate(words.failures, option="--failures")
    domain = failure_rate(words.domain_failures, option="--domain-failures")
    if pods is not None:
        return pods_failures(
            pods,
            process_per_host_day=process.per_machine_day(machines),
            host_per_day=machine.per_machine_day(machines),
            cube_per_day=domain.per_machine_day(pods.pods * pods.training_cubes),
        )
    domains = tuple[Domain, ...]()
    if domain.per_day:
        size = words.domain_machines
        if size < 1:
            raise ConfigError(
                f"--domain-failures is {words.domain_failures!r}: say how many "
                "machines a domain (a rack, a power feed) has, as --domain-machines 16"
            )
        per_day = domain.per_machine_day(max(1, machines // size))
        domains = (Domain(name="domain", machines=size, per_day=per_day),)
    return Failures(
        process_per_machine_day=process.per_machine_day(machines),
        machine_per_machine_day=machine.per_machine_day(machines),
        domains=domains,
    )


def _ranks(words: Words, base: Preset | None, settings: config.Job | None) -> int:
    if words.ranks_per_machine is not None:
        return words.ranks_per_machine
    if settings:
        return settings.ranks_per_machine
    return base.accelerators if base else 8


def _copies(words: Words, settings: config.Job | None, machines: int) -> int:
    if words.copies is not None:
        return words.copies
    return settings.copies_held if settings else min(2, machines)


def _standbys(words: Words, settings: config.Job | None) -> int:
    if words.standby is not None:
        return words.standby
    return settings.standbys if settings else 0


def _network(words: Words, base: Preset | None) -> float:
    if words.network or base is None:
        return speed_bytes_per_s(words.network, option="--network")
    return base.network_bytes_per_s


def _storage(words: Words, assumed: list[str]) -> float:
    if not words.storage:
        assumed.append(f"--storage {STORAGE}, all machines together")
    return speed_bytes_per_s(words.storage or STORAGE, option="--storage")


def _memory(
    words: Words, base: Preset | None, settings: config.Job | None, assumed: list[str]
) -> float:
    if words.memory:
        return size_bytes(words.memory, option="--memory")
    if settings and settings.memory_bytes_max:
        return settings.memory_bytes_max
    if base is None:
        assumed.append("memory that suffices (say --memory, or --preset)")
    return base.memory_bytes if base else 0.0


def _speed(text: str, option: str) -> float:
    return speed_bytes_per_s(text, option=option) if text else 0.0


def _costs(words: Words, settings: config.Job | None, assumed: list[str]) -> Costs:
    costs = Costs()
    if words.warm_up:
        connect_s = duration_s(words.warm_up, option="--warm-up")
        costs = dataclasses.replace(costs, connect_s=connect_s)
    else:
        assumed.append(f"--warm-up {costs.connect_s:g}s until collectives connect")
    if words.replace:
        replace_s = duration_s(words.replace, option="--replace")
        costs = dataclasses.replace(costs, replace_s=replace_s)
    if settings:
        silence_s = settings.timing.silence_s_max
        costs = dataclasses.replace(costs, detect_machine_s=silence_s)
    if words.costs is None:
        return costs
    return costs_of(read_file(words.costs, "--costs"), costs, option=str(words.costs))


def read_file(path: Path, option: str) -> bytes:
    """What a file has.

    Raises: ConfigError naming the option where it cannot be read, or is too long."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error}") from error
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(f"{option} {path} has more than {FILE_BYTES_MAX} bytes")
    return text
