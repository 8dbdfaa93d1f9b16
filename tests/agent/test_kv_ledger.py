"""The key-value store's contents, leases and history, by arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from twinstep.agent.kv import (
    Compacted,
    Compare,
    Delete,
    Done,
    Event,
    Get,
    Got,
    Grant,
    Granted,
    Item,
    LeaseGone,
    Put,
    Renew,
    Request,
    Revoke,
    Transact,
    absent,
)
from twinstep.agent.kv_ledger import Ledger, Limits
from twinstep.errors import Refused


def put(ledger: Ledger, key: str, value: bytes = b"", *, lease: int = 0) -> int:
    request = Transact(operations=[Put(key=key, value=value, lease=lease)], when=[])
    done = ledger.apply(request, ledger.looked_s or 0.0)
    assert isinstance(done, Done)
    return done.revision


def grant(ledger: Ledger, ttl_s: float, now_s: float = 0.0) -> int:
    granted = ledger.apply(Grant(ttl_s=ttl_s), now_s)
    assert isinstance(granted, Granted)
    return granted.lease


def test_a_lease_lapses_at_its_time_and_takes_its_keys() -> None:
    ledger = Ledger()
    lease = grant(ledger, 0.4)
    put(ledger, "a", lease=lease)
    put(ledger, "b")
    ledger.expire(0.39)
    assert sorted(ledger.items) == ["a", "b"]
    ledger.expire(0.4)
    assert sorted(ledger.items) == ["b"]
    assert ledger.events("", 3) == [Event(revision=4, key="a", item=None)]


def test_a_renewed_lease_lives_its_whole_time_again() -> None:
    ledger = Ledger()
    lease = grant(ledger, 0.4)
    assert ledger.apply(Renew(lease=lease), 0.3) == Done(done=True, revision=1)
    ledger.expire(0.69)
    assert lease in ledger.leases
    ledger.expire(0.7)
    assert ledger.apply(Renew(lease=lease), 0.7) == Done(done=False, revision=1)


def test_no_lease_lapses_because_the_store_itself_stood_still() -> None:
    ledger = Ledger(limits=Limits(pause_s_max=0.5))
    lease = grant(ledger, 1.0)
    ledger.expire(0.4)
    ledger.expire(30.4)
    assert lease in ledger.leases
    ledger.expire(30.9)
    assert lease in ledger.leases
    ledger.expire(31.0)
    assert lease not in ledger.leases


def test_a_key_put_anew_leaves_its_old_lease() -> None:
    ledger = Ledger()
    first, second = grant(ledger, 0.2), grant(ledger, 0.4)
    put(ledger, "a", lease=first)
    put(ledger, "a", lease=second)
    ledger.expire(0.3)
    assert "a" in ledger.items
    ledger.expire(0.4)
    assert "a" not in ledger.items


def test_history_is_bounded_and_says_so() -> None:
    ledger = Ledger(limits=Limits(history_events_max=3))
    for count in range(5):
        put(ledger, f"k{count}")
    assert [event.key for event in ledger.events("", 3)] == ["k2", "k3", "k4"]
    with pytest.raises(Compacted, match="after 3 up to 6"):
        ledger.events("", 2)
    with pytest.raises(Compacted):
        ledger.events("", 7)  # a store that was started anew


def test_history_is_bounded_in_bytes_too() -> None:
    ledger = Ledger(limits=Limits(history_bytes_max=100))
    for count in range(9):
        put(ledger, f"k{count}", b"x" * 30)
    assert ledger.history_bytes <= 100
    assert ledger.compacted == 7


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Transact(operations=[Put(key="a", value=b"x" * 11)], when=[]),
            "a has 11 bytes; at most 10",
        ),
        (
            Transact(operations=[Put(key="k" * 9, value=b"")], when=[]),
            "key has 9 bytes; at most 8",
        ),
        (
            Transact(
                operations=[
                    Put(key=f"k{count}", value=b"x" * 10) for count in range(3)
                ],
                when=[],
            ),
            "would hold 36 bytes; at most 30",
        ),
        (
            Transact(operations=[Delete(key=key) for key in "abcde"], when=[]),
            "5 operations",
        ),
        (
            Transact(operations=[], when=[absent("a")] * 5),
            "5 operations or comparisons",
        ),
        (
            Transact(operations=[Put(key="a", value=b""), Delete(key="a")], when=[]),
            "one key twice",
        ),
        (Grant(ttl_s=0), "ttl_s is 0"),
        (Grant(ttl_s=float("nan")), "ttl_s is nan"),
    ],
)
def test_what_would_pass_a_bound_is_refused_whole(
    request_: Request, message: str
) -> None:
    limits = Limits(
        key_bytes_max=8, value_bytes_max=10, store_bytes_max=30, operations_max=4
    )
    ledger = Ledger(limits=limits)
    with pytest.raises(Refused, match=message):
        ledger.apply(request_, 0.0)
    assert (ledger.revision, ledger.items, ledger.leases) == (1, {}, {})


def test_leases_are_bounded() -> None:
    ledger = Ledger(limits=Limits(leases_max=1))
    lease = grant(ledger, 1.0)
    with pytest.raises(Refused, match="at most 1"):
        grant(ledger, 1.0)
    ledger.apply(Revoke(lease=lease), 0.0)
    grant(ledger, 1.0)


KEYS = st.sampled_from(["a", "ab", "b"])
OPERATIONS = st.one_of(
    st.builds(Put, key=KEYS, value=st.binary(max_size=3), lease=st.integers(0, 2)),
    st.builds(Delete, key=KEYS),
)
REQUESTS = st.one_of(
    st.builds(
        Transact,
        operations=st.lists(OPERATIONS, max_size=3, unique_by=lambda each: each.key),
        when=st.lists(
            st.builds(
                Compare,
                key=KEYS,
                what=st.sampled_from(["created", "changed"]),
                equals=st.integers(0, 4),
            ),
            max_size=1,
        ),
    ),
    st.builds(Grant, ttl_s=st.just(1.0)),
    st.builds(Renew, lease=st.integers(1, 3)),
    st.builds(Revoke, lease=st.integers(1, 3)),
)


@given(st.lists(st.tuples(REQUESTS, st.floats(0, 0.4)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_replaying_the_history_gives_the_contents(
    script: list[tuple[Request, float]],
) -> None:
    ledger, now_s = Ledger(), 0.0
    for request, wait_s in script:
        now_s += wait_s
        try:
            ledger.apply(request, now_s)
        except LeaseGone:
            continue
        replayed: dict[str, Item] = {}
        for event in ledger.events("", 1):
            if event.item is None:
                del replayed[event.key]
            else:
                replayed[event.key] = event.item
        assert replayed == ledger.items
        assert ledger.store_bytes == sum(
            len(key) + len(item.value) for key, item in ledger.items.items()
        )
        leased = {
            (lease, key) for lease, life in ledger.leases.items() for key in life.keys
        }
        assert leased == {
            (item.lease, key) for key, item in ledger.items.items() if item.lease
        }
        got = ledger.apply(Get(prefix="a"), now_s)
        assert isinstance(got, Got)
        assert list(got.items) == sorted(k for k in ledger.items if k[0] == "a")
