"""Chooses who gives machines, by a word; what each needs is imported only for it."""

from __future__ import annotations

from typing import Protocol, final, runtime_checkable

from twinstep.agent.kv import KeyValueStore
from twinstep.cloud.operator import Answer, CloudOperator, Machine
from twinstep.cloud.requests import KeyValueOperator
from twinstep.config import Job
from twinstep.errors import ConfigError

OPERATORS = ("none", "store", "kubernetes", "slurm")


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


@runtime_checkable
class Closes(Protocol):
    """An operator that has something to do when its agent ends."""

    def close(self) -> None: ...


def operator_for(
    kind: str, *, store: KeyValueStore, name: str, machine: str, job: Job
) -> CloudOperator:
    """Returns what a root asks for machines.

    Args:
      store: answers by way of whoever serves requests there (cloud/serving.py): a
        launcher, or the driver of a Ray job.
      name: the job's name.
      machine: where this agent runs, by its name in the job.

    Raises: ConfigError."""
    match kind:
        case "none":
            return NoOperator()
        case "store":
            return KeyValueOperator(store)
        case "kubernetes":
            return _kubernetes(name, machine, job)
        case "slurm":
            from twinstep.cloud.slurm import SlurmOperator

            return SlurmOperator(
                store,
                name=name,
                machine=machine,
                address=job.store,
                settings=job.slurm,
            )
        case _:
            check_kind(kind)
            raise AssertionError(kind)


def _kubernetes(name: str, machine: str, job: Job) -> CloudOperator:
    try:
        from twinstep.cloud.kubernetes import KubernetesOperator
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the operator kubernetes needs the package {error.name}: "
            "pip install 'twinstep[kubernetes]'"
        ) from error
    return KubernetesOperator(job=name, machine=machine, settings=job.kubernetes)


def check_kind(kind: str) -> None:
    """Raises: ConfigError for an operator that is not known."""
    if kind not in OPERATORS:
        raise ConfigError(f"operator is {kind!r}; use one of {', '.join(OPERATORS)}")
