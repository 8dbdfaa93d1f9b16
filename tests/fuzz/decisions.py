"""Hostile words to the decisions that ship, as a machine of the job may say them.

A root and a worker are brought where messages arrive; what a peer says goes through the
same checks as over a socket, and then to the decision. Whatever it was, the decision
returns, what it wants to be told can be encoded and read, and what is kept stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.agent import scenes, test_root as roots
from tests.agent.scenes import Scene
from tests.agent.test_root_guests import launched
from tests.fuzz import samples
from twinstep.agent import actions as do, messages as say
from twinstep.agent.arrivals import Arrivals
from twinstep.agent.border import refusal
from twinstep.agent.census import root_of, term_of
from twinstep.agent.kv import Item
from twinstep.agent.record import Plan, Recovery
from twinstep.agent.root import Root
from twinstep.agent.status import Status, status_of
from twinstep.config import Transfer
from twinstep.store.slots import State
from twinstep.transfer.frame import Fetch, Offer

STEP = 4
DIGEST = b"d" * 16
MESSAGES_MAX = 64
_to_root = msgspec.msgpack.Decoder(say.ToRoot)
_from_root = msgspec.msgpack.Decoder(say.FromRoot)
_to_worker = msgspec.msgpack.Decoder(Offer | Fetch | say.FromRank)
_several = msgspec.msgpack.Decoder(list[msgspec.Raw])


def each(data: bytes, decoder: msgspec.msgpack.Decoder[Any]) -> Iterable[Any]:
    """The messages of a list that the decoder lets in."""
    with contextlib.suppress(ValueError, RecursionError):
        for raw in _several.decode(data)[:MESSAGES_MAX]:
            with contextlib.suppress(ValueError, RecursionError):
                yield decoder.decode(raw)


# The root.


def a_root(number: int) -> Root:
    match number % 6:
        case 0:
            root = roots.new_root()
            root.joins(scenes.join("m0"))
            return root
        case 1:
            root = roots.new_root()
            for name in ("m0", "m1"):
                root.joins(scenes.join(name))
            return root
        case 2:
            return roots.loading()
        case 3:
            root = roots.training()
            root.now_s = 1e4
            root.tick()  # the ranks are looked at
            return root
        case 4:
            return launched()
        case _:
            root = roots.training()
            root.machine_lost("m0", "silent")
            return root


def tell_root(data: bytes) -> None:
    """The first byte says where the root stands, and who speaks: a member, a spare, or
    one that is not known."""
    first = data[0] if data else 0
    root, machine = a_root(first), ("m1", "s", "mad")[first // 6 % 3]
    for message in each(data[1:], _to_root):
        if refusal(message, machine=machine, grid=root.grid, round=root.round):
            return  # dropped
        root.now_s += 1.0
        _sound(root, root.hears(message))
        _sound(root, root.tick())
    if root.guests:
        for place, name in enumerate(("m0", "m1")):
            _sound(root, root.hears(scenes.inventory(name, place=place)))
    assert len(root.bad) + len(root.roster.joined) < 2 * MESSAGES_MAX
    status = msgspec.json.encode(status_of(root, machine="m0"))
    msgspec.json.decode(status, type=Status)
    _sound(root, root.machine_lost(machine, "dropped"))


def _sound(root: Root, actions: Iterable[Any]) -> None:
    """All that is to be said or saved can be read by whoever it is for."""
    for action in actions:
        match action:
            case do.TellAgent(message=message):
                raw = msgspec.msgpack.encode(message)
                assert _from_root.decode(raw) == message
            case do.SavePlan(plan=plan):
                found = msgspec.msgpack.decode(plan, type=Plan)
                assert len(found.members) in (0, root.grid.machines)
            case do.SaveRecovery(record=record):
                msgspec.json.decode(record, type=Recovery)
                assert len(record) < 1 << 20, "a value that the store would refuse"
            case _:
                pass


def told_roots() -> list[bytes]:
    several = [[one] for one in samples.TO_ROOT] + [
        samples.TO_ROOT,
        [*samples.TO_ROOT, samples.TO_ROOT[2]],
    ]
    return [
        bytes([first]) + msgspec.msgpack.encode(one)
        for first in range(6)
        for one in several
    ]


# A worker.


def a_worker(number: int) -> Scene:
    """Two machines that keep step 4: each has its own shard and the other's."""
    scene = Scene()
    for shard in (0, 1):
        scene.holds(shard, 0, STEP)
    if number % 3 == 0:
        return scene  # stopped
    sources = {0: ["m0", "m1"], 1: ["m0", "m1"]}
    scene.begins(scenes.begin(step=STEP, captured_in=1, sources=sources))
    scene.worker.from_rank(say.Hello(rank=0, round=1, pid=7))
    if number % 3 == 2:
        scene.captures(STEP + 1, keep=STEP)
    return scene


def tell_worker(data: bytes) -> None:
    """The first byte says where the worker stands."""
    scene = a_worker(data[0] if data else 0)
    limits = Transfer(streams_max=4, chunk_bytes=4096)
    worker, arrivals = scene.worker, Arrivals(scene.transit, limits=limits)
    coming: list[Offer] = []
    ranks_spoke = False
    for message in each(data[1:], _to_worker):
        match message:
            case Offer():
                if not arrivals.place(message):
                    coming.append(message)
                    arrivals.slot(message)
            case Fetch(shard=shard, step=step, captured_in=captured_in):
                scene.transit.serves(shard=shard, step=step, captured_in=captured_in)
            case _:
                ranks_spoke = True
                worker.from_rank(message)
        if len(coming) > 2:
            arrivals.part_done(coming.pop(0), DIGEST)
    for offer in coming:
        arrivals.part_done(offer, None if offer.step % 7 == 0 else DIGEST)
    if not worker.stopped and not ranks_spoke:
        for step in (STEP + 1, STEP + 2, STEP + 3):  # training goes on meanwhile
            scene.captures(step, keep=STEP)
            for shard, slot in [(0, 0), (0, 1)]:
                scene.transit.hashed(shard, slot, step, DIGEST)
    own = scene.table.slots[0]
    kept = [slot for slot in own if slot.step == STEP and slot.state is State.WHOLE]
    # A rank of the machine may say that its own copy is bad; a peer may not.
    assert kept or ranks_spoke, f"what is kept was given up: {own}"
    msgspec.msgpack.decode(msgspec.msgpack.encode(worker.held()), type=say.Held)


def told_workers() -> list[bytes]:
    offers = [
        Offer(
            job="job", machine="m1", round=1, term=1, shard=1, step=step, captured_in=1,
            keep=STEP, size=scenes.SIZE, chunk_bytes=4096, part=part, parts=2,
        )
        for step, part in ((5, 0), (5, 1), (6, 0))
    ]  # fmt: skip
    fetch = Fetch(job="job", machine="m1", round=1, term=1, shard=0, step=STEP)
    several: list[list[Any]] = [offers, [fetch], samples.FROM_RANK, [*offers, fetch]]
    several += [[one] for one in samples.FROM_RANK]
    return [
        bytes([first]) + msgspec.msgpack.encode(one)
        for first in range(3)
        for one in several
    ]


# What is read from the store.


def read_store(data: bytes) -> None:
    item = Item(value=data, created=1, changed=1)
    root = root_of(item)
    assert root is None or msgspec.json.decode(msgspec.json.encode(root)) is not None
    assert 0 <= term_of(item) <= 1 << 53
    with contextlib.suppress(ValueError, RecursionError):
        plan = msgspec.msgpack.decode(data, type=Plan)
        one = roots.new_root(term=2)
        if len(plan.members) in (0, one.grid.machines):
            _sound(one, one.elected(plan, alive={"m0"}))
            _sound(one, one.joins(scenes.join("m0")))


def store_values() -> list[bytes]:
    root = roots.training()
    plan = roots.plan_in(root.new_round("rank", "rank 0", "it died"))
    return [
        b'{"machine":"m0","host":"127.0.0.1","port":9,"term":3}',
        b"17",
        msgspec.msgpack.encode(plan),
    ]
