"""What two machines with one rank each have of a step, in memory, as tests need it.

Each rank owns four rows of `own.weight`; both hold `model.weight` and `model.bias`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from twinstep.capture import manifest as manifests
from twinstep.capture.manifest import (
    Entry,
    StaticPart,
    encode_entries,
    read_manifest,
)
from twinstep.capture.plain import encode_plain
from twinstep.store.contents import Form, part_name
from twinstep.store.places import Place
from twinstep.store.writing import Holding, make_whole, write_part

HEAD_BYTES = 4096
OWN_BYTES = HEAD_BYTES + 48
SHARED_BYTES = 128
FRAMEWORKS: dict[Form, str] = {"dcp": "torch", "orbax": "jax"}


def entries(rank: int, machines: int) -> list[Entry]:
    def entry(name: str, dtype: str, shape: tuple[int, ...], at: int, size: int):
        return Entry(
            name=name,
            dtype=dtype,
            global_shape=shape,
            box_offsets=(0,) * len(shape),
            box_shape=shape,
            offset=at,
            size=size,
            region="shared",
        )

    own = Entry(
        name="own.weight",
        dtype="float32",
        global_shape=(4 * machines, 3),
        box_offsets=(4 * rank, 0),
        box_shape=(4, 3),
        offset=HEAD_BYTES,
        size=48,
        region="own",
    )
    return [
        own,
        entry("model.weight", "float32", (6, 4), 0, 96),
        entry("model.bias", "bfloat16", (5,), 96, 10),
    ]


def own_slot(
    rank: int, step: int, *, machines: int = 2, form: Form = "dcp"
) -> bytearray:
    """A slot of an own shard, with its manifest; the bytes tell step and rank."""
    static = StaticPart(
        head_bytes=HEAD_BYTES,
        own_bytes=OWN_BYTES,
        shared_bytes=SHARED_BYTES,
        entries=encode_entries(entries(rank, machines)),
    )
    values = encode_plain(
        {"others": {"rank": rank}, "framework": FRAMEWORKS[form]}, path="values"
    )
    slot = bytearray(OWN_BYTES)
    written = manifests.encode_manifest(static, step=step, values=values)
    manifests.write_head(memoryview(slot), written)
    slot[HEAD_BYTES:] = Random(f"own {step} {rank}").randbytes(48)
    return slot


def shared_slot(step: int) -> bytearray:
    return bytearray(Random(f"shared {step}").randbytes(SHARED_BYTES))


def holding(
    machine_rank: int,
    *,
    step: int = 12,
    captured_in: int = 1,
    machines: int = 2,
    form: Form = "dcp",
) -> Holding:
    slot = memoryview(own_slot(machine_rank, step, machines=machines, form=form))
    return Holding(
        step=step,
        captured_in=captured_in,
        machines=machines,
        ranks_per_machine=1,
        index=machine_rank,
        parts=machines,
        own={machine_rank: (read_manifest(slot), slot)},
        shared=[memoryview(shared_slot(step))],
        form=form,
    )


def name(machine_rank: int, *, round: int = 1) -> str:
    return part_name(round=round, term=1, machine_rank=machine_rank)


def write(
    place: Place,
    step: int,
    *,
    round: int = 1,
    of: Sequence[int] = (0, 1),
) -> None:
    """The parts of these machines are there."""
    for rank in of:
        part = holding(rank, step=step, captured_in=round)
        write_part(place, part, name=name(rank, round=round), now_s=5.0)


def write_step(place: Place, step: int, *, round: int = 1) -> None:
    """A whole step is there."""
    write(place, step, round=round)
    names = [name(rank, round=round) for rank in (0, 1)]
    make_whole(place, step=step, names=names)
