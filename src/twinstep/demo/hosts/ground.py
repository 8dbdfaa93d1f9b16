"""A job whose machines join by themselves, each on a host of its own.

```
  host 1    host 2  ..  host 5     host 6 ..         host 101  102  103
  m00       m01         m04        replacements      etcd's members
     └─────────┴───────────┴───────────┴────────────────┴──────┴────┘
                  switch: this process; the embedded store
```

Machines are started by `twinstep join`; a root's request for one more is answered
here, with the next host. A lost host never comes back, but one that was only cut off
does: its agent lives, and finds that others have gone on without it. So whoever gives
machines back cannot end those: behind a cut link nobody could. This process's own
network is the switch's while the job runs.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, final

import msgspec

from twinstep import environment, jobs
from twinstep.agent.lifeline import tied
from twinstep.agent.status import Status
from twinstep.agent.stores import open_store
from twinstep.cloud.local import Limits as FleetLimits, LocalFleet
from twinstep.cloud.operator import LIVING
from twinstep.cloud.serving import Gone, Serving, Started
from twinstep.config import Trust
from twinstep.demo.ground import CONFIG, KINDS_OF_STORE, Work
from twinstep.demo.hosts.clocks import make_clock, set_clock
from twinstep.demo.hosts.disks import on_disk
from twinstep.demo.hosts.groups import MemoryGroup, new_group
from twinstep.demo.hosts.members import Members, Place
from twinstep.demo.hosts.network import SWITCH, Network, missing
from twinstep.errors import UsageError
from twinstep.trust.credentials import load

STORE_PORT = 4711
FIRST_ETCD = 101
ZOMBIES_MAX = 60
OWN = frozenset({"clocks", "memory", "disk"})
"""What a machine may have of its own beside its network."""
CLOCKS_S = (0.0, 3600.0, -3600.0)
"""Where clocks are wrong, every third is right, an hour ahead, an hour behind."""


@final
class Reach:
    """A fleet whose machines can be ended only while nothing is between."""

    def __init__(self, fleet: LocalFleet) -> None:
        self._fleet = fleet
        self.groups: dict[str, int] = {}
        self.lost: set[str] = set()

    def start(self, name: str) -> Started:
        started = self._fleet.start(name)
        self.groups[name] = started.group
        return started

    def kill(self, name: str) -> None:
        if name not in self.lost:
            self._fleet.kill(name)

    def ended(self) -> Sequence[Gone]:
        return self._fleet.ended()

    def close(self) -> Sequence[str]:
        return self._fleet.close()


@final
class Hosts:
    """Hosts for one job. Raises: UsageError when there can be none here."""

    def __init__(
        self,
        *,
        kv: str = "embedded",
        replacements: int,
        own: Collection[str] = (),
        settings: Path = CONFIG,
    ) -> None:
        """`own` is some of OWN; clocks are wrong then."""
        why_not = missing()
        if why_not:
            raise UsageError(why_not)
        self._own = frozenset(own)
        self._groups: dict[str, MemoryGroup] = {}
        self._kv, self._replacements = kv, replacements
        self._settings = settings
        self._stack = ExitStack()
        self.network: Network | None = None
        self.etcd: Members | None = None
        self._ahead_s: dict[str, float] = {}
        self._address = ""
        self._trust = Trust()

    def start(self, work: Work, folder: Path, log: IO[bytes]) -> None:
        members = KINDS_OF_STORE[self._kv]
        first = work.machines + work.standbys
        self._folder = folder
        # Short, since paths of sockets are bounded.
        there = tempfile.TemporaryDirectory(prefix="twinstep-hosts-")
        self._sockets = Path(self._stack.enter_context(there))
        etcd_hosts = range(FIRST_ETCD, FIRST_ETCD + members)
        self.network = Network(first + self._replacements, *etcd_hosts)
        self._stack.callback(self.network.close)
        self._stack.enter_context(self.network.entered())
        self._config = self._write_config()
        self._address = self._start_store(etcd_hosts)
        credentials = load(self._trust)
        store = open_store(self._address, credentials=credentials)
        self._stack.enter_context(closing(store))
        # Ours, since machines are started for as long as the job runs.
        own_log = self._stack.enter_context(os.fdopen(os.dup(log.fileno()), "wb"))
        fleet = LocalFleet(
            lambda name: self._join(name, work),
            limits=FleetLimits(machines_max=first + ZOMBIES_MAX),
            environment=environment.inherited() | environment.start_settings(1),
            output=own_log.fileno(),
        )
        self._reach = Reach(fleet)
        # What is entered here is left after the machines have been ended.
        self._stack.callback(self._leave_groups)
        self._serving = Serving(store, self._reach)
        self._stack.callback(self._serving.close)
        self._store = store
        self._serving.start(first)

    def _write_config(self) -> Path:
        token = self._sockets / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._trust = Trust(token_file=str(token))
        config = self._sockets / "config.toml"
        words = f'\n[trust]\ntoken_file = "{token}"\n'
        config.write_text(self._settings.read_text() + words)
        return config

    def _start_store(self, hosts: Sequence[int]) -> str:
        """Returns the address of a store that answers."""
        network = self.network
        assert network is not None
        if hosts:
            places = [
                Place(
                    host=network.address(host),
                    where=partial(network.at, host),
                )
                for host in hosts
            ]
            self.etcd = Members(places, self._folder / "etcd")
            self._stack.callback(self.etcd.close)
            self.etcd.ready()
            return f"etcd://{self.etcd.endpoints}/{self._folder.name}"
        host = network.address(SWITCH)
        command = [sys.executable, "-m", "twinstep", "store", "--host", host]
        command += ["--port", str(STORE_PORT), "--config", str(self._config)]
        process = subprocess.Popen(
            tied(command, parent=os.getpid()), stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        assert process.stdout is not None
        if "is at" not in (line := process.stdout.readline()):
            raise UsageError(f"the key-value store did not start: {line!r}")
        return f"{host}:{STORE_PORT}"

    def _join(self, name: str, work: Work) -> list[str]:
        """The command that is all of a machine."""
        assert self.network is not None
        number, host = int(name.removeprefix("m")), self.host_of(name)
        if host not in self.network.hosts:
            raise OSError(f"all {len(self.network.hosts)} hosts have been used")
        settings = ["env", "GLOO_SOCKET_IFNAME=eth0"]
        if "clocks" in self._own:
            self._ahead_s[name] = CLOCKS_S[number % len(CLOCKS_S)]
            make_clock(self._clock(name), self._ahead_s[name])
            path = environment.inherited().get("PYTHONPATH", "")
            settings.append(f"PYTHONPATH={self._clock(name)}:{path}")
        command = [*settings, sys.executable, "-m", "twinstep", "join"]
        command += ["--store", self._address, "--machine", name, "--operator", "store"]
        command += ["--host", self.network.address(host)]
        command += ["--config", str(self._config), "--job", str(self._sockets / name)]
        command += ["--machines", str(work.machines), "--copies", str(work.copies)]
        if work.machines <= number < work.machines + work.standbys:
            command.append("--standby")
        command += work.command
        if "disk" in self._own:
            command = on_disk(self._sockets / name, command)
        command = self.network.machine(host, command)
        if "memory" in self._own:
            group = new_group(f"twinstep-{os.getpid()}-{name}")
            self._groups[name] = group
            command = group.inside(command)
        return command

    def _clock(self, name: str) -> Path:
        return self._sockets / f"clock-{name}"

    def view(self) -> jobs.JobView | None:
        try:
            return jobs.JobView(self._address, trust=self._trust)
        except UsageError:
            return None  # no machine has joined yet

    def exit_status(self) -> int | None:
        machines = self._serving.machines()
        living = {m.name for m in machines if m.state == LIVING} - self._reach.lost
        if not machines or living:
            return None
        result = jobs.result_of(self._store)
        return 1 if result is None else result.status

    def outside(self, status: Status) -> Status:
        machines = [
            msgspec.structs.replace(
                machine,
                group=(group := self._reach.groups[machine.machine]),
                ranks=_outside(group, machine.ranks),
            )
            for machine in status.machines
        ]
        return msgspec.structs.replace(status, machines=machines)

    def host_of(self, machine: str) -> int:
        return int(machine.removeprefix("m")) + 1

    def out_of_reach(self, machine: str) -> None:
        self._reach.lost.add(machine)

    def shift_clock(self, machine: str, seconds: float) -> None:
        set_clock(self._clock(machine), self._ahead_s[machine] + seconds)

    def memory_of(self, machine: str) -> MemoryGroup:
        return self._groups[machine]

    def disk_of(self, machine: str) -> Path:
        # As the machine sees it: the disk is mounted there only.
        own = Path(f"/proc/{self._reach.groups[machine]}/root")
        return own / (self._sockets / machine).relative_to("/")

    def _leave_groups(self) -> None:
        for group in self._groups.values():
            group.close()

    def clock_ahead_s(self, machine: str) -> float:
        return self._ahead_s.get(machine, 0.0)

    def close(self, *, limit_s: float) -> None:
        self._stack.close()


def _outside(group: int, ranks: dict[int, int]) -> dict[int, int]:
    """Returns the ranks' processes as they are numbered here, from how they are
    numbered on their host. Those that are gone are left out."""
    try:
        space = os.readlink(f"/proc/{group}/ns/pid_for_children")
    except OSError:
        return {}
    numbers: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/pid") != space:
                continue
            found = re.search(r"^NSpid:\s+(.+)$", (path / "status").read_text(), re.M)
        except OSError:
            continue  # it has ended in between
        if found:
            words = found.group(1).split()
            numbers[int(words[-1])] = int(words[0])
    return {rank: numbers[pid] for rank, pid in ranks.items() if pid in numbers}
