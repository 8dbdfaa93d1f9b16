"""Hosts on one computer: network namespaces, joined by a switch in one of its own.

```
  host 1          host 2          host 3           each: eth0, own processes,
  10.77.0.1       10.77.0.2       10.77.0.3              own /dev/shm, name hN
      │ h1            │ h2            │ h3
  ┌───┴───────────────┴───────────────┴───┐
  │ switch: bridge br0, 10.77.0.254       │         nftables: what is wrong (links.py)
  └───────────────────────────────────────┘
```

Namespaces have no names: each is held by a descriptor of this process, and is gone
with it, however this process ends. So runs side by side cannot meet, nothing of the
computer's own network is touched, and there is nothing to clean up. Addresses of
neighbours are fixed: that a broadcast was lost is no failure of what is tested here.
There is no way out, so that a name which nobody knows is not asked for elsewhere.

Needs root, Linux, and the commands of COMMANDS; `missing` tells what is not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self, final

from twinstep.demo.hosts.links import Links, port, relayed
from twinstep.demo.hosts.rates import shaping
from twinstep.demo.hosts.relay import Wrong
from twinstep.errors import UsageError

COMMANDS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "tc": "iproute2",
    "unshare": "util-linux",
}
"""What is called, and the Debian package that has it."""
NET = "10.77.0"
SWITCH = 254
HOSTS_MAX = 100
SEGMENTS_MAX = 8
"""Segments that pass a cable as one, 12 kB: with one, TCP is half as fast, and with the
kernel's own 64 kB a lost packet would be a large one."""
COMMAND_S_MAX = 20.0
SHARED_MEMORY = "4g"
"""Bound of a host's /dev/shm; nothing is taken before it is used."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
# What a host does before it becomes the command: its name, the names of the others
# (and nobody else's: torch looks up who connects to it, and where no server answers
# that takes ten seconds), and shared memory that goes with it.
_BOOT = (
    'hostname "$1" && mount --bind "$2" /etc/hosts && '
    'mount --bind "$2.only" /etc/nsswitch.conf && '
    f"mount -t tmpfs -o size={SHARED_MEMORY} tmpfs /dev/shm && "
    'shift 2 && exec "$@"'
)


def missing() -> str:
    """Returns why there can be no hosts here; "" if there can."""
    if sys.platform != "linux":
        return "hosts are network namespaces, which only Linux has"
    if os.geteuid() != 0:
        return "hosts are network namespaces, which only root may make"
    lack = {name: package for name, package in COMMANDS.items() if not _has(name)}
    if lack:
        return (
            f"hosts need the commands {', '.join(lack)}; "
            f"install {', '.join(sorted(set(lack.values())))}"
        )
    return _refused()


def _has(command: str) -> bool:
    return shutil.which(command) is not None


def _refused() -> str:
    """A container's root may still be refused: seen only by trying."""
    try:
        with Network(1) as network:
            network.set(Links().but_lossy(1, 0.5))
    except (UsageError, OSError) as error:
        return f"hosts cannot be made here: {error}"
    return ""


@final
class Network:
    """Hosts 1 to `count`, others by their numbers, and the switch, until `close`.

    Raises: UsageError with what the kernel refused."""

    def __init__(self, count: int, *others: int) -> None:
        self.hosts = (*range(1, count + 1), *others)
        assert 1 <= len(self.hosts) <= HOSTS_MAX, self.hosts
        assert len({*self.hosts, 0, SWITCH}) == len(self.hosts) + 2, self.hosts
        self.links = Links()
        self._folder = Path(tempfile.mkdtemp(prefix="twinstep-hosts-"))
        self._names = self._folder / "hosts"
        lines = [f"{self.address(host)} h{host}" for host in self.hosts]
        lines += ["127.0.0.1 localhost", f"{self.address(SWITCH)} switch"]
        self._names.write_text("\n".join(lines) + "\n")
        self._names.with_suffix(".only").write_text("passwd: files\nhosts: files\n")
        self._spaces: dict[int, int] = {}
        self._relays: dict[int, subprocess.Popen[bytes]] = {}
        self._limited: set[int] = set()
        try:
            for host in (SWITCH, *self.hosts):
                self._spaces[host] = _new_namespace()
            self._join()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def address(host: int) -> str:
        return f"{NET}.{host}"

    def close(self) -> None:
        """The hosts are gone as soon as nothing runs on them."""
        for host in list(self._relays):
            with contextlib.suppress(UsageError):
                self.unrelay(host)
        for descriptor in self._spaces.values():
            os.close(descriptor)
        self._spaces.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    # Where commands run.

    def at(self, host: int, command: Sequence[str]) -> list[str]:
        """Returns a command that runs `command` in a host's network, or the switch's,
        and shares all else with this process."""
        return ["nsenter", f"--net={self._path(host)}", *command]

    def machine(self, host: int, command: Sequence[str]) -> list[str]:
        """Returns a command that runs `command` as all that a host does.

        SIGKILL to its process is a power failure: whatever ran there, and the host's
        shared memory, is gone at once."""
        apart = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        apart += ["--mount", "--uts", "--ipc"]
        boot = ["sh", "-c", _BOOT, "sh", port(host), str(self._names)]
        return self.at(host, [*apart, *boot, *command])

    @contextlib.contextmanager
    def entered(self, host: int = SWITCH) -> Generator[None]:
        """The calling thread, and the threads and processes it starts, have a host's
        network or the switch's."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_libc.setns, self._spaces[host], _CLONE_NEWNET)
            try:
                yield
            finally:
                _call(_libc.setns, own, _CLONE_NEWNET)
        finally:
            os.close(own)

    # What is wrong.

    def set(self, links: Links) -> None:
        """From now on the links are so."""
        self._run(SWITCH, ["nft", "-f", "-"], links.rules())
        self.links = links

    def relay(self, host: int, wrong: Wrong) -> None:
        """Whatever passes a host's cable is treated so, in each direction."""
        assert host not in self._relays, host
        own, stand_in, far = port(host), relayed(host), f"r{host}"
        self._ip(
            SWITCH,
            f"link add {stand_in} type veth peer name {far}",
            f"link set {own} nomaster",
            f"link set {stand_in} master br0",
            f"link set {stand_in} up",
            f"link set {far} up",
        )
        script = str(Path(__file__).with_name("relay.py"))
        command = [sys.executable, "-I", "-S", script, own, far]
        self._relays[host] = subprocess.Popen(
            self.at(SWITCH, [*command, json.dumps(asdict(wrong))]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def unrelay(self, host: int) -> int:
        """The cable is as it was; what was on its way is lost. Returns how many frames
        were changed, came twice or were overtaken. Raises: UsageError when the relay
        had ended before."""
        relay = self._relays.pop(host)
        said, _ = relay.communicate(timeout=COMMAND_S_MAX)
        self._ip(
            SWITCH,
            f"link del {relayed(host)}",
            f"link set {port(host)} master br0",
        )
        if not said:
            raise UsageError(f"the relay of host {host} ended by itself, see above")
        return int(said)

    def limit(self, host: int, bits_per_s: int, *, bands: bool = False) -> None:
        """A host's cable carries so much in each direction from now on, frames and
        their heads together; what a socket gets of it is 4 or 5 % less.

        `bands`: frames of a low SO_PRIORITY let the host's others go first.
        Raises: UsageError when the kernel has no htb."""
        anew = host in self._limited
        own, far = shaping("eth0", bits_per_s, bands=bands, anew=anew), port(host)
        self._run(host, ["tc", "-batch", "-"], "\n".join(own) + "\n")
        lines = shaping(far, bits_per_s, bands=False, anew=anew)
        self._run(SWITCH, ["tc", "-batch", "-"], "\n".join(lines) + "\n")
        self._limited.add(host)

    # How it is made.

    def _join(self) -> None:
        lines = ["link set lo up", "link add br0 type bridge"]
        lines += [f"link set br0 address {_mac(SWITCH)}", "link set br0 up"]
        lines.append(f"addr add {self.address(SWITCH)}/24 dev br0")
        for host in self.hosts:
            lines += [
                f"link add {port(host)} type veth peer name eth0 address {_mac(host)} "
                f"netns {self._path(host)}",
                f"link set {port(host)} master br0",
                f"link set {port(host)} gso_max_segs {SEGMENTS_MAX}",
                f"link set {port(host)} up",
            ]
        places = (*self.hosts, SWITCH)
        neighbours = {
            host: f"neigh replace {self.address(host)} lladdr {_mac(host)} "
            "nud permanent dev "
            for host in places
        }
        lines += [neighbours[host] + "br0" for host in self.hosts]
        self._ip(SWITCH, *lines)
        for host in self.hosts:
            others = [neighbours[other] + "eth0" for other in places if other != host]
            self._ip(
                host,
                "link set lo up",
                f"link set eth0 gso_max_segs {SEGMENTS_MAX}",
                f"addr add {self.address(host)}/24 dev eth0",
                "link set eth0 up",
                *others,
            )

    def _ip(self, host: int, *lines: str) -> None:
        self._run(host, ["ip", "-batch", "-"], "\n".join(lines) + "\n")

    def _run(self, host: int, command: list[str], text: str) -> None:
        done = subprocess.run(
            self.at(host, command),
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
        )
        if done.returncode:
            raise UsageError(
                f"{' '.join(command)} at {port(host)} ended with {done.returncode}: "
                f"{done.stderr.strip()}; it was told:\n{text}"
            )

    def _path(self, host: int) -> str:
        return f"/proc/{os.getpid()}/fd/{self._spaces[host]}"


def _mac(host: int) -> str:
    return f"02:00:00:00:00:{host:02x}"


def _new_namespace() -> int:
    """Returns a descriptor of a new network namespace. Raises: UsageError."""
    made: list[int] = []
    refused: list[OSError] = []

    def make() -> None:
        # In a thread of its own, which leaves its network behind when it ends.
        try:
            _call(_libc.unshare, _CLONE_NEWNET)
            path = "/proc/thread-self/ns/net"
            made.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            refused.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if refused:
        raise UsageError(f"no network namespace can be made: {refused[0]}")
    return made[0]


def _call(function: ctypes._NamedFuncPointer, *arguments: int) -> None:  # pyright: ignore[reportPrivateUsage]
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
