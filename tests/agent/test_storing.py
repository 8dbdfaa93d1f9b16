"""A machine pins what it is told to write, says what came of it, and reads it back."""

from __future__ import annotations

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import actions as do, messages as say, storing
from twinstep.config import Storage

STORAGE = Storage(path="/s", options={"secret": "hush"}, start="/other")


def training(*, step: int = 5) -> Scene:
    """Rank 0 stands one step after `step`, which all keep from the next answer on."""
    scene = Scene(storage=STORAGE)
    scene.begins(scenes.begin())
    scene.worker.copies.take_slots({})
    scene.captures(step)
    for shard, index, _ in scene.table.filling():
        scene.table.abandon(shard, index)
    scene.holds(0, 0, step)
    return scene


def told(scene: Scene, *, keep: int, store: int) -> list[do.WorkerAction]:
    answer = scenes.answer(keep + 1, keep=keep, store=store, capture=False)
    return scene.worker.from_root(answer)


def test_a_machine_has_a_third_slot_of_what_it_writes_only() -> None:
    scene = Scene(storage=STORAGE)
    (reserve,) = of(scene.begins(scenes.begin()), do.ReserveSlots)
    assert set(reserve.sizes) == {0, 1}
    assert reserve.spare == {0}
    assert [len(scene.table.slots[shard]) for shard in (0, 1)] == [3, 2]
    (reserve,) = of(Scene().begins(scenes.begin()), do.ReserveSlots)
    assert reserve.spare == set()


def test_what_is_written_is_pinned_until_it_is() -> None:
    scene = training()
    (store,) = of(told(scene, keep=5, store=5), do.StoreCopies)
    assert (store.step, store.slots) == (5, {0: 0})
    assert scene.table.pinned == {0: 0}
    assert of(told(scene, keep=5, store=5), do.StoreCopies) == [], "said again"
    (word,) = of(storing.stored(scene.worker, store, size=7), say.Stored)
    assert (word.step, word.bytes, word.failed) == (5, 7, "")
    assert scene.table.pinned == {}


def test_what_is_not_here_is_refused_in_words() -> None:
    (word,) = of(told(training(), keep=4, store=4), say.Stored)
    assert word.failed == "step 4: it holds no copy of it, or has no third slot for it"


def test_slots_stay_pinned_for_a_write_that_was_given_up_and_goes_on() -> None:
    """The root gives a step up that takes too long, and tells the next."""
    scene = training()
    (store,) = of(told(scene, keep=5, store=5), do.StoreCopies)
    scene.holds(0, 1, 6)
    done = told(scene, keep=6, store=6)
    assert of(done, do.StoreCopies) == []
    (word,) = of(done, say.Stored)
    assert "the step before is still being written" in word.failed
    assert scene.table.pinned == {0: 0}
    storing.stored(scene.worker, store)
    assert scene.table.pinned == {}
    assert of(told(scene, keep=6, store=7), say.Stored), "7 is not here"


def test_an_earlier_round_s_write_says_nothing_and_unpins_nothing() -> None:
    scene = training()
    (store,) = of(told(scene, keep=5, store=5), do.StoreCopies)
    scene.stops(round=2)
    assert storing.stored(scene.worker, store) == []
    scene.begins(scenes.begin(round=2))
    assert scene.table.pinned == {}, "a new round begins without"
    scene.table.pinned = {0: 1}
    assert storing.stored(scene.worker, store) == []
    assert scene.table.pinned == {0: 1}


def welcome(step: int, *, stored: bool) -> say.Welcome:
    scene = Scene(storage=STORAGE)
    begin = scenes.begin(step=step)
    scene.begins(type(begin)(**{**_fields(begin), "stored": stored}))
    hello = say.Hello(rank=0, round=1, pid=7)
    (told,) = of(scene.worker.from_rank(hello), say.Welcome)
    return told


def _fields(begin: say.Begin) -> dict[str, object]:
    return {name: getattr(begin, name) for name in begin.__struct_fields__}


def test_ranks_are_told_where_the_step_is_and_nobody_sees_the_secret() -> None:
    told = welcome(5, stored=True)
    assert told.stored is not None
    assert (told.stored.path, told.stored.world_size) == ("/s", 2)
    assert told.stored.options == {"secret": "hush"}
    assert told.slots == []
    for shown in (repr(told), repr(STORAGE), str(Scene(storage=STORAGE).worker)):
        assert "hush" not in shown


def test_at_step_0_ranks_start_from_a_checkpoint_of_others() -> None:
    told = welcome(0, stored=False)
    assert told.stored is not None
    assert told.stored.path == "/other"


def test_a_rank_that_cannot_load_is_heard_by_the_root() -> None:
    scene = Scene(storage=STORAGE)
    scene.begins(scenes.begin())
    bad = say.BadStored(rank=0, round=1, step=5, corrupt=True, reason="a checksum")
    (word,) = of(scene.worker.from_rank(bad), say.StoredBad)
    assert (word.step, word.corrupt, word.reason) == (5, True, "rank 0: a checksum")
