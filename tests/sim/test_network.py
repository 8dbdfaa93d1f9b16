"""Simulated links keep their order; paths are cut, healed, and lose packets."""

from __future__ import annotations

from random import Random

from twinstep.sim.events import Events
from twinstep.sim.network import Network


def new(seed: int = 1) -> tuple[Events, Network]:
    events = Events(random=Random(seed))
    return events, Network(events=events, delay_s=0.001, asleep_s=lambda _place: 0.0)


def run(events: Events, until_s: float) -> None:
    events.after(until_s - events.now_s, lambda: None)
    while events.now_s < until_s:
        events.next()


def test_a_link_keeps_its_order_though_packets_are_lost() -> None:
    events, network = new()
    heard = list[int]()
    network.path("a", "b").loss = 0.5
    link = network.link("a", "b", heard.append)
    for number in range(50):
        link.post(number)
    run(events, 200.0)
    assert heard == list(range(50))
    assert events.now_s > 1.0


def test_a_cut_path_delivers_when_it_heals_and_one_way_is_one_way() -> None:
    events, network = new()
    there, back = list[str](), list[str]()
    network.cut("a", "b", both=False)
    network.link("a", "b", there.append).post("x")
    network.link("b", "a", back.append).post("y")
    run(events, 5.0)
    assert (there, back) == ([], ["y"])
    network.heal()
    run(events, 6.0)
    assert there == ["x"]


def test_of_a_link_that_ends_the_first_words_may_still_arrive() -> None:
    counts = set[int]()
    for seed in range(30):
        events, network = new(seed)
        heard = list[int]()
        link = network.link("a", "b", heard.append)
        for number in range(4):
            link.post(number)
        link.end()
        link.post(9)
        run(events, 10.0)
        assert heard == list(range(len(heard)))
        counts.add(len(heard))
    assert counts == {0, 1, 2, 3, 4}


def test_a_place_that_sleeps_hears_later() -> None:
    events = Events(random=Random(1))
    network = Network(
        events=events, delay_s=0.001, asleep_s=lambda _place: 3.0 - events.now_s
    )
    heard = list[float]()
    network.link("a", "b", lambda _message: heard.append(events.now_s)).post("x")
    run(events, 4.0)
    assert len(heard) == 1 and heard[0] >= 3.0
