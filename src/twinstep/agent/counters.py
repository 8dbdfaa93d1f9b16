"""What the machine's network interface has sent and received, about every millisecond.

Where nobody sees training's collectives (schedule/pulse.py), the interface still counts
their bytes. The agent samples it while it profiles, in a thread that runs only then,
and schedule/profile.py makes busy pieces of a step of the samples.

/proc/net/dev is kept open and read again, which tells of the network namespace that the
agent is in; /sys/class/net may be the host's in a container. The kernel writes a line
for each interface at each read: hundreds of them cost more than the one that is wanted,
which the statistics show.

Which interface: the one that has the address at which this agent is reached, loopback
included; for 0.0.0.0 that of the default route.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from twinstep import clock
from twinstep.errors import ConfigError, ProtocolError
from twinstep.schedule.profile import Sample

INTERVAL_S = 0.001
SAMPLES_MAX = 60_000
"""A minute of them: 20 steps of 3 s. The oldest are forgotten first."""
INTERFACES_BYTES_MAX = 1 << 20
"""Some 8,000 interfaces."""
JOIN_S_MAX = 1.0

_SIOCGIFCONF = 0x8912
_ADDRESSES_MAX = 1024
_REQUEST = struct.Struct("16s16s8x")  # struct ifreq: a name, a socket's address
_PROC = Path("/proc/thread-self/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What sampling was and cost so far."""

    samples: int
    seconds: float
    processor_s: float
    """Time on a core. processor_s / seconds is the share of one."""
    failure: str
    """Why it ended by itself; empty when it did not."""


@final
class Counters:
    """Samples one interface, between start() and stop()."""

    def __init__(
        self,
        interface: str,
        own_bytes: Callable[[], int],
        *,
        interval_s: float = INTERVAL_S,
        samples_max: int = SAMPLES_MAX,
    ) -> None:
        """`own_bytes` tells what the agent itself has sent and received; it is called
        in the sampling thread, and should take microseconds."""
        self.interface = interface
        self._own_bytes, self._interval_s = own_bytes, interval_s
        self._samples: deque[Sample] = deque(maxlen=samples_max)
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._taken = 0
        self._seconds = self._processor_s = 0.0
        self._failure = ""

    def start(self) -> None:
        """Samples are taken from now on. Nothing new where they already are."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._ends = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(
            target=self._run, args=(self._ends,), name="twinstep-counters", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """No sample is taken any more; those that were stay. Safe to repeat."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(timeout=JOIN_S_MAX)
            self._thread = None

    def since(self, at_s: float) -> list[Sample]:
        """Returns the samples after a time, in order; cheap where they are few."""
        found: list[Sample] = []
        with self._lock:
            for sample in reversed(self._samples):
                if sample.at_s <= at_s:
                    break
                found.append(sample)
        return found[::-1]

    def samples(self) -> tuple[Sample, ...]:
        """Returns the last samples, by time."""
        with self._lock:
            return tuple(self._samples)

    def statistics(self) -> Sampled:
        return Sampled(
            samples=self._taken,
            seconds=self._seconds,
            processor_s=self._processor_s,
            failure=self._failure,
        )

    def _run(self, ends: threading.Event) -> None:
        began_s, worked_s = clock.monotonic_s(), time.thread_time()
        seconds, processor_s = self._seconds, self._processor_s
        try:
            reading = _Reading(self.interface)
            try:
                while not ends.is_set():
                    at_s = clock.monotonic_s()
                    sent, received = reading.take()
                    sample = Sample(at_s, sent, received, self._own_bytes())
                    with self._lock:
                        self._samples.append(sample)
                    self._taken += 1
                    self._seconds = seconds + at_s - began_s
                    self._processor_s = processor_s + time.thread_time() - worked_s
                    # Not ends.wait(): with a timeout it costs several times as much.
                    time.sleep(self._interval_s)
            finally:
                reading.close()
        except (OSError, ProtocolError) as error:
            self._failure = str(error)


class _Reading:
    """The kernel's table of interfaces, held open, of the thread that opened it."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        name = re.escape(interface).encode()
        # Sixteen numbers: bytes are the first received one and the first sent one.
        self._line = re.compile(rb"(?m)^ *" + name + rb": *(\d+)(?: +\d+){7} +(\d+) ")
        self._file = os.open(_PROC / "dev", os.O_RDONLY | os.O_CLOEXEC)

    def take(self) -> tuple[int, int]:
        """Returns bytes sent and received. Raises: ProtocolError when it is gone."""
        table = b""
        while len(table) < INTERFACES_BYTES_MAX:
            part = os.pread(self._file, 64 * 1024, len(table))
            table += part  # whole lines, a page of the kernel's at a time
            found = self._line.search(table)
            if found is not None:
                return int(found[2]), int(found[1])
            if not part:
                break
        raise ProtocolError(f"there is no network interface {self._interface!r} here")

    def close(self) -> None:
        os.close(self._file)


def interface_of(host: str) -> str:
    """Returns the name of the interface that `host` is an address of.

    Raises: ConfigError when this machine has no such address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{host!r} is no address of this machine: {error}") from error
    named = _addresses()
    for _, _, _, _, address in found:
        wanted = ipaddress.ip_address(str(address[0]).split("%")[0])
        if wanted.is_unspecified:
            return _of_default_route()
        if wanted in named:
            return named[wanted]
        if wanted.is_loopback:
            return "lo"  # all of 127.0.0.0/8 is, whether it is listed or not
    raise ConfigError(
        f"no network interface of this machine has the address {host}; it has "
        + ", ".join(f"{address} ({name})" for address, name in named.items())
    )


def _addresses() -> dict[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
    """Interfaces by address, further addresses of an interface included."""
    named: dict[ipaddress.IPv4Address | ipaddress.IPv6Address, str] = {}
    room = array.array("B", bytes(_ADDRESSES_MAX * _REQUEST.size))
    start, size = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFCONF, struct.pack("@iP", size, start))
    filled, _ = struct.unpack("@iP", answer)
    for name, address in _REQUEST.iter_unpack(room.tobytes()[:filled]):
        label = name.split(b"\0")[0].decode()  # eth0:1 is a further address of eth0
        named[ipaddress.IPv4Address(address[4:8])] = label.split(":")[0]
    try:
        lines = (_PROC / "if_inet6").read_text().splitlines()
    except FileNotFoundError:
        lines = []  # a kernel without IPv6
    for address, *_, name in map(str.split, lines):
        named[ipaddress.IPv6Address(bytes.fromhex(address))] = name
    return named


def _of_default_route() -> str:
    for line in (_PROC / "route").read_text().splitlines()[1:]:
        name, target, *_, mask = line.split()[:8]
        if int(target, 16) == int(mask, 16) == 0:
            return name
    raise ConfigError(
        "the agent listens at every address and the machine has no default route; "
        "give the address at which other machines reach it"
    )
