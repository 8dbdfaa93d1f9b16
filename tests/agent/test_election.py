"""Who stands for root, and whose word is taken."""

from __future__ import annotations

from twinstep.agent.election import Abdicate, Campaign, Election, Follow, RootKey


def key(machine: str, term: int) -> RootKey:
    return RootKey(machine=machine, host="h", port=1, term=term)


def test_without_a_root_every_agent_stands_with_the_next_term() -> None:
    one = Election(machine="m0")
    assert one.observe(None, term=0) == [Campaign(term=1)]
    assert one.observe(None, term=4) == [Campaign(term=5)]


def test_the_one_that_the_store_names_is_followed_and_once() -> None:
    one = Election(machine="m0")
    assert one.observe(key("m1", 3), term=3) == [Follow(root=key("m1", 3))]
    assert one.observe(key("m1", 3), term=3) == []
    assert not one.is_root


def test_a_root_whose_key_is_gone_steps_down_and_stands_again() -> None:
    one = Election(machine="m0")
    one.observe(key("m0", 1), term=1)
    assert one.is_root
    gone, stands = one.observe(None, term=1)
    assert isinstance(gone, Abdicate) and stands == Campaign(term=2)


def test_a_paused_root_that_finds_another_steps_down_and_follows() -> None:
    one = Election(machine="m0")
    one.observe(key("m0", 1), term=1)
    gone, follows = one.observe(key("m1", 2), term=2)
    assert isinstance(gone, Abdicate) and follows == Follow(root=key("m1", 2))
    assert not one.is_root


def test_the_same_machine_in_a_new_term_is_another_root() -> None:
    one = Election(machine="m0")
    one.observe(key("m0", 1), term=1)
    gone, follows = one.observe(key("m0", 2), term=2)
    assert isinstance(gone, Abdicate) and isinstance(follows, Follow)


def test_the_term_never_falls_and_older_words_do_not_count() -> None:
    one = Election(machine="m0")
    one.observe(key("m1", 5), term=5)
    one.observe(None, term=3)
    assert one.term == 5
    assert one.accepts(5) and not one.accepts(4)
    assert one.accepts(6) and not one.accepts(5)
