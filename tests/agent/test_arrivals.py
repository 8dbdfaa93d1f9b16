"""A copy that comes in over several connections is whole when all parts are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.agent import scenes
from tests.agent.scenes import Scene
from twinstep.agent.arrivals import Arrivals
from twinstep.agent.copies import HELD_ALREADY
from twinstep.config import Transfer
from twinstep.store.slots import State
from twinstep.transfer.frame import Offer


def offer(part: int = 0, parts: int = 2, **changed: Any) -> Offer:
    made = Offer(
        job="j",
        machine="m1",
        round=1,
        term=1,
        shard=1,
        step=4,
        captured_in=1,
        keep=0,
        replace=False,
        size=scenes.SIZE,
        chunk_bytes=4096,
        part=part,
        parts=parts,
    )
    return msgspec.structs.replace(made, **changed)


def arriving() -> tuple[Scene, Arrivals]:
    scene = Scene()
    scene.begins(scenes.begin())
    return scene, Arrivals(
        scene.transit, limits=Transfer(streams_max=4, chunk_bytes=4096)
    )


def states(scene: Scene) -> list[State]:
    return [slot.state for slot in scene.table.slots[1]]


def test_all_parts_go_into_one_slot_and_make_it_whole_together() -> None:
    scene, arrivals = arriving()
    assert [arrivals.place(offer(part)) for part in (0, 1)] == ["", ""]
    assert arrivals.slot(offer(0)) == arrivals.slot(offer(1)) == 0
    arrivals.part_done(offer(1), b"1" * 16)
    assert states(scene) == [State.FILLING, State.EMPTY]
    arrivals.part_done(offer(0), b"0" * 16)
    assert states(scene) == [State.WHOLE, State.EMPTY]
    assert scene.table.slots[1][0].digests == b"0" * 16 + b"1" * 16
    assert arrivals.place(offer()) == HELD_ALREADY


def test_a_slot_is_given_up_only_when_nobody_writes_into_it() -> None:
    scene, arrivals = arriving()
    for part in (0, 1):
        arrivals.place(offer(part))
    arrivals.part_done(offer(0), None)
    assert states(scene)[0] is State.FILLING, "part 1 is still being written"
    arrivals.part_done(offer(1), b"1" * 16)
    assert states(scene) == [State.EMPTY, State.EMPTY]
    with pytest.raises(KeyError):
        arrivals.slot(offer(0))


def test_a_part_that_fails_alone_leaves_no_copy() -> None:
    scene, arrivals = arriving()
    arrivals.place(offer(0))
    arrivals.part_done(offer(0), None)
    assert states(scene) == [State.EMPTY, State.EMPTY]
    assert arrivals.place(offer(0)) == "", "and it can be sent again"


def test_a_peer_cannot_make_us_hold_more_connections_than_allowed() -> None:
    scene, arrivals = arriving()
    assert arrivals.place(offer(parts=5)) == "5 parts; at most 4"
    assert states(scene) == [State.EMPTY, State.EMPTY]


def test_an_offer_of_another_round_or_term_gets_no_slot() -> None:
    scene, arrivals = arriving()
    assert "not the present one" in arrivals.place(offer(round=2))
    assert "not the present one" in arrivals.place(offer(term=0))
    assert states(scene) == [State.EMPTY, State.EMPTY]


def test_parts_that_are_not_of_one_copy_never_meet_in_a_slot() -> None:
    """Part 2 of 3 and part 0 of 2 made two parts of "2": a KeyError in the loop that
    decides, and a slot that nobody could write any more."""
    scene, arrivals = arriving()
    assert arrivals.place(offer(2, 3)) == ""
    assert "it comes in 3 parts" in arrivals.place(offer(0, 2))
    assert "it comes in 3 parts" in arrivals.place(offer(0, 3, size=1))
    for part, parts in ((3, 3), (0, 0)):
        assert "is no part" in arrivals.place(offer(part, parts))
    for part in (0, 1):
        assert arrivals.place(offer(part, 3)) == ""
    for part in range(3):
        arrivals.part_done(offer(part, 3), bytes([part]) * 16)
    assert states(scene)[0] is State.WHOLE


def test_one_part_has_one_writer() -> None:
    scene, arrivals = arriving()
    assert arrivals.place(offer(0)) == ""
    assert arrivals.place(offer(0)) == "part 0 is coming in"
    arrivals.part_done(offer(0), b"a" * 16)
    assert arrivals.place(offer(0)) == "", "its sender begins anew"
    arrivals.place(offer(1))
    arrivals.part_done(offer(1), b"1" * 16)
    assert states(scene)[0] is State.FILLING, "part 0 is written again"
    arrivals.part_done(offer(0), b"0" * 16)
    assert scene.table.slots[1][0].digests == b"0" * 16 + b"1" * 16


def test_chunks_of_another_length_do_not_come_in() -> None:
    """Their digests would be of chunks that no reader cuts the copy into."""
    _, arrivals = arriving()
    assert "chunks of 8192 bytes; here 4096" in arrivals.place(
        offer(0, 1, chunk_bytes=8192)
    )
