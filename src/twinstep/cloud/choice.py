"""Chooses who gives machines, by a word; what each needs is imported only for it."""

from __future__ import annotations

from typing import final

from twinstep.agent.kv import KeyValueStore
from twinstep.cloud.operator import Answer, CloudOperator, Machine
from twinstep.cloud.requests import KeyValueOperator
from twinstep.errors import ConfigError

OPERATORS = ("none", "store")


@final
class NoOperator:
    """Nobody gives machines: whoever is wanted joins by itself, started by people or
    by another launcher."""

    def ask(self, request: str, *, reason: str) -> None:
        pass

    def answer(self, request: str) -> Answer | None:
        return Answer(
            machine="",
            reason="this job has no operator: start another machine with `twinstep "
            "join`, or name an operator when the job is started",
        )

    def give_back(self, machine: str, *, reason: str) -> None:
        pass

    def machines(self) -> list[Machine]:
        return []


def operator_for(kind: str, *, store: KeyValueStore) -> CloudOperator:
    """Returns what a root asks for machines.

    `store` answers by way of whoever serves requests there (cloud/serving.py): a
    launcher, or the driver of a Ray job. Raises: ConfigError."""
    match kind:
        case "none":
            return NoOperator()
        case "store":
            return KeyValueOperator(store)
        case _:
            check_kind(kind)
            raise AssertionError(kind)


def check_kind(kind: str) -> None:
    """Raises: ConfigError for an operator that is not known."""
    if kind not in OPERATORS:
        raise ConfigError(f"operator is {kind!r}; use one of {', '.join(OPERATORS)}")
