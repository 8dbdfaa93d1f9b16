"""A rank's way back: only verified bytes become live state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.store.parts import write_step
from twinstep import loading
from twinstep.agent import messages as say
from twinstep.environment import RankPlace
from twinstep.errors import NoCopyLeft, ProtocolError
from twinstep.loading import ATTEMPTS_MAX, load
from twinstep.pulsing import OwnPulse
from twinstep.store.memory import Slot
from twinstep.store.places import Disk
from twinstep.store.reading import open_step
from twinstep.store.stored import StoredStep
from twinstep.transfer.sender import hash_copy

CHUNK = 4096
SIZE = 5 * CHUNK - 100
PLACE = RankPlace(rank=1, local_rank=1, ranks_per_machine=2, round=3, agent="nobody")


class Agent:
    """The other end of the tether: says `words`, and hears what the rank says."""

    def __init__(self, *words: tuple[say.ToRank, list[int]]) -> None:
        self.words = list(words)
        self.heard: list[Any] = []
        self.descriptors: list[int] = []

    def send(self, message: say.FromRank) -> None:
        self.heard.append(message)

    def receive(self, _timeout_s: float | None) -> say.ToRank:
        message, self.descriptors = self.words.pop(0)
        return message

    def take(self, count: int) -> list[int]:
        taken, self.descriptors = self.descriptors[:count], self.descriptors[count:]
        return taken


class Adapter:
    """Live state that notes what it was restored from."""

    def __init__(self, step: int = 7) -> None:
        self.step, self.shared = step, True
        self.restored: list[bytes] = []

    def unshare(self) -> None:
        self.shared = False

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        self.restored = [bytes(view[:SIZE]) for view in (own, *shared)]
        return self.step


def content(seed: int) -> bytes:
    body = bytes((seed + i * 7) % 256 for i in range(SIZE - 8))
    return (CHUNK).to_bytes(8, "little") + body


def copy(shard: int, *, bad_byte: int = -1, source: str = "own memory"):
    """A slot with a copy in it; one byte of it was flipped since."""
    slot = Slot.create(f"twinstep-{shard}-0", capacity_bytes=SIZE)
    slot.view[:SIZE] = content(shard)
    digests = hash_copy(slot.view, SIZE, CHUNK)
    if bad_byte >= 0:
        slot.view[bad_byte] ^= 1
    info = say.SlotInfo(shard=shard, slot=0, size=SIZE, digests=digests, source=source)
    descriptor = os.dup(slot.fd)
    slot.close()
    return info, descriptor


def welcome(*copies: Any, step: int = 7, may_share: bool = True):
    message = say.Welcome(
        round=3,
        step=step,
        may_share=may_share,
        chunk_bytes=CHUNK,
        slots=[info for info, _ in copies],
    )
    return message, [descriptor for _, descriptor in copies]


def test_at_step_0_there_is_nothing_to_load() -> None:
    adapter, peer = Adapter(), Agent(welcome(step=0, may_share=False))
    assert load(peer, adapter, PLACE, OwnPulse(print)) == 0
    assert adapter.restored == [] and not adapter.shared
    assert peer.heard == [say.Hello(rank=1, round=3, pid=0)]


def test_verified_copies_become_live_state_own_first() -> None:
    adapter, peer = Adapter(), Agent(welcome(copy(1), copy(4), copy(5)))
    assert load(peer, adapter, PLACE, OwnPulse(print)) == 7
    assert adapter.restored == [content(1), content(4), content(5)]
    assert adapter.shared
    restored = peer.heard[-1]
    assert isinstance(restored, say.Restored)
    assert (restored.rank, restored.round, restored.step) == (1, 3, 7)


@pytest.mark.parametrize("bad_byte", [0, 9, CHUNK, 2 * CHUNK + 1, SIZE - 1])
def test_a_flipped_byte_is_named_by_its_chunk_and_the_next_copy_is_used(
    bad_byte: int,
) -> None:
    bad = copy(1, bad_byte=bad_byte, source="memory of m3")
    adapter, peer = Adapter(), Agent(welcome(bad), welcome(copy(1)))
    assert load(peer, adapter, PLACE, OwnPulse(print)) == 7
    (_, named, restored) = peer.heard
    assert named == say.BadCopy(
        rank=1,
        round=3,
        shard=1,
        step=7,
        chunk=bad_byte // CHUNK,
        source="memory of m3",
    )
    assert isinstance(restored, say.Restored)
    assert adapter.restored == [content(1)]


def test_a_bad_shared_copy_is_found_as_well() -> None:
    peer = Agent(welcome(copy(1), copy(4, bad_byte=CHUNK)), welcome(copy(1), copy(4)))
    assert load(peer, Adapter(), PLACE, OwnPulse(print)) == 7
    assert (peer.heard[1].shard, peer.heard[1].chunk) == (4, 1)


def test_names_and_values_are_not_read_from_bytes_that_are_bad() -> None:
    adapter = Adapter()
    words = [welcome(copy(1, bad_byte=100)) for _ in range(ATTEMPTS_MAX)]
    with pytest.raises(NoCopyLeft, match=f"rank 1: {ATTEMPTS_MAX} copies"):
        load(Agent(*words), adapter, PLACE, OwnPulse(print))
    assert adapter.restored == []


def test_a_corrupt_copy_explains_a_restore_that_fails() -> None:
    adapter, broken = Adapter(), Adapter()

    def fails(own: memoryview, shared: Sequence[memoryview]) -> int:
        raise ValueError("nonsense in the state")

    broken.restore = fails  # type: ignore[method-assign]
    bad = welcome(copy(1, bad_byte=3 * CHUNK))
    with pytest.raises(ValueError, match="nonsense"):
        load(Agent(bad, welcome(copy(1))), broken, PLACE, OwnPulse(print))
    peer = Agent(welcome(copy(1, bad_byte=3 * CHUNK)), welcome(copy(1)))
    assert load(peer, adapter, PLACE, OwnPulse(print)) == 7
    assert isinstance(peer.heard[1], say.BadCopy)


def test_a_copy_of_another_step_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a copy of step 6, not 7"):
        load(Agent(welcome(copy(1))), Adapter(step=6), PLACE, OwnPulse(print))


def test_any_other_word_than_welcome_is_refused() -> None:
    word = say.Capture(round=3, step=7, capture=False, keep=0)
    with pytest.raises(ProtocolError, match="said Capture, not Welcome"):
        load(Agent((word, [])), Adapter(), PLACE, OwnPulse(print))


def test_no_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    peer = Agent(welcome(copy(1, bad_byte=CHUNK)), welcome(copy(1), copy(4)))
    load(peer, Adapter(), PLACE, OwnPulse(print))
    assert len(os.listdir("/proc/self/fd")) == before


class Stored(Adapter):
    """Reads every box of a stored step, after some attempts that do not reach it."""

    def __init__(self, away: int = 0) -> None:
        super().__init__()
        self.away, self.world = away, 0

    def restore_stored(self, stored: StoredStep, *, rank: int, world_size: int) -> int:
        self.away -= 1
        if self.away >= 0:
            raise OSError("no route\nto the disk")
        for box in stored.contents.boxes:
            stored.read(box, memoryview(bytearray(box.data_bytes)))
        self.world = world_size
        return stored.contents.step


def from_storage(
    folder: Path, *, away_s_max: float = 60.0
) -> tuple[say.Welcome, list[int]]:
    place = say.StoredAt(
        path=str(folder), options={}, world_size=5, away_s_max=away_s_max
    )
    message = say.Welcome(
        round=3, step=12, may_share=True, chunk_bytes=CHUNK, slots=[], stored=place
    )
    return message, []


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loading, "AWAY_AGAIN_S", 0.0)
    write_step(Disk(tmp_path), 12)
    return tmp_path


def test_a_step_in_storage_is_loaded_by_the_rank_itself(storage: Path) -> None:
    agent, adapter = Agent(from_storage(storage)), Stored()
    assert load(agent, adapter, PLACE, OwnPulse(print)) == 12
    assert adapter.world == 5
    assert [type(one) for one in agent.heard] == [say.Hello, say.Restored]


def test_storage_that_is_away_is_tried_again(storage: Path, capsys: Any) -> None:
    agent = Agent(from_storage(storage))
    assert load(agent, Stored(away=2), PLACE, OwnPulse(print)) == 12
    assert type(agent.heard[-1]) is say.Restored
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "cannot be read yet: OSError: no route to" in told[0]


def test_storage_that_stays_away_is_told_and_not_called_corrupt(storage: Path) -> None:
    agent = Agent(from_storage(storage, away_s_max=0.0), welcome(step=0))
    assert load(agent, Stored(away=9), PLACE, OwnPulse(print)) == 0
    (bad,) = [one for one in agent.heard if isinstance(one, say.BadStored)]
    assert (bad.step, bad.corrupt) == (12, False)


def test_a_damaged_step_is_told_at_once(storage: Path) -> None:
    (data,) = sorted(storage.glob("step-*/*m1.distcp"))
    raw = bytearray(data.read_bytes())
    box = open_step(Disk(storage), 12).contents.boxes[-1]
    raw[box.data_at] ^= 1
    data.write_bytes(raw)
    agent = Agent(from_storage(storage), welcome(step=0))
    assert load(agent, Stored(), PLACE, OwnPulse(print)) == 0
    (bad,) = [one for one in agent.heard if isinstance(one, say.BadStored)]
    assert bad.corrupt and box.name in bad.reason
