"""Attackers of a job that trains: strangers, and a machine that has gone mad.

Strangers hold no credentials. The mad machine holds the job's token: it has a seat in
the store and is a spare of the job, it speaks to the root in all kinds of messages that
were changed, and offers and asks for copies that nobody could have. All is drawn from
one seed.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz import samples
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import framed
from tests.trial import WORKLOADS, Trial, rank_pids
from tests.trust import made
from twinstep.agent import messages as say
from twinstep.agent.kv import KeyValueStore, Put
from twinstep.agent.seat import MACHINES
from twinstep.agent.status import Status
from twinstep.agent.stores import open_store
from twinstep.errors import TwinstepError
from twinstep.transfer.frame import Chunk, Fetch, Offer, encode
from twinstep.trust.credentials import Credentials
from twinstep.trust.handshake import Role
from twinstep.trust.streams import Connection
from twinstep.trust.wire import secure

NAME = "mad"
WAIT_S = 2.0
LEASE_S = 3.0
WORDS_MAX = 20
"""Messages on one connection, while it lasts."""


class Attack:
    """Threads that do harm, until `end`."""

    def __init__(
        self, status: Status, store: str, credentials: Credentials, *, seed: int
    ) -> None:
        self.counts = dict.fromkeys(("stranger", "control", "data", "seat"), 0)
        self._over = threading.Event()
        self._credentials, self._status, self._seed = credentials, status, seed
        self._addresses = [(one.host, one.port) for one in status.machines]
        self._root = next(
            (one.host, one.port)
            for one in status.machines
            if one.machine == status.root
        )
        self._store: KeyValueStore = open_store(store, credentials=credentials)
        kinds = (self._stranger, self._control, self._data, self._seat)
        self._threads = [
            threading.Thread(target=self._again, args=(index, kind), daemon=True)
            for index, kind in enumerate(kinds)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(3 * WAIT_S)
        self._store.close()

    def _again(self, index: int, kind: Any) -> None:
        rng = random.Random(self._seed * 1000 + index)
        while not self._over.wait(0.02):
            with contextlib.suppress(OSError, TwinstepError):
                kind(rng)
            self.counts[list(self.counts)[index]] += 1

    def _proved(self, address: tuple[str, int], role: Role) -> Connection:
        sock = socket.create_connection(address, timeout=WAIT_S)
        found = secure(sock, self._credentials, role=role, job="job", limit_s=WAIT_S)
        found.settimeout(0.2)
        return found

    def _stranger(self, rng: random.Random) -> None:
        """Random bytes, a handshake that was changed or stops, a drip."""
        handshake = self._credentials.client(Role.DATA, job="job")
        assert handshake is not None
        said = mutated(handshake.begin(), rng, packed=False)
        said = rng.choice((said, rng.randbytes(4000), framed(b"x" * 60_000)))
        with socket.create_connection(rng.choice(self._addresses), WAIT_S) as sock:
            sock.settimeout(0.2)
            step = rng.choice((1, 7, len(said) or 1))
            for at in range(0, min(len(said), 40 * step), step):
                sock.sendall(said[at : at + step])
            if rng.random() < 0.5:
                while sock.recv(4096):
                    pass

    def _control(self, rng: random.Random) -> None:
        """Words to the root: what a spare may say, then what nobody may."""
        status = self._status
        here = {"machine": NAME, "round": status.round, "term": status.term}
        join = say.Join(
            **here, host="127.0.0.1", port=9, group=0, machine_rank=-1, standby=True
        )
        connection = self._proved(rng.choice(self._addresses), Role.CONTROL)
        if rng.random() < 0.8:
            connection.close()
            connection = self._proved(self._root, Role.CONTROL)
        with contextlib.closing(connection):
            connection.sendall(encode(say.Opening(job="job", machine=NAME)))
            connection.sendall(encode(join))
            for _ in range(rng.randrange(WORDS_MAX)):
                one = msgspec.structs.replace(rng.choice(samples.TO_ROOT), **here)
                raw = b"\0" + msgspec.msgpack.encode(one)
                word = mutated(raw, rng, packed=True)[1:]
                if b"Join" not in word:  # its round would be believed, and end ours
                    connection.sendall(framed(word))
            with contextlib.suppress(TimeoutError):
                connection.recv(4096)

    def _data(self, rng: random.Random) -> None:
        """Copies that nobody has, cut in every way; copies asked for that are none."""
        status = self._status
        here = {
            "job": "job", "machine": rng.choice((NAME, "m0", "m1")),
            "round": status.round, "term": status.term,
            "shard": rng.randrange(4), "step": rng.choice((1, status.safe, 1 << 53)),
            "captured_in": status.round, "part": 0, "parts": rng.choice((1, 2)),
        }  # fmt: skip
        size = status.sizes.get(rng.randrange(2), 0)
        first: msgspec.Struct = Fetch(**here)
        if rng.random() < 0.7:
            keep = rng.choice((0, status.safe, 1 << 53))
            cut = {"size": size, "chunk_bytes": rng.choice((4096, 512 * 1024))}
            # As the owner it would be believed, and hold a slot: another's name only.
            here["machine"] = NAME
            first = Offer(**here, **cut, keep=keep, replace=rng.random() < 0.5)
        raw = b"\0" + msgspec.msgpack.encode(first)
        if rng.random() < 0.6:
            raw = mutated(raw, rng, packed=True)
        with contextlib.closing(
            self._proved(rng.choice(self._addresses), Role.DATA)
        ) as connection:
            connection.sendall(framed(raw[1:]))
            for index in range(rng.randrange(4)):
                payload = rng.randbytes(rng.choice((0, 10, 4096)))
                chunk = Chunk(index=index, digest=b"d" * rng.choice((0, 16)))
                said = encode(chunk, payload_bytes=rng.choice((len(payload), 1 << 40)))
                connection.sendall(said + payload)
            connection.recv(4096)

    def _seat(self, rng: random.Random) -> None:
        """Its seat in the store, so that the root hears it."""
        lease = self._store.grant(LEASE_S)
        self._store.transact([Put(key=MACHINES + NAME, value=b"{", lease=lease.id)])
        while not self._over.wait(LEASE_S / 5) and lease.renew():
            pass
        with contextlib.suppress(TwinstepError):
            lease.revoke()


def held_bytes(status: Status) -> dict[str, int]:
    """What each agent's process holds in memory."""
    found: dict[str, int] = {}
    for one in status.machines:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{one.group}/status").read_text()
            held = re.search(r"RssAnon:\s+(\d+) kB", text)
            if held:  # not of a process that has just ended
                found[one.machine] = int(held[1]) * 1024
    return found


def attacked(trial: Trial, *, steps: int, seed: int) -> tuple[Attack, dict[str, int]]:
    """A job of two machines trains while it is attacked, to its end. Returns the
    attack, and by how much each agent has grown."""
    credentials = made.token()
    config = f'warm = false\n[trust]\ntoken_file = "{credentials.limits.token_file}"\n'
    config += "strangers_lines_max = 200\n"
    arguments = ("--steps", str(steps), "--pause-s", "0.03")
    script = WORKLOADS / "linear.py"
    trial.start("--machines", "2", script=script, arguments=arguments, config=config)
    status: Status = trial.until(lambda: _trains(trial), "training", timeout_s=120)
    before = held_bytes(status)
    attack = Attack(status, trial.view().job.store, credentials, seed=seed)
    grown: dict[str, int] = {}
    try:

        def over() -> bool:
            for name, held in held_bytes(status).items():
                grown[name] = max(grown.get(name, 0), held - before.get(name, held))
            assert trial.process is not None
            return trial.process.poll() is not None

        trial.until(over, "the job to end", timeout_s=60 + 2.0 * steps)
    finally:
        attack.end()
    return attack, grown


def _trains(trial: Trial) -> Status | None:
    status = trial.view().status()
    if status is None or status.phase != "training" or status.safe < 5:
        return None
    return status if len(rank_pids(status)) == 2 else None


def trial_of(*, seconds: int, seed: int) -> int:
    """`make fuzz-live`: says what came of it."""
    from tests.trial import undisturbed

    steps = max(60, seconds * 20)
    with tempfile.TemporaryDirectory(prefix="twinstep-") as folder:
        trial = Trial(Path(folder))
        try:
            attack, grown = attacked(trial, steps=steps, seed=seed)
            status, digests = trial.wait(), trial.digests()
            dropped = [line for line in trial.out.splitlines() if "dropped" in line]
        finally:
            trial.close()
    words = ("--steps", str(steps), "--pause-s", "0")
    same = digests == undisturbed(ranks=2, arguments=words)
    print(f"status {status}, same bits: {same}, attacks {attack.counts}")
    print(f"agents grew by at most {grown} bytes;")
    print(f"{len(dropped)} lines say who was dropped, the last:")
    print("\n".join(line[:200] for line in dropped[-20:]))
    return 0 if status == 0 and same else 1
