"""The schedule of a soak comes from its seed, and never asks for too much."""

from __future__ import annotations

import pytest
from rich.console import Console

from twinstep.demo import soak as soaking
from twinstep.demo.ground import Loopback
from twinstep.demo.kinds import FAULTS
from twinstep.demo.run import KINDS, blows
from twinstep.demo.soak import (
    AFTER_STEPS,
    MOMENT_S_MAX,
    WEIGHTS,
    ground_for,
    schedule,
    weights_of,
)
from twinstep.errors import UsageError


def test_one_seed_gives_one_schedule() -> None:
    assert schedule(50, seed=7) == schedule(50, seed=7)
    assert schedule(50, seed=7) != schedule(50, seed=8)
    assert schedule(50, seed=7)[:20] == schedule(20, seed=7)


def test_every_blow_is_within_its_bounds() -> None:
    for seed in range(100):
        made = schedule(50, seed=seed)
        assert len(made) == 50
        assert not made[0].soon, f"seed={seed}"
        for blow in made:
            assert AFTER_STEPS[0] <= blow.after_steps <= AFTER_STEPS[1]
            assert 0 <= blow.moment_s <= MOMENT_S_MAX
            assert not (blow.soon and FAULTS[blow.kind].takes_machine), f"seed={seed}"


def test_all_kinds_come_and_some_come_soon() -> None:
    made = [blow for seed in range(20) for blow in schedule(50, seed=seed)]
    assert {blow.kind for blow in made} == set(WEIGHTS)
    assert 0.05 < sum(blow.soon for blow in made) / len(made) < 0.3


@pytest.mark.parametrize(("kills", "weights"), [(0, None), (3, {"flood": 1})])
def test_nonsense_is_refused(kills: int, weights: dict[str, int] | None) -> None:
    with pytest.raises(UsageError, match="kill-rank"):
        schedule(kills, seed=1, weights=weights)


def test_the_demo_has_each_kind_once() -> None:
    assert [blow.kind for blow in blows(KINDS, seed=1)] == list(KINDS)
    assert set(KINDS) <= set(FAULTS)


def test_each_kind_that_was_asked_for_comes() -> None:
    weights = weights_of("kill-root, partition-machine,delay")
    for seed in range(20):
        kinds = [blow.kind for blow in schedule(5, seed=seed, weights=weights)]
        assert set(kinds) == set(weights), f"seed={seed}"


@pytest.mark.parametrize(
    ("include", "kv", "says"),
    [
        ("kill-etcd-leader", "embedded", "kill-etcd-leader, .* need --kv etcd"),
        ("kill-rank", "zookeeper", "kv is 'zookeeper'; use one of embedded, etcd"),
        ("kill-agent,delay", "embedded", "kill-agent: for processes"),
    ],
)
def test_what_cannot_be_done_is_said(include: str, kv: str, says: str) -> None:
    blows = schedule(9, seed=1, weights=weights_of(include))
    with pytest.raises(UsageError, match=says):
        ground_for(blows, kv=kv, on_hosts=False, console=Console(quiet=True))


def test_links_fail_on_hosts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    blows = schedule(2, seed=1, weights=weights_of("partition-root"))
    monkeypatch.setattr(soaking, "missing", lambda: "only root may")
    with pytest.raises(UsageError, match="only root may"):
        ground_for(blows, kv="embedded", on_hosts=False, console=Console(quiet=True))
    gentle = schedule(2, seed=1, weights=weights_of("kill-rank,pause-root"))
    found = ground_for(
        gentle, kv="embedded", on_hosts=False, console=Console(quiet=True)
    )
    assert isinstance(found, Loopback)


def test_more_blows_than_hosts_are_refused_in_words() -> None:
    blows = schedule(91, seed=1, weights=weights_of("partition-root"))
    with pytest.raises(UsageError, match="kills is 91; on hosts at most 90"):
        ground_for(blows, kv="embedded", on_hosts=False, console=Console(quiet=True))


def test_a_failure_whose_words_look_like_markup_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_arguments: object, **_named: object) -> None:
        raise UsageError("see [/usr/lib/pair.cc:553]")

    monkeypatch.setattr(soaking, "train", fails)
    console = Console(record=True, width=100)
    assert soaking.soak(kills=1, console=console) == 1
    assert "see [/usr/lib/pair.cc:553]" in console.export_text()
