"""What whoever starts a whole job does for it: keeps or opens its key-value store, and
waits until the root says how it ended."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress

import msgspec

from twinstep.agent import stores
from twinstep.agent.kv import Compacted, Delete, Item, KeyValueStore
from twinstep.agent.kv_server import serve
from twinstep.agent.seat import RESULT
from twinstep.cloud.description import published
from twinstep.cloud.operator import LIVING, CloudOperator
from twinstep.config import Job
from twinstep.errors import DeadlinePassed, TwinstepError, UsageError
from twinstep.telling import tell
from twinstep.trust.credentials import load

DELETES_MAX = 100  # etcd takes 128 operations in a transaction
LOOK_S = 0.2


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended."""

    status: int
    reason: str


def result_of(store: KeyValueStore) -> Result | None:
    """Returns how the job of a store ended, or None while it runs."""
    _, items = store.get(RESULT)
    item = items.get(RESULT)
    return msgspec.json.decode(item.value, type=Result) if item else None


@contextmanager
def job_store(
    job: Job, name: str, *, host: str = "127.0.0.1", port: int = 0
) -> Generator[tuple[str, KeyValueStore]]:
    """The job's key-value store and its address: the etcd that `job` names, else an
    embedded one on `host`. What the job put there is gone afterwards.

    Raises: UsageError when another job uses it."""
    if not job.store:
        credentials = load(job.trust)
        with closing(serve(host=host, port=port, credentials=credentials)) as server:
            yield server.address, server.store
        return
    address = stores.for_job(job.store, name)
    credentials = load(job.trust)
    with closing(stores.open_store(address, credentials=credentials)) as store:
        known = published(store)
        if known is not None:
            raise UsageError(
                f"the store at {address} is about job {known.name} already; end the "
                "address with another job's name, or with none"
            )
        try:
            yield address, store
        finally:
            with suppress(TwinstepError):
                _forget(store)


def _forget(store: KeyValueStore) -> None:
    """Deletes everything the job has put; leases end what is left."""
    _, items = store.get("")
    keys = list(items)
    for first in range(0, len(keys), DELETES_MAX):
        store.transact([Delete(key=key) for key in keys[first : first + DELETES_MAX]])


def wait_for_result(
    store: KeyValueStore, operator: CloudOperator, ended: Sequence[int] = ()
) -> int:
    """Waits until the root says that the job is over, somebody ends us (a signal is in
    `ended`), or no machine is left that could. Returns the status to exit with.

    A store that is away ends nothing: it is asked again while a machine lives."""
    item, told = None, False
    while item is None and not ended and _living(operator):
        try:
            item = _result_item(store, operator, ended)
        except Compacted:
            continue  # what was missed is in the store
        except DeadlinePassed as error:
            if not told:
                tell(f"twinstep: {error}; the machines train on without it", error=True)
            told = True
    if item is None and not ended:
        tell("twinstep: all machines have ended without a result", error=True)
        return 1
    if item is None:
        return 128 + ended[0]
    result = msgspec.json.decode(item.value)
    if result["status"]:
        tell(f"twinstep: the job ended: {result['reason']}", error=True)
    return int(result["status"])


def _result_item(
    store: KeyValueStore, operator: CloudOperator, ended: Sequence[int]
) -> Item | None:
    """Returns what the root put, or None if it will come no more.

    Raises: DeadlinePassed when the store is away, Compacted."""
    revision, items = store.get(RESULT)
    item = items.get(RESULT)
    with closing(store.watch(RESULT, after=revision)) as watch:
        while item is None and not ended and _living(operator):
            for event in watch.next(LOOK_S):
                item = event.item
    return item


def _living(operator: CloudOperator) -> bool:
    return any(machine.state == LIVING for machine in operator.machines())
