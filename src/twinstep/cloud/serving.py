"""Answers those who ask for machines: what is the same wherever machines come from.

A fleet starts and ends machines of one kind: processes of this computer (local.py),
actors of Ray (ray.py). `Serving` gives them names, answers each request once however
often it is seen, and says in the key-value store what lives. What was half done when
the store was away is done again from what the store says.

One thread makes all calls to the fleet: processes die with the thread that started
them (agent/lifeline.py).

Left out: memory of anything after the process that serves has gone. Machines end with
it, and so does the job.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import msgspec

from twinstep.agent.kv import Compacted, Delete, Item, KeyValueStore, Put, Watch, absent
from twinstep.clock import monotonic_s
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.cloud.requests import (
    ANSWERS,
    MACHINES,
    REQUESTS,
    RETURNS,
    ROOT,
    KeyValueOperator,
)
from twinstep.errors import DeadlinePassed, Refused, TwinstepError

LOOK_S = 0.05
"""How late a machine's end is noticed."""
REQUESTS_MAX = 10_000
"""Requests in one life of the operator; a job that asks for more is broken."""
_log = logging.getLogger(__name__)


class NoMachine(Refused):
    """A fleet has no machine to give, and says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A machine is on its way."""

    group: int = 0
    """Its process group, where it is local."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A machine has ended, and nothing of it is left where one can see."""

    name: str
    status: int
    """Its agent's, minus a signal."""
    reason: str
    group: int = 0


class Fleet(Protocol):
    """Machines of one kind. Four calls, all by the thread that serves: two that change
    what lives, one that looks, and the end of everything. None of them waits, but
    `close` until its own deadline."""

    def start(self, name: str) -> Started:
        """The machine `name` is on its way. Raises: NoMachine."""
        ...

    def kill(self, name: str) -> None:
        """The machine ends; `ended` tells when it has. No error if it had."""
        ...

    def ended(self) -> Sequence[Gone]:
        """Returns the machines that have ended since the last call."""
        ...

    def close(self) -> Sequence[str]:
        """Ends all machines; returns the names of those that are not gone in time."""
        ...


@final
class Serving:
    """An operator that answers requests from a fleet."""

    def __init__(
        self,
        store: KeyValueStore,
        fleet: Fleet,
        *,
        start_s_max: float = 10.0,
        stop_s_max: float = 10.0,
    ) -> None:
        """Args:
        start_s_max: machines that `start` asks for are answered within this time.
        stop_s_max: the fleet closes within this time."""
        self._store, self._fleet = store, fleet
        self._remote = KeyValueOperator(store)
        self._start_s_max, self._stop_s_max = start_s_max, stop_s_max
        self._living: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._given: dict[str, Answer] = {}
        self._unsaved: dict[str, Machine] = {}
        self._started = 0
        self._closed = threading.Event()
        self._left: Sequence[str] = ()
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
        until_s = monotonic_s() + self._start_s_max
        with contextlib.closing(watch):
            while True:
                answers = {name: self.answer(name) for name in requests}
                missing = [name for name, answer in answers.items() if answer is None]
                if not missing:
                    return [answer for answer in answers.values() if answer]
                if monotonic_s() >= until_s or not self._thread.is_alive():
                    raise DeadlinePassed(
                        f"the operator did not answer {', '.join(missing)} "
                        f"within {self._start_s_max} s"
                    )
                with contextlib.suppress(DeadlinePassed):  # ours is not over yet
                    watch.next(LOOK_S)

    def close(self) -> None:
        """No machine is left. Raises: DeadlinePassed naming those that are."""
        self._closed.set()
        self._thread.join(2 * self._stop_s_max)
        if self._left:
            raise DeadlinePassed(
                f"machines {', '.join(self._left)} were killed but are not gone after "
                f"{self._stop_s_max} s"
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
                    self._look()
                    self._save()
                except TwinstepError as error:
                    # What was half done is done again from what the store says.
                    if watch is not None:
                        watch.close()
                        watch = None
                    if not isinstance(error, Compacted) and not self._closed.is_set():
                        _log.warning("operator: %s", error)
                        self._closed.wait(LOOK_S)
        finally:
            # Whatever has happened, in this thread the machines must not outlive it.
            if watch is not None:
                watch.close()
            self._left = self._fleet.close()

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
                self._fleet.kill(machine)
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
        if len(self._given) >= REQUESTS_MAX:
            return Answer(
                machine="",
                reason=f"{len(self._given)} requests were made; at most {REQUESTS_MAX}",
            )
        name = f"m{self._started:02}"
        try:
            started = self._fleet.start(name)
        except NoMachine as refused:
            return Answer(machine="", reason=str(refused))
        self._started += 1
        self._living.add(name)
        self._unsaved[name] = Machine(
            name=name, state=LIVING, group=started.group, reason=reason
        )
        return Answer(machine=name)

    def _look(self) -> None:
        """Machines that have ended are said to have."""
        for gone in self._fleet.ended():
            self._living.discard(gone.name)
            self._unsaved[gone.name] = Machine(
                name=gone.name,
                state=ENDED,
                group=gone.group,
                status=gone.status,
                reason=self._reasons.pop(gone.name, gone.reason),
            )

    def _save(self) -> None:
        """What has changed of machines is in the store."""
        for name, machine in list(self._unsaved.items()):
            value = msgspec.msgpack.encode(machine)
            self._store.transact([Put(key=MACHINES + name, value=value)])
            del self._unsaved[name]
