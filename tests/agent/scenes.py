"""Messages and workers in the state that a test starts from, in one line each.

Two or three machines m0, m1, m2 with one rank each and two copies: rank 0's shard is
on m0 and m1, and so on round. All copies are 100 bytes.
"""

from __future__ import annotations

from typing import Any

from twinstep.agent import actions as do, messages as say
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.config import Storage
from twinstep.placement.strategy import place
from twinstep.store.slots import SlotTable
from twinstep.values import Grid

SIZE = 100


def member(name: str) -> say.Member:
    return say.Member(machine=name, host="127.0.0.1", port=1000)


def begin(
    *,
    step: int = 0,
    round: int = 1,
    term: int = 1,
    machines: int = 2,
    copies: int = 2,
    captured_in: int = 0,
    sources: dict[int, list[str]] | None = None,
    shared: bool = False,
    sizes: dict[int, int] | None = None,
) -> say.Begin:
    holders = place(machines, copies=copies).holders
    return say.Begin(
        round=round,
        term=term,
        step=step,
        captured_in=captured_in,
        members=[member(f"m{index}") for index in range(machines)],
        holders=[list(one) for one in holders],
        sources=sources or {},
        sizes=dict.fromkeys(range(machines), SIZE) if sizes is None else sizes,
        shared=shared,
        master_port=1,
        may_share=shared,
    )


def stop(*, round: int = 1, term: int = 1) -> say.Stop:
    return say.Stop(round=round, term=term, reason="a test")


def answer(
    step: int,
    *,
    keep: int = 0,
    capture: bool = True,
    round: int = 1,
    term: int = 1,
    store: int = 0,
) -> say.Answer:
    return say.Answer(
        round=round,
        term=term,
        step=step,
        at=step,
        keep=keep,
        capture=capture,
        store=store,
    )


def join(name: str, **changed: Any) -> say.Join:
    values: dict[str, Any] = {
        "machine": name,
        "host": "127.0.0.1",
        "port": 1000,
        "group": 1,
        "round": 0,
        "term": 0,
        "machine_rank": -1,
        "standby": False,
    }
    return say.Join(**(values | changed))


def copy(shard: int, step: int, *, captured_in: int = 1, digest: bytes = b"d"):
    return say.CopyInfo(
        shard=shard, step=step, captured_in=captured_in, digest=digest, size=SIZE
    )


def inventory(name: str, copies: Any = (), **changed: Any) -> say.Inventory:
    values: dict[str, Any] = {
        "machine": name,
        "round": 1,
        "term": 1,
        "copies": list(copies),
        "sizes": {one.shard: SIZE for one in copies},
        "reached": max((one.step for one in copies), default=0),
        "master_port": 29500,
    }
    return say.Inventory(**(values | changed))


def report(name: str, step: int, **changed: Any) -> say.Report:
    values: dict[str, Any] = {
        "machine": name,
        "round": 1,
        "term": 1,
        "step": step,
        "safe": [],
        "in_flight": False,
        "digests": {},
    }
    return say.Report(**(values | changed))


def of(actions: list[Any], kind: type) -> list[Any]:
    """The actions, or the messages told, of one kind."""
    told = [getattr(action, "message", action) for action in actions]
    return [one for one in told if isinstance(one, kind)]


def layout(rank: int = 0, *, round: int = 1, own_bytes: int = SIZE) -> say.Layout:
    return say.Layout(
        rank=rank, round=round, own_bytes=own_bytes, shared_bytes=0, shared_digest=b""
    )


class Scene:
    """A worker on machine m0, unless another is named, brought where a test begins."""

    def __init__(
        self,
        *,
        machine: str = "m0",
        machines: int = 2,
        ranks: int = 1,
        storage: Storage | None = None,
    ):
        self.grid = Grid(machines=machines, ranks_per_machine=ranks)
        self.worker = Worker(
            machine=machine,
            grid=self.grid,
            chunk_bytes=4096,
            retry_s=0.1,
            storage=storage or Storage(),
        )
        self.transit = Transit(worker=self.worker)

    @property
    def table(self) -> SlotTable:
        return self.worker.copies.table

    def holds(self, shard: int, slot: int, step: int, *, captured_in: int = 1) -> None:
        """A whole copy is in a slot from now on."""
        self.table.reserve(shard, size=SIZE)
        self.table.start(
            shard, slot, step=step, captured_in=captured_in, writer="a test"
        )
        self.table.whole(shard, slot, digests=f"{shard} {step}".encode())

    def stops(self, *, round: int = 1, term: int = 1) -> list[do.WorkerAction]:
        done = self.worker.from_root(stop(round=round, term=term))
        return done + self.worker.all_quiet(round, 29500)

    def begins(self, one: say.Begin) -> list[do.WorkerAction]:
        """From nothing to ranks that have slots."""
        done = self.stops(round=one.round, term=one.term)
        done += self.worker.from_root(one)
        for reserve in of(done, do.ReserveSlots):
            done += self.worker.reserved(reserve.sizes)
        return done

    def reaches(self, step: int) -> list[do.WorkerAction]:
        """All ranks of the machine stand at `step`."""
        done: list[do.WorkerAction] = []
        for rank in self.grid.ranks(self.worker.machine_rank):
            reached = say.Reached(rank=rank, round=self.worker.round, step=step)
            done += self.worker.from_rank(reached)
        return done

    def captures(
        self, step: int, *, keep: int = 0, digests: bytes = b"", laid: int = 0
    ) -> list[do.WorkerAction]:
        """Stands at `step`, is told to capture it, and has; told the digests, of a
        state that was laid out with so many bytes."""
        self.reaches(step)
        worker = self.worker
        for rank in self.grid.ranks(worker.machine_rank):
            worker.from_rank(layout(rank, round=worker.round))
        told = answer(step, keep=keep, round=worker.round, term=worker.term)
        done = worker.from_root(told)
        for rank in self.grid.ranks(worker.machine_rank):
            if laid:
                worker.vote.layouts[rank] = say.Layout(
                    rank=rank,
                    round=worker.round,
                    own_bytes=laid,
                    shared_bytes=0,
                    shared_digest=b"",
                )
            captured = say.Captured(
                rank=rank,
                round=worker.round,
                step=step,
                digests={rank: digests} if digests else {},
            )
            done += worker.from_rank(captured)
        return done

    def offered(self, shard: int, step: int, **changed: Any) -> tuple[int | None, str]:
        values: dict[str, Any] = {
            "round": self.worker.round,
            "term": self.worker.term,
            "shard": shard,
            "step": step,
            "captured_in": self.worker.round,
            "keep": 0,
            "size": SIZE,
            "sender": "m1",
            "replace": False,
        }
        return self.transit.offered(**(values | changed))
