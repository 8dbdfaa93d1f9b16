"""Valid inputs of every reader, from which hostile ones are made."""

from __future__ import annotations

from typing import Any

import msgspec

from twinstep.agent import kv, kv_wire, messages as say
from twinstep.capture import manifest
from twinstep.capture.plain import encode_plain
from twinstep.transfer import frame
from twinstep.trust.handshake import Role, TokenClient
from twinstep.trust.sealed import GcmSeal
from twinstep.trust.tls import TlsHandshake

COPY = {"job": "job", "machine": "m1", "round": 1, "term": 1, "shard": 1, "step": 4}
FROM = {"machine": "m1", "round": 1, "term": 1}
CUT = {"size": 100, "chunk_bytes": 4096}

DATA: list[msgspec.Struct] = [
    frame.Offer(**COPY, **CUT, captured_in=1, keep=2, part=1, parts=2),
    frame.Fetch(**COPY, captured_in=1, parts=2),
    frame.Accepted(),
    frame.Told(first=3, count=64),
    frame.Lacks(first=3),
    frame.Found(**CUT),
    frame.Chunk(index=7, digest=bytes(16)),
    frame.Waits(),
    frame.Verified(shard=5, step=12),
    frame.Rejected(reason="round 2 is over"),
]
FIRST: list[msgspec.Struct] = [
    say.Opening(job="job", machine="m1"),
    say.Question(job="job"),
    say.Question(job="job", traffic=True),
]
COPIES = [say.CopyInfo(shard=1, step=4, captured_in=1, digest=b"d" * 16, size=100)]
TO_ROOT: list[msgspec.Struct] = [
    say.Join(**FROM, host="127.0.0.1", port=9, group=7, machine_rank=1, standby=False),
    say.Inventory(
        **FROM, copies=COPIES, sizes={0: 100, 1: 100}, reached=4, master_port=5
    ),
    say.Report(**FROM, step=5, safe=[4], in_flight=False, digests={4: [b"d" * 16]}),
    say.Laid(**FROM, sizes={1: 100}, shared_digests=[]),
    say.RankEnded(**FROM, rank=1, status=-9, step=4, tail=["ValueError: no"]),
    say.Looked(
        **FROM, ranks={1: say.Sight(state="S", step=4, cpu_s=1.5, doing="lock")}
    ),
    say.Loaded(**FROM, step=4, sources={1: "own memory"}, seconds=0.5),
    say.RanksUp(**FROM, pids={1: 4711}),
    say.CopyBad(
        **FROM, shard=0, step=4, holder="m0", corrupt=True, last=False, reason="bad"
    ),
    say.Condition(**FROM, failing="disk", warnings=["hot"]),
    say.Profiled(
        **FROM, step_s=0.7, idle_s=0.3, needs_s=0.1, every=1, unfitted_bytes=0
    ),
    say.Unable(**FROM, reason="no memory"),
]
FROM_ROOT: list[msgspec.Struct] = [
    say.Stop(round=2, term=1, reason="a test"),
    say.Begin(
        round=1, term=1, step=4, captured_in=1, holders=[[0, 1], [1, 0]],
        members=[say.Member(machine=f"m{i}", host="127.0.0.1", port=i) for i in (0, 1)],
        sources={0: ["m0"], 1: ["m1"]}, sizes={0: 100, 1: 100}, shared=False,
        master_port=1, may_share=False,
    ),
    say.Reserve(round=1, term=1, sizes={0: 100}, shared=False),
    say.Answer(round=1, term=1, step=5, at=5, keep=4, capture=True),
    say.Answer(round=1, term=1, step=5, at=9, keep=4, capture=True),
    say.LookAtRanks(round=1, term=1),
    say.Finish(round=1, term=1, status=0, reason=""),
]  # fmt: skip
SLOT = say.SlotInfo(shard=0, slot=1, size=100, digests=b"d" * 16, source="own memory")
RANK = {"rank": 0, "round": 1}
FROM_RANK: list[msgspec.Struct] = [
    say.Arrive(rank=0, local_rank=0, ranks_per_machine=1, world_size=2, machine_rank=0),
    say.Hello(**RANK, pid=77),
    say.Layout(**RANK, own_bytes=100, shared_bytes=0, shared_digest=b""),
    say.Reached(**RANK, step=5),
    say.Captured(**RANK, step=5, digests={0: b"d" * 16}),
    say.Skipped(**RANK, step=5, reason="late"),
    say.Restored(**RANK, step=4, seconds=0.1),
    say.BadCopy(**RANK, shard=0, step=4, chunk=0, source="own memory"),
    say.Leaving(**RANK, step=9),
    say.Hopeless(**RANK, reason="no"),
]
TO_RANK: list[msgspec.Struct] = [
    say.Admit(round=1),
    say.Welcome(round=1, step=4, may_share=True, chunk_bytes=4096, slots=[SLOT]),
    say.Slots(round=1, chunk_bytes=4096, slots=[SLOT]),
    say.Unshare(round=1, reason="it differs"),
    say.Capture(round=1, step=5, capture=True, keep=4, own_slot=1),
    say.Fail(round=1, reason="no"),
]
HELD: list[msgspec.Struct] = [
    say.Held(**FROM, machine_rank=1, keep=4, reached=5, copies=COPIES)
]
BY_DECODER = [DATA, FIRST, TO_ROOT, FROM_ROOT, FROM_RANK, TO_RANK, HELD]


def frames() -> list[bytes]:
    return [frame.encode(one, payload_bytes=3) + b"abc" for one in DATA]


def headers(decoders: list[Any]) -> list[bytes]:
    assert len(decoders) == len(BY_DECODER)
    return [
        bytes([index]) + msgspec.msgpack.encode(one)
        for index, several in enumerate(BY_DECODER)
        for one in several
    ]


def tokens() -> list[bytes]:
    client = TokenClient(b"x" * 32, role=Role.DATA, job="job", nonce=bytes(32))
    hello = client.begin()
    return [b"\xfe" + hello + bytes(32), b"\x20" + hello, b"\x01TWH1" + bytes(64)]


def hellos(certificates: Any) -> list[bytes]:
    client = TlsHandshake(certificates, server=False, roles=(Role.DATA,), data="sealed")
    return [client.begin(), b"\x16\x03\x01\x02\x00", b"\x15\x03\x03\x00\x02\x02\x28"]


def sealed(secret: bytes) -> list[bytes]:
    client = GcmSeal(secret, server=False)
    parts = [bytes(part) for part in client.seal([b"abc", b"", bytes(5000)])]
    return [b"".join(parts), parts[0], parts[1] + parts[0]]


def requests() -> list[bytes]:
    put = kv.Put(key="a", value=b"v", lease=1)
    made: list[msgspec.Struct] = [
        kv.Get(prefix="a"),
        kv.Grant(ttl_s=1.5),
        kv.Transact(operations=[put], when=[kv.absent("a")]),
        kv.Transact(operations=[kv.Delete(key="a")], when=[]),
        kv.Renew(lease=1),
        kv.Follow(prefix="a", after=1),
        kv.Revoke(lease=1),
    ]
    each = [kv_wire.encode(one, bytes_max=1 << 16) for one in made]
    return [b"".join(each), *each]


def responses() -> list[bytes]:
    item = kv.Item(value=b"v", created=1, changed=1)
    made: list[msgspec.Struct] = [
        kv.Got(revision=1, items={"a": item}),
        kv.Done(done=True, revision=2),
        kv.Granted(lease=1),
        kv.Changes(revision=3, events=[kv.Event(revision=3, key="a", item=item)]),
        kv.Failed(kind="lease", reason="gone"),
    ]
    each = [kv_wire.encode(one, bytes_max=1 << 16) for one in made]
    return [b"".join(each), *each]


def manifests() -> list[bytes]:
    entries = [
        manifest.Entry(
            name=name, dtype="float32", global_shape=(4, 2), box_offsets=(0, 0),
            box_shape=(4, 2), offset=offset, size=32, region="own",
        )
        for name, offset in (("a", 512), ("b", 576))
    ]  # fmt: skip
    static = manifest.StaticPart(
        head_bytes=512, own_bytes=640, shared_bytes=0,
        entries=manifest.encode_entries(entries),
    )  # fmt: skip
    values = encode_plain(
        {"lr": 0.1, "seen": {1, 2}, "at": (1, 2**70), "z": 1j}, path="values"
    )
    data = manifest.encode_manifest(static, step=7, values=values)
    slot = bytearray(640)
    manifest.write_head(memoryview(slot), data)
    return [data, bytes(slot)]
