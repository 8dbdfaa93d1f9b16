"""One machine's decisions: rounds, restores, and whose words count."""

from __future__ import annotations

from tests.agent import scenes
from tests.agent.scenes import Scene, of
from twinstep.agent import actions as do, messages as say


def hello(rank: int = 0, round: int = 1) -> say.Hello:
    return say.Hello(rank=rank, round=round, pid=7)


def bad_copy(source: str, *, shard: int = 0, step: int = 5) -> say.BadCopy:
    return say.BadCopy(rank=0, round=2, shard=shard, step=step, chunk=3, source=source)


def restoring(*, sources: list[str], own: bool = True) -> Scene:
    """Round 2 begins from step 5; m0 has its shard, unless `own` is false."""
    scene = Scene()
    scene.stops(round=1)
    if own:
        scene.holds(0, 0, 5)
    shards = {0: sources, 1: ["m1"]}
    scene.begins(scenes.begin(round=2, step=5, captured_in=1, sources=shards))
    return scene


# Whose words count.


def test_words_of_an_older_term_or_round_are_refused() -> None:
    scene = Scene()
    scene.stops(round=3, term=2)
    for old in (
        scenes.stop(round=3, term=1),
        scenes.stop(round=2, term=2),
        scenes.begin(round=4, term=1),
        scenes.answer(9, round=2, term=2),
    ):
        done = scene.worker.from_root(old)
        assert [type(action) for action in done] == [do.Log], old
    assert (scene.worker.round, scene.worker.term) == (3, 2)
    assert scene.worker.stopped and scene.worker.quiet


def test_an_answer_of_an_older_round_moves_nothing() -> None:
    scene = Scene()
    scene.begins(scenes.begin(round=2))
    scene.reaches(1)
    scene.worker.from_root(scenes.answer(1, keep=9, round=1))
    assert scene.worker.vote.keep == 0
    assert scene.table.filling() == []


def test_ranks_of_an_older_round_are_not_heard() -> None:
    scene = Scene()
    scene.begins(scenes.begin(round=2))
    captured = say.Captured(rank=0, round=1, step=1)
    assert of(scene.worker.from_rank(captured), do.Log)
    assert of(scene.worker.from_rank(hello(round=1)), say.Welcome) == []


# Rounds.


def test_a_stop_ends_ranks_and_the_inventory_waits_for_the_last() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    done = scene.worker.from_root(scenes.stop(round=2))
    assert done == [do.StopRanks(round=2)]
    assert scene.worker.from_root(scenes.stop(round=2)) == [], "not all are dead yet"
    assert of(scene.worker.all_quiet(1, 1), say.Inventory) == [], "an older stop"
    assert len(of(scene.worker.all_quiet(2, 1), say.Inventory)) == 1


def test_slots_have_no_writer_once_all_are_dead() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(1)
    scene.worker.from_root(scenes.answer(1))
    assert scene.table.filling()
    scene.worker.from_root(scenes.stop(round=2))
    assert scene.table.filling(), "the rank may be writing still"
    scene.worker.all_quiet(2, 1)
    assert scene.table.filling() == []


def test_the_inventory_waits_for_the_digests_of_what_was_captured() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.captures(1)
    scene.worker.from_root(scenes.stop(round=2))
    done = scene.worker.all_quiet(2, 1)
    assert of(done, say.Inventory) == []
    (hashing,) = of(done, do.HashCopy)
    assert of(scene.worker.from_root(scenes.stop(round=2)), say.Inventory) == []
    done = scene.transit.hashed(0, hashing.slot, 1, b"d")
    (inventory,) = of(done, say.Inventory)
    assert [(c.shard, c.step) for c in inventory.copies] == [(0, 1)]


def test_a_begin_counts_only_after_its_own_stop() -> None:
    scene = Scene()
    scene.stops(round=1)
    assert of(scene.worker.from_root(scenes.begin(round=2)), do.StartRanks) == []
    scene.worker.from_root(scenes.stop(round=2))
    assert of(scene.worker.from_root(scenes.begin(round=2)), do.StartRanks) == []
    scene.worker.all_quiet(2, 1)
    assert of(scene.worker.from_root(scenes.begin(round=2)), do.StartRanks)


def test_a_machine_that_is_cut_off_ends_its_ranks_and_waits_for_another_round() -> None:
    scene = Scene()
    scene.begins(scenes.begin(round=2))
    done = scene.worker.cut_off()
    assert of(done, do.StopRanks) == [do.StopRanks(round=2)]
    assert scene.worker.cut_off() == [], "once"
    scene.worker.all_quiet(2, 29500)
    (told,) = of(scene.worker.root_here(), say.Join)
    assert told.ended
    # The root may not know of it yet; the others would wait for ranks that are new.
    again = scene.worker.from_root(scenes.begin(round=2))
    assert [type(action) for action in again] == [do.Log]
    scene.begins(scenes.begin(round=3))
    assert not scene.worker.stopped and not scene.worker.ended


def test_a_new_root_hears_again_what_the_former_may_have_missed() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    scene.reaches(1)
    first, *again = [a.message for a in scene.worker.root_here()]
    assert isinstance(first, say.Join)
    assert (first.round, first.machine_rank) == (1, 0)
    assert of(again, say.Report)[0].step == 1


# Slots.


def test_slots_that_are_being_reserved_are_not_reserved_again() -> None:
    scene = Scene()
    scene.stops(round=1)
    (reserve,) = of(scene.worker.from_root(scenes.begin(round=1)), do.ReserveSlots)
    scene.stops(round=2)
    done = scene.worker.from_root(scenes.begin(round=2))
    assert of(done, do.ReserveSlots) == []
    assert not scene.worker.copies.reserved
    scene.worker.reserved(reserve.sizes)
    assert scene.worker.copies.reserved, "slots asked for in round 1 serve in round 2"


def test_memory_that_does_not_fit_ends_the_round_it_is_found_in() -> None:
    scene = Scene()
    scene.stops(round=1)
    (reserve,) = of(scene.worker.from_root(scenes.begin(round=1)), do.ReserveSlots)
    scene.stops(round=2)
    scene.worker.from_root(scenes.begin(round=2))
    (unable,) = of(scene.worker.unreserved(reserve.sizes, "too much"), say.Unable)
    assert (unable.round, unable.reason) == (2, "too much")


def test_state_that_has_grown_is_not_written_past_its_slots() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    done = scene.worker.from_rank(scenes.layout(own_bytes=101))
    assert of(done, say.Slots) == []
    (fail,) = of(done, say.Fail)
    assert "101 bytes" in fail.reason and "have 100" in fail.reason


def test_a_job_that_cannot_share_lays_out_anew() -> None:
    scene = Scene()
    scene.stops()
    scene.worker.from_root(scenes.begin(sizes={}, shared=True))
    reserve = say.Reserve(round=1, term=1, sizes={}, shared=False)
    (unshare,) = of(scene.worker.from_root(reserve), say.Unshare)
    assert "differs" in unshare.reason


# Coming back.


def test_a_rank_is_told_where_to_start_once_its_copy_is_here() -> None:
    scene = restoring(sources=["m1"], own=False)
    assert of(scene.worker.from_rank(hello(round=2)), say.Welcome) == []
    (fetch,) = [
        do.FetchCopy(
            round=2,
            shard=0,
            slot=slot,
            step=5,
            captured_in=1,
            source=scenes.member("m1"),
        )
        for _, slot, _ in scene.table.filling()
    ]
    done = scene.transit.fetched(fetch, b"d")
    (welcome,) = of(done, say.Welcome)
    assert welcome.step == 5
    assert [slot.source for slot in welcome.slots] == ["memory of m1"]


def test_a_bad_copy_is_named_and_the_next_one_fetched() -> None:
    scene = restoring(sources=["m0", "m1"])
    assert of(scene.worker.from_rank(hello(round=2)), say.Welcome)
    done = scene.worker.from_rank(bad_copy("own memory"))
    (named,) = of(done, say.CopyBad)
    assert (named.holder, named.shard, named.corrupt, named.last) == (
        "m0",
        0,
        True,
        False,
    )
    assert "chunk 3" in named.reason
    (fetch,) = of(done, do.FetchCopy)
    assert fetch.source.machine == "m1"
    assert scene.table.find(0, step=5, captured_in=1) is None, "never read again"


def test_a_copy_that_came_since_is_not_blamed_for_the_one_before() -> None:
    scene = restoring(sources=["m0", "m1"])
    scene.worker.from_rank(hello(round=2))
    (fetch,) = of(scene.worker.from_rank(bad_copy("own memory")), do.FetchCopy)
    scene.transit.fetched(fetch, b"d")
    done = scene.worker.from_rank(bad_copy("own memory"))
    assert of(done, say.CopyBad) == []
    assert scene.table.find(0, step=5, captured_in=1) is not None


def test_when_the_last_copy_is_bad_the_root_hears_that() -> None:
    scene = restoring(sources=["m0"])
    scene.worker.from_rank(hello(round=2))
    (named,) = of(scene.worker.from_rank(bad_copy("own memory")), say.CopyBad)
    assert named.last


def test_loaded_is_said_when_every_rank_has_loaded() -> None:
    scene = Scene(ranks=2)
    scene.stops(round=1)
    for rank in (0, 1):
        scene.holds(rank, 0, 5)
    begin = scenes.begin(
        round=2,
        step=5,
        captured_in=1,
        sizes=dict.fromkeys(range(4), scenes.SIZE),
        sources={rank: ["m0" if rank < 2 else "m1"] for rank in range(4)},
    )
    scene.begins(begin)
    told = []
    for rank, seconds in ((0, 1.0), (1, 2.0)):
        restored = say.Restored(rank=rank, round=2, step=5, seconds=seconds)
        told.append(of(scene.worker.from_rank(restored), say.Loaded))
    assert told[0] == []
    assert (told[1][0].step, told[1][0].seconds) == (5, 2.0)
    assert told[1][0].sources == {0: "own memory", 1: "own memory"}


def test_a_hopeless_script_ends_the_job_with_its_reason() -> None:
    scene = Scene()
    scene.begins(scenes.begin())
    hopeless = say.Hopeless(rank=0, round=1, reason="a lambda")
    (unable,) = of(scene.worker.from_rank(hopeless), say.Unable)
    assert unable.reason == "rank 0: a lambda"


def test_finish_ends_the_agent() -> None:
    finish = say.Finish(round=9, term=9, status=3, reason="done")
    assert Scene().worker.from_root(finish) == [do.Leave(status=3, reason="done")]


def test_a_round_that_has_begun_is_not_stopped_by_its_own_late_stop() -> None:
    scene = Scene()
    scene.stops(round=1)
    scene.begins(scenes.begin(round=1, machines=2))
    assert not scene.worker.stopped
    stop = say.Stop(round=1, term=1, reason="late")
    assert of(scene.worker.from_root(stop), do.StopRanks) == []
    assert not scene.worker.stopped
    again = say.Stop(round=1, term=2, reason="a new root")
    assert of(scene.worker.from_root(again), do.StopRanks)
