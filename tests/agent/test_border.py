"""A machine speaks for itself, of what there is; only members have a say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.agent import scenes
from tests.agent.test_root import ended, told, training
from twinstep.agent import border, messages as say
from twinstep.values import Grid

GRID = Grid(machines=2, ranks_per_machine=1)
DIGESTS = [b"d" * 16]
OF = {"machine": "m1", "round": 1, "term": 1}
SIGHT = say.Sight(state="S")


def refusal(message: say.ToRoot, machine: str = "m1") -> str:
    return border.refusal(message, machine=machine, grid=GRID, round=1)


def copies(count: int, shard: int = 0) -> list[say.CopyInfo]:
    return [scenes.copy(shard, step) for step in range(count)]


POSSIBLE: list[Any] = [
    scenes.join("m1", round=1 + border.ROUNDS_AHEAD_MAX),
    scenes.inventory("m1", copies(9), place=1),
    scenes.report("m1", 1 << 53, safe=[1, 2], digests={1: DIGESTS}),
    say.Laid(**OF, sizes={1: 9, 2: 9}, shared_digests=DIGESTS),
    ended(1),
    say.Looked(**OF, ranks={1: SIGHT}),
    say.RanksUp(**OF, pids={1: 5}),
    say.Loaded(**OF, step=4, sources={2: "own memory"}, seconds=1.0),
    say.CopyBad(
        **OF, shard=2, step=4, holder="m0", corrupt=True, last=False, reason="bad"
    ),
    say.Stored(**OF, step=4, bytes=9, seconds=1.0),
    say.StoredBad(**OF, step=4, corrupt=True, reason="bad"),
    say.Condition(**OF, failing="", warnings=["hot"]),
    say.Unable(**OF, reason="no memory"),
    say.Profiled(**OF, step_s=1.0, idle_s=0.5, needs_s=0.2, every=1, unfitted_bytes=0),
]


def test_what_can_be_is_let_in() -> None:
    kinds = say.ToRoot.__args__  # type: ignore[attr-defined]
    assert {type(one) for one in POSSIBLE} == set(kinds)
    for one in POSSIBLE:
        assert refusal(one) == "", one


@pytest.mark.parametrize("one", POSSIBLE, ids=lambda one: type(one).__name__)
def test_a_machine_speaks_in_no_other_name(one: say.ToRoot) -> None:
    assert "in the name of 'm1'" in refusal(one, machine="m0")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (scenes.join("m1", round=2 + border.ROUNDS_AHEAD_MAX), "far beyond 1"),
        (scenes.inventory("m1", copies(10)), "10 copies, at most 9"),
        (scenes.inventory("m1", copies(1, shard=3)), "number 3 of 3"),
        (scenes.inventory("m1", sizes={3: 1}), "number 3 of 3"),
        (scenes.inventory("m1", place=2), "place 2 of 2"),
        (scenes.report("m1", 5, safe=[1, 2, 3, 4]), "4 safe steps, at most 3"),
        (
            scenes.report("m1", 5, digests=dict.fromkeys(range(10), DIGESTS)),
            "10 digests",
        ),
        (scenes.report("m1", 5, digests={1: DIGESTS * 2}), "2 digests, at most 1"),
        (say.Laid(**OF, sizes={3: 9}, shared_digests=[]), "number 3 of 3"),
        (say.Laid(**OF, sizes={}, shared_digests=DIGESTS * 2), "2 digests"),
        (ended(2, machine="m1"), "number 2 of 2"),
        (say.Looked(**OF, ranks={2: SIGHT}), "number 2 of 2"),
        (say.RanksUp(**OF, pids={2: 5}), "number 2 of 2"),
        (msgspec.structs.replace(POSSIBLE[8], shard=3), "number 3 of 3"),
        (say.Condition(**OF, failing="", warnings=["x"] * 5000), "5000 warnings"),
    ],
)
def test_what_cannot_be_is_refused(message: say.ToRoot, reason: str) -> None:
    assert reason in refusal(message)


def test_a_spare_has_no_say_in_the_vote() -> None:
    root = training()
    for name in ("s", "mad"):
        assert root.hears(scenes.report(name, 6)) == []
    root.hears(scenes.report("m0", 6))
    assert root.ballot.answered == 5, "m1 has yet to report"
    spare = [one for one in POSSIBLE if not isinstance(one, say.Join | say.Condition)]
    for one in spare:
        assert root.hears(msgspec.structs.replace(one, machine="mad")) == [], one
    assert told(root.hears(scenes.report("m1", 6)), say.Answer) == ["m0", "m1"]


def test_a_machine_speaks_of_its_own_ranks_only() -> None:
    root = training()
    for other in (
        ended(0, machine="m1"),
        ended(0, status=0, machine="m1"),
        say.RanksUp(**OF, pids={0: 5}),
        say.Looked(**OF, ranks={0: SIGHT}),
        say.Laid(**OF, sizes={0: 5}, shared_digests=[]),
    ):
        assert root.hears(other) == [] and root.round == 1, other
    assert root.hears(ended(1)) != [], "its own"


def test_what_is_known_to_be_bad_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(border, "BAD_MAX", 3)
    root = training()
    for step in range(10):
        root.hears(msgspec.structs.replace(POSSIBLE[8], step=step))
    assert len(root.bad) == 3
