"""The kernel is told what is wrong, in its own words."""

from __future__ import annotations

from twinstep.demo.hosts.links import Links


def test_nothing_wrong_is_an_empty_table() -> None:
    assert "drop" not in Links().rules()


def test_each_damage_is_a_rule() -> None:
    links = Links().but_cut(3).but_deaf(1, 2).but_lossy(4, 0.2)
    lines = links.rules().splitlines()
    assert lines.count('iifname { "h3", "d3" } drop') == 1
    assert lines.count('oifname { "h3", "d3" } drop') == 1
    assert lines.count('iifname { "h1", "d1" } oifname { "h2", "d2" } drop') == 1
    assert sum("numgen random mod 10000 < 2000" in line for line in lines) == 2
    assert 'iifname { "h2", "d2" } oifname { "h1", "d1" } drop' not in lines


def test_a_host_is_healed_alone() -> None:
    links = Links().but_split(1, 2).but_cut(3).but_lossy(4, 0.1)
    assert links.healed(1) == Links().but_cut(3).but_lossy(4, 0.1)
    assert links.healed(3).healed(4) == Links().but_split(1, 2)
