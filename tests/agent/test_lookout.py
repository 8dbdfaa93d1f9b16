"""What is told of ranks' processes."""

from __future__ import annotations

import msgspec

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import messages as say
from twinstep.agent.lookout import Lookout

SIGHT = say.Sight(state="T", cpu_s=1.5)


def at_step_3() -> tuple[Scene, Lookout]:
    scene = Scene()
    scene.begins(scenes.begin(round=2))
    scene.reaches(3)
    return scene, Lookout(worker=scene.worker)


def test_a_rank_that_ends_is_told_with_its_step_and_last_lines() -> None:
    scene, lookout = at_step_3()
    (ended,) = of(lookout.rank_ended(2, 0, -9, ["oops"]), say.RankEnded)
    assert (ended.rank, ended.status, ended.step, ended.tail) == (0, -9, 3, ["oops"])
    assert ended in [action.message for action in scene.worker.root_here()]


def test_ranks_of_an_older_round_or_ended_on_purpose_are_no_news() -> None:
    scene, lookout = at_step_3()
    assert lookout.rank_ended(1, 0, 1, []) == []
    assert lookout.looked(1, {0: SIGHT}) == []
    scene.worker.from_root(scenes.stop(round=3))
    assert lookout.rank_ended(3, 0, -9, []) == []
    assert lookout.looked(3, {0: SIGHT}) == []


def test_what_is_amiss_is_told_again_to_the_next_root() -> None:
    scene, lookout = at_step_3()
    (told,) = of(lookout.condition("disk: full", ["gpu: hot"]), say.Condition)
    assert (told.failing, told.warnings) == ("disk: full", ["gpu: hot"])
    scene.stops(round=3)
    assert told in of(scene.worker.root_here(), say.Condition)


def test_a_look_tells_what_was_seen_and_the_step() -> None:
    _, lookout = at_step_3()
    (looked,) = of(lookout.looked(2, {0: SIGHT}), say.Looked)
    assert looked.ranks == {0: msgspec.structs.replace(SIGHT, step=3)}
