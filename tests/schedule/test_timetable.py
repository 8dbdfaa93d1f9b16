"""Algorithm 2 of GEMINI as it has to be, and what is wrong with it as it is printed.

Sections are of the paper (SOSP 2023, doi 10.1145/3600006.3613145).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from twinstep.config import Schedule
from twinstep.schedule.timetable import Link, Timetable, fit, link

# The printed form, transcribed.


class Printed(NamedTuple):
    partitions: list[float]
    """Sizes, with no word on which span they go into."""
    endless: bool
    """It was cut off."""


def printed(
    spans: list[float],
    *,
    copy_bytes: float,
    copies: int,
    bytes_per_s: float,
    startup_s: float,
    piece_bytes: float,
    mu: float,
    rounds_max: int = 10_000,
) -> Printed:
    """Section 5.3, Algorithm 2, line by line. `copies` is the paper's m - 1."""

    def takes_s(size: float) -> float:
        return startup_s + size / bytes_per_s

    spans = [*spans[:-1], math.inf]
    partitions: list[float] = []
    copy, remain = 0, copy_bytes
    for length in spans:
        span = mu * length
        rounds = 0
        while span > 0:
            rounds += 1
            if rounds > rounds_max:
                return Printed(partitions, endless=True)
            if span >= takes_s(piece_bytes):
                size = piece_bytes
            else:
                size = max(0, (span - startup_s) * bytes_per_s)
            size = min(remain, size)
            if size > 0:
                remain -= size
                span -= takes_s(remain)
                partitions.append(size)
            if remain == 0:
                if copy < copies:
                    copy += 1
                    remain = copy_bytes
                else:
                    return Printed(partitions, endless=False)
    return Printed(partitions, endless=False)


# Of 1 byte a second, so that bytes are seconds.
SLOW = Link(bytes_per_s=1.0, startup_s=0.0, chunk_bytes=1, buffer_bytes=10, buffers=1)


def planned(spans: list[float], *copies_bytes: int, **changes: float) -> Timetable:
    changed = {"startup_s": 0.0, **changes}
    slow = Link(
        bytes_per_s=1.0,
        startup_s=changed["startup_s"],
        chunk_bytes=1,
        buffer_bytes=10,
        buffers=1,
    )
    return fit(spans, copies_bytes=copies_bytes, link=slow, mu=1.0)


def test_as_printed_a_span_is_charged_with_the_rest_of_the_copy() -> None:
    """Section 5.3: `span -= f(remain)`, where f(size) is meant. A copy of 30 s in a
    span of 30 s: the first piece of 10 costs 20, the second 10, and no third fits,
    so that a span which holds the whole copy is left a third empty."""
    as_printed = printed(
        [30.0, 5.0],
        copy_bytes=30,
        copies=0,
        bytes_per_s=1.0,
        startup_s=0.0,
        piece_bytes=10,
        mu=1.0,
    )
    assert as_printed.partitions[:2] == [10, 10]
    assert len(as_printed.partitions) == 3, "the third goes into the endless span"
    table = planned([30.0, 5.0], 30)
    assert [(p.span, p.size) for p in table.pieces] == [(0, 10), (0, 10), (0, 10)]


def test_as_printed_the_rest_is_charged_too_little_at_the_end() -> None:
    """The same defect overfills: the last piece of a copy is charged f(0) = startup."""
    as_printed = printed(
        [10.0, 0.0],
        copy_bytes=9,
        copies=5,
        bytes_per_s=1.0,
        startup_s=0.0,
        piece_bytes=9,
        mu=1.0,
    )
    assert sum(as_printed.partitions) == 6 * 9, "54 s of copies in a span of 10 s"
    table = planned([10.0, 0.0], *[9] * 5)
    assert sum(p.size for p in table.pieces) == 10


@pytest.mark.parametrize("m", [2, 3])
def test_as_printed_m_copies_are_planned_instead_of_m_minus_1(m: int) -> None:
    """Section 5.3: ckpt_id counts from 0 while it is < m - 1, which makes m copies. The
    machine's own copy does not cross the network (section 4.1)."""
    as_printed = printed(
        [1000.0, 1000.0],
        copy_bytes=20,
        copies=m - 1,
        bytes_per_s=1.0,
        startup_s=0.0,
        piece_bytes=10,
        mu=0.5,
    )
    assert sum(as_printed.partitions) == m * 20
    table = planned([1000.0, 1000.0], *[20] * (m - 1))
    assert sum(p.size for p in table.pieces) == (m - 1) * 20


@pytest.mark.parametrize("length_s", [0.5, 2.0])
def test_as_printed_a_span_as_short_as_the_startup_is_never_left(
    length_s: float,
) -> None:
    """Section 5.3: where 0 < span <= alpha, size is 0, and neither span nor remain
    changes any more."""
    as_printed = printed(
        [length_s, 100.0],
        copy_bytes=20,
        copies=1,
        bytes_per_s=1.0,
        startup_s=2.0,
        piece_bytes=10,
        mu=1.0,
    )
    assert as_printed == Printed([], endless=True)
    table = planned([length_s, 100.0], 20, startup_s=2.0)
    assert [p.span for p in table.pieces] == [1, 1]


def test_as_printed_nobody_knows_which_piece_goes_where() -> None:
    """Section 5.3: the result is a list of sizes. Of the two plans below it is the same
    list, and the pieces are in other spans."""
    lists, places = [], []
    for spans in ([10.0, 10.0, 1.0], [1e-9, 10.0, 1.0]):
        lists.append(
            printed(
                spans,
                copy_bytes=10,
                copies=0,
                bytes_per_s=1.0,
                startup_s=0.0,
                piece_bytes=10,
                mu=1.0,
            ).partitions
        )
        places.append([(p.span, p.offset, p.size) for p in planned(spans, 10).pieces])
    assert [round(sum(sizes)) for sizes in lists] == [10, 10]
    assert places == [[(0, 0, 10)], [(1, 0, 10)]]


# The corrected form.

links = st.builds(
    Link,
    bytes_per_s=st.floats(1.0, 1e3),
    startup_s=st.floats(0.0, 2.0),
    chunk_bytes=st.integers(1, 16),
    buffer_bytes=st.integers(16 * 4, 400),
    buffers=st.integers(1, 4),
    piece_s_max=st.floats(0.01, 10.0) | st.just(math.inf),
)
span_lists = st.lists(st.floats(0.0, 5.0), max_size=6)
copy_lists = st.lists(st.integers(0, 2000), max_size=4)
shares = st.floats(0.1, 1.0)


@given(span_lists, copy_lists, links, shares, st.integers(1, 6))
def test_every_byte_is_planned_once_or_counted(
    spans: list[float], copies: list[int], link: Link, mu: float, every_max: int
) -> None:
    table = fit(spans, copies_bytes=copies, link=link, mu=mu, every_max=every_max)
    ends = [0] * len(copies)
    for piece in table.pieces:
        assert piece.size > 0
        assert piece.offset == ends[piece.copy], "without a hole, and none twice"
        ends[piece.copy] += piece.size
    assert all(end <= size for end, size in zip(ends, copies, strict=True))
    assert table.unfitted_bytes == sum(copies) - sum(ends)
    order = [(p.span, p.copy) for p in table.pieces]
    assert order == sorted(order)
    assert table.every in (0, table.steps)
    assert 1 <= table.steps <= every_max


@given(span_lists, copy_lists, links, shares, st.integers(1, 6))
def test_no_piece_is_larger_than_a_buffer_and_no_span_is_overfull(
    spans: list[float], copies: list[int], link: Link, mu: float, every_max: int
) -> None:
    table = fit(spans, copies_bytes=copies, link=link, mu=mu, every_max=every_max)
    used: dict[int, float] = {}
    for piece in table.pieces:
        assert piece.size <= link.buffer_bytes / link.buffers
        last = piece.offset + piece.size == copies[piece.copy]
        assert last or piece.size % link.chunk_bytes == 0, "chunks are not cut"
        took_s = link.startup_s + piece.size / link.bytes_per_s
        assert took_s <= link.piece_s_max + 1e-9 or piece.size <= link.chunk_bytes
        used[piece.span] = used.get(piece.span, 0.0) + took_s
    for span, used_s in used.items():
        assert used_s <= mu * spans[span % len(spans)] + 1e-9, span
    for at in range(len(spans)):
        planned = sum(p.size for p in table.pieces if p.span % len(spans) == at)
        assert table.planned_bytes(at) == planned


@given(span_lists, copy_lists, links, shares)
def test_every_is_the_least_that_does(
    spans: list[float], copies: list[int], link: Link, mu: float
) -> None:
    def table(every_max: int) -> Timetable:
        return fit(spans, copies_bytes=copies, link=link, mu=mu, every_max=every_max)

    every = table(8).every
    if every == 0:
        assert table(8).unfitted_bytes > 0
        assert all(table(k).unfitted_bytes > 0 for k in range(1, 8))
    else:
        assert table(every) == table(8)
        assert all(table(k).unfitted_bytes > 0 for k in range(1, every))


@given(
    st.lists(st.integers(0, 60), max_size=4),
    st.integers(0, 300),
    st.integers(0, 3),
    st.integers(1, 12),
)
def test_one_copy_takes_as_few_steps_as_any_plan_could(
    spans: list[int], size: int, startup_s: int, piece_bytes: int
) -> None:
    """What fits at most into the spans, counted for each by itself."""
    slow = Link(
        bytes_per_s=1.0,
        startup_s=startup_s,
        chunk_bytes=1,
        buffer_bytes=piece_bytes,
        buffers=1,
    )
    a_step = 0
    for length in spans:
        whole, rest = divmod(length, startup_s + piece_bytes)
        a_step += whole * piece_bytes + max(0, rest - startup_s)
    every = fit(spans, copies_bytes=[size], link=slow, mu=1.0, every_max=1000).every
    if size == 0:
        assert every == 1
    elif a_step == 0:
        assert every == 0
    else:
        assert every == math.ceil(size / a_step)


def test_a_copy_goes_over_the_spans_of_several_steps() -> None:
    """Section 5.3: what does not fit lowers the frequency."""
    table = fit([6.0, 4.0], copies_bytes=[25], link=SLOW, mu=1.0, every_max=8)
    assert [(p.span, p.offset, p.size) for p in table.pieces] == [
        (0, 0, 6),
        (1, 6, 4),
        (2, 10, 6),
        (3, 16, 4),
        (4, 20, 5),
    ]
    assert (table.every, table.unfitted_bytes) == (3, 0)
    short = fit([6.0, 4.0], copies_bytes=[25], link=SLOW, mu=1.0, every_max=2)
    assert (short.every, short.steps, short.unfitted_bytes) == (0, 2, 5)


def test_without_spans_nothing_fits() -> None:
    for spans in ([], [0.0], [1e-9]):
        table = fit(spans, copies_bytes=[25], link=SLOW, mu=1.0, every_max=8)
        assert (table.pieces, table.every, table.unfitted_bytes) == ((), 0, 25)
    assert fit([], copies_bytes=[], link=SLOW, mu=1.0).every == 1


def test_what_settings_leave_open_is_as_measured() -> None:
    measured = {"chunk_bytes": 4096, "bytes_per_s": 1e9, "startup_s": 1e-4}
    open_ = link(Schedule(), **measured)
    assert (open_.bytes_per_s, open_.startup_s) == (1e9, 1e-4)
    given_ = link(Schedule(link_bytes_per_s=5e8, startup_s=2e-4), **measured)
    assert (given_.bytes_per_s, given_.startup_s) == (5e8, 2e-4)


@pytest.mark.parametrize(
    ("bytes_per_s", "piece_bytes"),
    [(50e9, 32 * 2**20), (1e9, 4882432), (25e6, 2**19)],
    ids=["as large as a buffer", "as long as piece_s_max", "no less than a chunk"],
)
def test_the_largest_piece(bytes_per_s: float, piece_bytes: int) -> None:
    chunk_bytes = 2**19 if bytes_per_s < 1e9 else 4096
    settings = Schedule()
    one = link(
        settings, chunk_bytes=chunk_bytes, bytes_per_s=bytes_per_s, startup_s=1e-4
    )
    if bytes_per_s == 1e9:
        piece_bytes = int((settings.piece_s_max - 1e-4) * 1e9) // 4096 * 4096
    assert one.piece_bytes == piece_bytes
