"""Keeps a process that has imported the frameworks, and forks ranks from it.

Importing torch takes seconds, forking a process that has imported it takes
milliseconds: after a failure that is the difference between a blink and a pause. The
warm process is run by `python -m twinstep.agent.warm`, started by ranks.py, and speaks
with its agent over a socket that keeps messages apart (SOCK_SEQPACKET).

```
agent                              warm process                     rank
  │                                   │ import torch
  │◄─────────────── Ready ────────────│
  │── Fork + stdout, stderr ─────────►│
  │                                   │── fork ─────────────────────►│
  │◄─────────────── Forked + pidfd ───│                              │ script.py
  │                                   │◄───────────── ends ──────────┘
  │◄─────────────── Exited ───────────│
```

A fork copies one thread; a lock that another held stays locked for ever. So the warm
process has one thread, waits in one poll, and computes nothing. OpenBLAS starts
threads when NumPy is imported, but ends them before a fork and starts them again when
needed; the threads are therefore counted after a trial fork. More than one left is
said in Ready, and the agent should then start ranks without it.

Nor is a GPU touched before a fork: importing torch does not, and `preload` must not.
The rank's parent is the warm process: when that dies, its ranks die (lifeline.py).
"""

from __future__ import annotations

import argparse
import array
import gc
import importlib
import importlib.util
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from twinstep.agent.lifeline import die_with_parent
from twinstep.agent.script import adopt, run_script, too_late
from twinstep.clock import monotonic_s
from twinstep.telling import tell

MESSAGE_BYTES_MAX = 128 * 1024
"""One message; the kernel's buffer for a Unix socket holds 208 KiB by default."""
RANKS_MAX = 256
"""Ranks that live at the same time."""
SEND_S_MAX = 10.0
"""The agent reads its messages within this time, or the warm process ends."""


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start a rank; its stdout and stderr come with the message, in this order.

    `environment` is added to what the warm process was started with. `request` comes
    back in the answer."""

    request: int
    script: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The modules are imported; `failed` tells why others that are installed are not.

    `threads` is how many threads a fork leaves behind, itself included: 1, or ranks
    had better be started otherwise."""

    modules: list[str]
    failed: dict[str, str]
    threads: int
    seconds: float


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The rank runs as `pid`; its pidfd, good for ever, comes with the message."""

    request: int
    pid: int


class Unable(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """No rank was started, and why."""

    request: int
    reason: str


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The rank is gone. `status` is its exit status, or minus the signal."""

    pid: int
    status: int


FromWarm: TypeAlias = Ready | Forked | Unable | Exited
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Fork)


def preload(names: Sequence[str]) -> Ready:
    """Returns what was imported; a module that is not installed is no matter."""
    began_s = monotonic_s()
    modules: list[str] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            if importlib.util.find_spec(name) is None:
                continue
            importlib.import_module(name)
            modules.append(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                failed[name] = f"{type(error).__name__}: {error}"
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    # Frozen objects are never visited by the collector, whose marks would copy every
    # page that parent and ranks share.
    gc.collect()
    gc.freeze()
    return Ready(
        modules=modules,
        failed=failed,
        threads=_threads_after_fork(),
        seconds=monotonic_s() - began_s,
    )


def _threads_after_fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))


class Forker:
    """The loop of the warm process. It returns in a rank only."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[int, int] = {}  # by pidfd
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self, ready: Ready) -> tuple[Fork, int, int]:
        """Returns, in a forked rank, what it shall be and its output's descriptors.

        Leaves the process when the agent is gone or speaks nonsense."""
        try:
            self._send(ready)
            while True:
                for descriptor, _ in self._poll.poll():
                    if descriptor in self._pids:
                        self._reap(descriptor)
                        continue
                    rank = self._attend()
                    if rank is not None:
                        return rank
        except (OSError, msgspec.MsgspecError) as error:
            tell(f"warm process ends: {error}", error=True)
        os._exit(1)  # the ranks are killed with it

    def _attend(self) -> tuple[Fork, int, int] | None:
        """Answers one message of the agent."""
        body, descriptors, flags, _ = socket.recv_fds(
            self._control, MESSAGE_BYTES_MAX, 4
        )
        if not body:
            os._exit(0)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) != 2:
            raise OSError(f"a message of {len(body)} bytes or more came in part")
        fork = _decoder.decode(body)
        reason = self._reason_against(fork)
        if reason is None:
            warm = os.getpid()
            try:
                pid = os.fork()
            except OSError as error:
                reason = f"fork: {error}"
            else:
                if pid == 0:
                    die_with_parent(warm)
                    self._leave_to_rank()
                    return fork, descriptors[0], descriptors[1]
                self._announce(fork.request, pid)
        if reason is not None:
            self._send(Unable(request=fork.request, reason=reason))
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _reason_against(self, fork: Fork) -> str | None:
        late = too_late(fork.environment)
        if late:
            return (
                f"{', '.join(late)} is read when a process starts, and differs from "
                "what the warm process was started with; give it to the warm process"
            )
        if len(self._pids) >= RANKS_MAX:
            return f"{len(self._pids)} ranks live already; at most {RANKS_MAX}"
        return None

    def _announce(self, request: int, pid: int) -> None:
        # Here, and not in the agent: only who reaps knows that the number is not
        # somebody else's by now.
        descriptor = os.pidfd_open(pid)
        self._pids[descriptor] = pid
        self._poll.register(descriptor, select.POLLIN)
        self._send(Forked(request=request, pid=pid), descriptor)

    def _reap(self, descriptor: int) -> None:
        pid = self._pids.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._send(Exited(pid=pid, status=os.waitstatus_to_exitcode(status)))

    def _send(self, message: FromWarm, *descriptors: int) -> None:
        self._control.settimeout(SEND_S_MAX)
        self._control.sendmsg(
            [_encoder.encode(message)],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            if descriptors
            else [],
        )

    def _leave_to_rank(self) -> None:
        """Nothing of the warm process stays open in the rank."""
        self._control.close()
        for descriptor in self._pids:
            os.close(descriptor)
        self._pids.clear()


def main(arguments: Sequence[str]) -> None:
    """Runs the warm process; in a rank, the script."""
    parser = argparse.ArgumentParser(prog="twinstep.agent.warm")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--preload", nargs="*", default=[])
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder it was started in, because of -m
    control = socket.socket(fileno=options.control)
    fork, stdout, stderr = Forker(control).run(preload(options.preload))
    adopt(
        environment=fork.environment,
        folder=fork.folder,
        stdout=stdout,
        stderr=stderr,
    )
    run_script(fork.script, fork.arguments)


if __name__ == "__main__":
    # The script takes the name __main__; this module keeps one that it can be found by.
    sys.modules["twinstep.agent.warm"] = sys.modules["__main__"]
    main(sys.argv[1:])
