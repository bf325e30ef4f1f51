"""What has been seen: examples, laws, and a comparison with plain sets of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import EMPTY, Clock, Dot, clock, join, writer_id, writer_text
from tests.core.histories import dot, incarnation, node_id, writer

A, B = writer("a"), writer("b")


def test_a_clock_covers_the_events_of_its_vector_and_the_dots_beyond() -> None:
    seen = clock({A: 2}, [Dot(A, 4), Dot(B, 2)])
    assert [n for n in range(1, 6) if seen.covers(Dot(A, n))] == [1, 2, 4]
    assert [n for n in range(1, 6) if seen.covers(Dot(B, n))] == [2]


def test_a_dot_that_closes_the_gap_moves_into_the_vector() -> None:
    seen = clock({A: 2}, [Dot(A, 4), Dot(A, 5)])
    assert seen == Clock({A: 2}, frozenset({Dot(A, 4), Dot(A, 5)}))
    assert seen.with_dot(Dot(A, 3)) == Clock({A: 5})


def test_nothing_and_counter_zero_cover_nothing() -> None:
    assert clock({A: 0}) == EMPTY
    assert not EMPTY.covers(Dot(A, 1))


def test_two_lives_of_one_node_are_two_writers() -> None:
    assert not clock({writer("a", life=1): 9}).covers(dot("a", 1, life=2))


def test_a_writer_id_is_thirty_bytes_and_reads_as_node_incarnation_life() -> None:
    one = writer_id(node_id("a"), incarnation(7), 3)
    assert len(one) == 30
    assert writer_text(one).startswith("6161616161616161#")
    assert writer_text(one).endswith(".3")
    assert str(Dot(one, 5)).endswith(".3:5")


def test_a_clock_can_be_read_by_people() -> None:
    text = str(clock({A: 2}, [Dot(B, 3)]))
    assert text == "{" + writer_text(A) + ":..2 " + writer_text(B) + ":3}"


dots = st.builds(Dot, st.sampled_from([A, B, writer("a", life=2)]), st.integers(1, 6))
dot_sets = st.frozensets(dots)


def clock_from(events: frozenset[Dot]) -> Clock:
    return clock({}, events)


@given(dot_sets, dot_sets, dot_sets)
def test_join_is_commutative_associative_and_idempotent(
    x: frozenset[Dot], y: frozenset[Dot], z: frozenset[Dot]
) -> None:
    a, b, c = map(clock_from, (x, y, z))
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(a, a) == a
    assert join(a, EMPTY) == a


@given(dot_sets, dot_sets)
def test_a_clock_is_the_set_of_its_events(x: frozenset[Dot], y: frozenset[Dot]) -> None:
    a, b = clock_from(x), clock_from(y)
    universe = [Dot(w, n) for w in (A, B, writer("a", life=2)) for n in range(1, 8)]
    assert {d for d in universe if a.covers(d)} == x
    assert {d for d in universe if join(a, b).covers(d)} == x | y
    assert a.includes(b) == (y <= x)
    assert (a == b) == (x == y)


@given(dot_sets, st.lists(dots))
def test_the_order_of_events_plays_no_part(x: frozenset[Dot], more: list[Dot]) -> None:
    one_by_one = clock_from(x)
    for event in more:
        one_by_one = one_by_one.with_dot(event)
    assert one_by_one == clock_from(x | set(more))
