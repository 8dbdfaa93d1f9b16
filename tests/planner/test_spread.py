"""Copies of a job in pods: in other cubes and pods, or kept by training itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinstep.errors import ConfigError
from twinstep.planner.spread import Spread, domains, spread
from twinstep.planner.topology import Pods

POD = Pods(standby_cubes=4)
TWO = replace(POD, pods=2)
CUT = replace(TWO, replicated=False)
"""Both pods train one model: each state is in one of them."""


def cubes(found: Spread, machine: int) -> set[int]:
    return {holder // found.pods.cube_hosts for holder in found.holders_of(machine)}


def pods(found: Spread, machine: int) -> set[int]:
    return {holder // found.pods.pod_hosts for holder in found.holders_of(machine)}


def test_pods_that_train_alike_keep_copies_without_sending_any() -> None:
    """Gemini 1.0 report, section 3: data parallelism across pods; redundant copies of
    the state, of which an intact one is recovered from."""
    found = spread(TWO, copies=2)
    assert (found.copies, found.shared, found.sent) == (2, 2, 0)
    assert found.holders_of(0) == (0, 960) and found.holders_of(961) == (961, 1)
    assert "nothing is sent" in found.says()


def test_copies_beyond_the_pods_are_sent_inside_each() -> None:
    """Three copies over two pods: two in each, since pods are alike."""
    found = spread(TWO, copies=3)
    assert (found.copies, found.sent) == (4, 1)
    for machine in range(TWO.hosts):
        holders = found.holders_of(machine)
        assert holders[0] == machine and len(set(holders)) == 4
        assert pods(found, machine) == {0, 1} and len(cubes(found, machine)) == 4


@pytest.mark.parametrize("strategy", ["group", "ring", "mixed", "tail"])
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_in_one_pod_holders_are_in_separate_cubes(copies: int, strategy: str) -> None:
    found = spread(POD, copies=copies, strategy=strategy)
    assert found.sent == copies - 1 and found.placement.strategy == strategy
    for machine in range(POD.hosts):
        assert len(cubes(found, machine)) == copies


def test_domains_are_nested_pods_first_then_cubes() -> None:
    """Three copies of a state that pods do not share: in both pods, in three cubes."""
    found = spread(CUT, copies=3)
    assert (found.shared, found.sent) == (1, 2)
    for machine in range(CUT.hosts):
        assert pods(found, machine) == {0, 1} and len(cubes(found, machine)) == 3


def test_copies_can_be_asked_into_separate_pods() -> None:
    found = spread(CUT, copies=2, apart="pod")
    assert all(pods(found, machine) == {0, 1} for machine in range(CUT.hosts))
    assert found.says() == "2 copies of each shard, in separate pods: each host sends 1"


def test_what_survives_is_read_from_the_holders() -> None:
    cube = set(range(16))
    assert spread(POD).survives(cube)
    assert not spread(POD, copies=1, apart="host").survives({3})
    assert not spread(POD).survives(set(range(960)))
    assert spread(TWO).survives(set(range(960)))
    assert not spread(TWO).survives({5, 965})
    assert spread(TWO, copies=1, apart="host").survives({5}), "pods are copies unasked"


def test_domains_name_the_pod_and_the_cube_of_each_machine() -> None:
    names = domains(TWO)
    assert len(names) == 1920 and len(set(names)) == 120
    assert (names[0], names[15], names[16]) == (
        "pod0/cube0",
        "pod0/cube0",
        "pod0/cube1",
    )
    assert names[960] == "pod1/cube0"
    assert set(domains(TWO, apart="pod")) == {"pod0", "pod1"}
    assert domains(TWO, apart="host") == ()


def test_copies_that_have_no_place_apart_are_refused() -> None:
    single = Pods(cubes_per_pod=1)
    with pytest.raises(ConfigError, match=r"copies \(2\).* the 1 cubes.*apart='host'"):
        spread(single, copies=2)
    assert spread(single, copies=2, apart="host").sent == 1
    with pytest.raises(ConfigError, match=r"copies \(2\).* the 1 pods.*apart='cube'"):
        spread(POD, copies=2, apart="pod")
    with pytest.raises(ConfigError, match=r"copies \(0\) must be between 1"):
        spread(POD, copies=0)
    with pytest.raises(
        ConfigError, match="apart is 'rack'; use one of host, cube, pod"
    ):
        spread(POD, apart="rack")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="placement is 'star'"):
        spread(POD, strategy="star")


def test_placement_refuses_what_no_order_does() -> None:
    """27 cubes of one host and 10 copies: the last ring of 17 is within 27 cubes; of
    ten cubes and 6 copies it would take all ten hosts and still be apart; but three
    hosts a cube, 5 cubes and 4 copies end in a ring of 7, which needs 7 cubes."""
    one_host = Pods(cube=(2, 2, 1), cubes_per_pod=27)
    assert spread(one_host, copies=10).sent == 9
    three = Pods(cube=(2, 2, 3), cubes_per_pod=5)
    with pytest.raises(ConfigError, match="form a ring with copies=4.*strategy='tail'"):
        spread(three, copies=4)
    found = spread(three, copies=4, strategy="tail")
    assert all(len(cubes(found, machine)) == 4 for machine in range(three.hosts))
