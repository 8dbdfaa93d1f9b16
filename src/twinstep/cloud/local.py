"""Gives machines on one computer: each is an agent's process in a session of its own.

A machine is lost as a whole by one signal to its process group, which is what a test,
`inject` and `close` do. The launcher holds the `LocalOperator`; roots in other
processes speak with it through the key-value store (`KeyValueOperator`):

```
operator/requests/NAME   put by who asks, under its own name; never changed
operator/answers/NAME    put by the operator: the machine, or why there is none
operator/returns/MACHINE put by who gives a machine back; deleted when it was killed
operator/machines/NAME   put by the operator: what lives, with its group, and what not
```

One thread starts and reaps all machines, since they die with the thread that started
them (agent/lifeline.py): when the launcher is killed, they are. An agent that has
ended leaves no member of its group behind: the group is killed before its leader is
reaped, as its number is nobody else's until then.

Left out: other computers, and memory of anything after the launcher has gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import msgspec

from twinstep.agent.kv import (
    Compacted,
    Compare,
    Delete,
    Item,
    KeyValueStore,
    Put,
    Watch,
    absent,
)
from twinstep.agent.lifeline import tied
from twinstep.clock import monotonic_s
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.errors import ConfigError, DeadlinePassed, TwinstepError

ROOT = "operator/"
REQUESTS = f"{ROOT}requests/"
ANSWERS = f"{ROOT}answers/"
RETURNS = f"{ROOT}returns/"
MACHINES = f"{ROOT}machines/"
LOOK_S = 0.05
"""How late a machine's end is noticed."""
REQUESTS_MAX = 10_000
"""Requests in one life of the operator; a job that asks for more is broken."""
_answers = msgspec.msgpack.Decoder(Answer)
_machines = msgspec.msgpack.Decoder(Machine)
_log = logging.getLogger(__name__)


@final
class KeyValueOperator:
    """An operator in another process, spoken to through the key-value store."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self.fence: Sequence[Compare] = ()
        """What must hold, too, whenever a root asks for something: that it is root."""

    def ask(self, request: str, *, reason: str) -> None:
        key = REQUESTS + _name(request)
        put = Put(key=key, value=reason.encode())
        self._store.transact([put], when=[absent(key), *self.fence])

    def answer(self, request: str) -> Answer | None:
        key = ANSWERS + _name(request)
        item = self._store.get(key)[1].get(key)
        return _answers.decode(item.value) if item else None

    def give_back(self, machine: str, *, reason: str) -> None:
        key = RETURNS + _name(machine)
        self._store.transact([Put(key=key, value=reason.encode())], when=self.fence)

    def machines(self) -> list[Machine]:
        _, items = self._store.get(MACHINES)
        return [_machines.decode(item.value) for item in items.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operator on one computer may start, and how long it waits."""

    machines_max: int
    """Machines that live at the same time; one more is refused, with this number."""
    start_s_max: float = 10.0
    """A process is started within this time (its agent joins in its own time)."""
    stop_s_max: float = 10.0
    """Killed processes are gone and reaped within this time."""

    def __post_init__(self) -> None:
        if self.machines_max < 1:
            raise ConfigError(f"machines_max is {self.machines_max}; at least 1")


@final
class LocalOperator:
    """Starts machines on this computer, and answers those who ask for more.

    `command(name)` is the agent's command line. The agents' output goes where this
    process's goes, unless `output` names a descriptor."""

    def __init__(
        self,
        store: KeyValueStore,
        command: Callable[[str], Sequence[str]],
        *,
        limits: Limits,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        output: int | None = None,
    ) -> None:
        self._store = store
        self._remote = KeyValueOperator(store)
        self._command = command
        self._limits = limits
        self._environment = environment
        self._folder = folder
        self._output = output
        self._living: dict[str, subprocess.Popen[bytes]] = {}
        self._reasons: dict[str, str] = {}
        self._given: dict[str, Answer] = {}
        self._unsaved: dict[str, Machine] = {}
        self._started = 0
        # Held while a machine is reaped: until then its group's number is its own.
        self._reaping = threading.Lock()
        self._closed = threading.Event()
        self._left: list[str] = []
        self._thread = threading.Thread(
            target=self._run, name="twinstep-operator", daemon=True
        )
        self._thread.start()

    def ask(self, request: str, *, reason: str) -> None:
        self._remote.ask(request, reason=reason)

    def answer(self, request: str) -> Answer | None:
        return self._remote.answer(request)

    def give_back(self, machine: str, *, reason: str) -> None:
        self._remote.give_back(machine, reason=reason)

    def machines(self) -> list[Machine]:
        return self._remote.machines()

    def start(self, count: int, *, reason: str = "first start") -> list[Answer]:
        """Returns the answers to `count` requests, all of which have been answered.

        Raises: DeadlinePassed naming what was not."""
        revision, items = self._store.get(ANSWERS)
        watch = self._store.watch(ANSWERS, after=revision)
        requests = [f"start-{len(items)}-{number}" for number in range(count)]
        for request in requests:
            self.ask(request, reason=reason)
        until_s = monotonic_s() + self._limits.start_s_max
        answers: dict[str, Answer | None] = dict.fromkeys(requests)
        with contextlib.closing(watch):
            while True:
                answers = {name: self.answer(name) for name in requests}
                missing = [name for name, answer in answers.items() if answer is None]
                if not missing:
                    return [answer for answer in answers.values() if answer]
                if monotonic_s() >= until_s or not self._thread.is_alive():
                    raise DeadlinePassed(
                        f"the local operator did not answer {', '.join(missing)} "
                        f"within {self._limits.start_s_max} s"
                    )
                watch.next(LOOK_S)

    def kill(self, machine: str) -> None:
        """The machine's processes are killed; `machines` tells when it has ended."""
        with self._reaping:
            process = self._living.get(machine)
            if process is not None:
                _kill_group(process.pid)

    def close(self) -> None:
        """No machine is left. Raises: DeadlinePassed naming those that are."""
        self._closed.set()
        self._thread.join(2 * self._limits.stop_s_max)
        if self._left:
            raise DeadlinePassed(
                f"machines {', '.join(self._left)} were killed but are not gone after "
                f"{self._limits.stop_s_max} s"
            )

    def _run(self) -> None:
        watch: Watch | None = None
        try:
            while not self._closed.is_set():
                try:
                    if watch is None:
                        watch = self._catch_up()
                    for event in watch.next(LOOK_S):
                        if event.item is not None:
                            self._attend(event.key, event.item)
                    self._reap()
                    self._save()
                except TwinstepError as error:
                    # What was half done is done again from what the store says.
                    if watch is not None:
                        watch.close()
                        watch = None
                    if not isinstance(error, Compacted) and not self._closed.is_set():
                        _log.warning("local operator: %s", error)
                        self._closed.wait(LOOK_S)
        finally:
            # Whatever has happened, in this thread the machines must not outlive it.
            if watch is not None:
                watch.close()
            self._end_all()

    def _catch_up(self) -> Watch:
        revision, items = self._store.get(ROOT)
        for key, item in items.items():
            self._attend(key, item)
        return self._store.watch(ROOT, after=revision)

    def _attend(self, key: str, item: Item) -> None:
        if key.startswith(REQUESTS):
            self._give(key.removeprefix(REQUESTS), item.value.decode(errors="replace"))
        elif key.startswith(RETURNS):
            machine = key.removeprefix(RETURNS)
            if machine in self._living:
                self._reasons[machine] = item.value.decode(errors="replace")
                self.kill(machine)
            self._store.transact([Delete(key=key)])

    def _give(self, request: str, reason: str) -> None:
        """Answers a request, with the same answer however often it is seen."""
        if request not in self._given:
            self._given[request] = self._decide(reason)
        self._save()
        answer = self._given[request]
        key = ANSWERS + request
        self._store.transact(
            [Put(key=key, value=msgspec.msgpack.encode(answer))], when=[absent(key)]
        )

    def _decide(self, reason: str) -> Answer:
        living = len(self._living)
        if living >= self._limits.machines_max:
            return Answer(
                machine="",
                reason=f"{living} machines live on this computer; at most "
                f"{self._limits.machines_max}: give one back, or raise the limit",
            )
        if len(self._given) >= REQUESTS_MAX:
            return Answer(
                machine="",
                reason=f"{len(self._given)} requests were made; at most {REQUESTS_MAX}",
            )
        return self._start(reason)

    def _start(self, reason: str) -> Answer:
        name = f"m{self._started:02}"
        self._started += 1
        try:
            process = subprocess.Popen(
                tied(self._command(name), parent=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(machine="", reason=f"{name} cannot be started: {error}")
        self._living[name] = process
        self._unsaved[name] = Machine(
            name=name, state=LIVING, group=process.pid, reason=reason
        )
        return Answer(machine=name)

    def _reap(self) -> None:
        """Machines whose agent has ended are gone whole, and said to be."""
        for name, process in list(self._living.items()):
            if not _has_ended(process.pid):
                continue
            with self._reaping:
                status = _sweep(process)
                del self._living[name]
            reason = self._reasons.pop(name, f"its agent ended with {status}")
            self._unsaved[name] = Machine(
                name=name,
                state=ENDED,
                group=process.pid,
                status=status,
                reason=reason,
            )

    def _save(self) -> None:
        """What has changed of machines is in the store."""
        for name, machine in list(self._unsaved.items()):
            value = msgspec.msgpack.encode(machine)
            self._store.transact([Put(key=MACHINES + name, value=value)])
            del self._unsaved[name]

    def _end_all(self) -> None:
        for process in self._living.values():
            _kill_group(process.pid)
        until_s = monotonic_s() + self._limits.stop_s_max
        for name, process in self._living.items():
            if _has_ended(process.pid, max(0.0, until_s - monotonic_s())):
                _sweep(process)
            else:
                self._left.append(name)
        self._living.clear()


def _has_ended(pid: int, timeout_s: float = 0.0) -> bool:
    """Whether a child has ended; it is not reaped, and its number stays its own."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def _sweep(process: subprocess.Popen[bytes]) -> int:
    """Kills what is left of an ended leader's group, then reaps it. Returns its
    status."""
    _kill_group(process.pid)
    return process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _name(text: str) -> str:
    if not text or "/" in text:
        raise ConfigError(f"a name of a request or machine is {text!r}; no slash")
    return text
