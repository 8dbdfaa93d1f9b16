"""One job on hosts whose links are limited, from its start until nothing is left."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.interleave_wire import Account, Wire, account
from benchmarks.jobs import CONFIG, last_lines
from twinstep.demo.ground import Work
from twinstep.demo.hosts.ground import Hosts
from twinstep.errors import DeadlinePassed, TwinstepError
from twinstep.timeline_view import Timelines, look

SCRIPT = Path(__file__).with_name("interleave_loop.py")
WATCHED = 1
"""The host whose wire is read."""
LOOK_S = 0.1
ASK_S = 2.0
"""So often agents are asked what they have learnt; an answer is some kilobytes."""
END_S_MAX = 300.0

SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "none": {"mode": "off"},
    "blocking": {"mode": "off"},
    "off": {"mode": "off", "priority": 0},
    "naive": {"mode": "naive"},
    "unpipelined": {"mode": "spans", "pipeline": False},
    "counters": {"mode": "spans"},
    "twinstep": {"mode": "spans"},
}
"""Their settings of `schedule`."""
FLAGS = {"blocking": ["--blocking"], "counters": ["--untold"]}
"""What the training itself does otherwise."""
ALONE = ("none", "blocking")
"""No machine has another's copies."""
SLOWER = 16
"""So much slower than the paper's is our link, more or less: what is a matter of
milliseconds there must be smaller here."""
SETTINGS: Mapping[str, Any] = {
    "profile_steps": 10,
    "buffer_bytes": 128 * 1024 * 1024 // SLOWER,
}
CHUNK_BYTES = 64 * 1024
"""2.7 ms at 200 Mbit/s; the default would take 22."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all jobs of a run have in common."""

    style: str = "ddp"
    machines: int = 4
    bits_per_s: int = 200_000_000
    bands: bool = False
    """Low socket priority waits at the host's card, as with the kernel's default."""
    warm_up: int = 20
    steps: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a job came to. `steps_s` are rank 0's counted steps."""

    steps_s: list[float]
    captured: int
    """Of them, by rank 0."""
    blocked_s: float
    """Of the training thread, in twinstep, in all counted steps."""
    wire: Account
    in_span_share: float | None
    """Of the bytes that agents let go, those that went into a span of their profiles;
    None where no agent had a plan."""
    every: int
    """One step in so many was captured at the end, by the root's decision."""
    took_s: float
    """The whole job, with its start."""

    @property
    def step_s(self) -> float:
        return statistics.median(self.steps_s)


def run(scheme: str, shape: Shape, folder: Path, *, sent_bytes: int) -> Found:
    """Returns what a job of a scheme took, whose machines have so much state to send.

    Raises: DeadlinePassed with its last lines when it does not end well."""
    folder.mkdir(parents=True)
    settings, result, log = folder / "toml", folder / "result", folder / "log"
    settings.write_text(_settings(scheme))
    command = [str(SCRIPT), "--style", shape.style, "--sent-bytes", str(sent_bytes)]
    command += ["--warm-up", str(shape.warm_up), "--steps", str(shape.steps)]
    command += ["--result", str(result), *FLAGS.get(scheme, [])]
    copies = 1 if scheme in ALONE else 2
    work = Work(command=command, machines=shape.machines, standbys=0, copies=copies)
    hosts = Hosts(replacements=0, settings=settings)
    began_s = time.monotonic()
    ports: set[int] = set()
    with log.open("wb") as output:
        try:
            hosts.start(work, folder, output)
            network = hosts.network
            assert network is not None
            for host in network.hosts:
                network.limit(host, shape.bits_per_s, bands=shape.bands)
            with Wire(network, WATCHED) as wire:
                told = _wait(hosts, work, ports, log)
        finally:
            hosts.close(limit_s=END_S_MAX)
    seen = json.loads(result.with_suffix(".0").read_text())
    within = {"from_s": seen["from_s"], "until_s": seen["until_s"]}
    return Found(
        steps_s=seen["steps_s"],
        captured=seen["captured"],
        blocked_s=seen["blocked_s"],
        wire=account(wire.frames, ports, **within),
        in_span_share=in_span_share(told) if told is not None else None,
        every=told.every if told is not None else 1,
        took_s=time.monotonic() - began_s,
    )


def _settings(scheme: str) -> str:
    lines = [CONFIG, "[transfer]", f"chunk_bytes = {CHUNK_BYTES}", "[schedule]"]
    values = {**SETTINGS, **SCHEMES[scheme]}
    lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join([*lines, ""])


def _wait(hosts: Hosts, work: Work, ports: set[int], log: Path) -> Timelines | None:
    """The job has ended well; `ports` are those of its agents.

    Returns what the agents said last of their steps."""
    until_s = time.monotonic() + END_S_MAX
    asked_s, told = time.monotonic(), None
    while (status := hosts.exit_status()) is None:
        if not ports:
            ports |= _ports(hosts, work.machines)
        elif time.monotonic() > asked_s + ASK_S:
            told, asked_s = _timelines(hosts) or told, time.monotonic()
        if time.monotonic() > until_s:
            raise DeadlinePassed(f"{END_S_MAX:g} s are over; {last_lines(log)}")
        time.sleep(LOOK_S)
    if status:
        raise DeadlinePassed(f"the job ended with status {status}; {last_lines(log)}")
    return told


def _timelines(hosts: Hosts) -> Timelines | None:
    """Returns what all agents say of their steps; None while one does not answer."""
    try:
        view = hosts.view()
        if view is None:
            return None
        with closing(view):
            told = look(view)
    except (TwinstepError, OSError):
        return None
    return None if told.silent else told


def in_span_share(told: Timelines) -> float | None:
    """Returns the share of the bytes that were let go as in a span."""
    sent = sum(machine.sent_bytes for machine in told.machines)
    within = sum(machine.in_span_bytes for machine in told.machines)
    return within / sent if sent else None


def _ports(hosts: Hosts, machines: int) -> set[int]:
    """Returns the ports of all agents; none before all are known."""
    try:
        view = hosts.view()
        if view is None:
            return set()
        with closing(view):
            seen = view.status()
    except (TwinstepError, OSError):
        return set()
    if seen is None or len(seen.machines) < machines:
        return set()
    return {machine.port for machine in seen.machines}
