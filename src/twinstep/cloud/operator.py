"""What a cluster asks of whoever gives it machines: four calls.

A request has a name that whoever asks chooses, and asking twice under one name is
asking once. A new root that finds a recovery half done can therefore ask again for
what the old one may have asked for, and gets one machine, not two. A refusal is an
answer too: who wants to try again later asks under another name. Nothing here waits:
an answer comes when it comes, and the deadline is the asker's
(`timing.machine_s_max`).

Left out: what a machine is. On one computer it is a process (local.py), elsewhere a
node of an allocation, a pod or an actor; each joins by the key-value store, as all do.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

LIVING = "living"
ENDED = "ended"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request. `machine` is empty when it was refused, and then
    `reason` says why; a machine that was given may still take long to join."""

    machine: str
    reason: str = ""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was given. `group` is its process group where it is local, for
    those who injure it on purpose; `status` is that of its agent, minus a signal."""

    name: str
    state: Literal["living", "ended"]
    group: int = 0
    status: int = 0
    reason: str = ""
    """Why it was asked for; when it has ended, why that was."""


class CloudOperator(Protocol):
    """Gives machines and takes them back. Four calls, since there are three things to
    say to a cloud and one to hear: more, please; no more of this one; and what is."""

    def ask(self, request: str, *, reason: str) -> None:
        """One machine more is wanted, once for each `request`.

        Raises: Refused, DeadlinePassed when it could not even be asked."""
        ...

    def answer(self, request: str) -> Answer | None:
        """Returns what became of a request; None while nothing has."""
        ...

    def give_back(self, machine: str, *, reason: str) -> None:
        """The machine is of no use any more, and will be ended. No error if it was."""
        ...

    def machines(self) -> list[Machine]:
        """Returns all machines that were given, ended ones too, by name."""
        ...
