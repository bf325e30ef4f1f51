"""What a state says of its end, and that a clock without some writers is the clock it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import Dot
from dynamo_ray.core.remains import (
    dead_since_ms,
    idle_writers,
    is_alive,
    last_change_ms,
    without_writers,
    writers_in,
)
from dynamo_ray.core.version import Kind, State, decode, decode_strict, encode, purged
from tests.core.histories import dot, state, version, writer

VALUE = version(dot("a", 1), b"v")
DELETED = version(dot("a", 1), None)._replace(wall_ms=500)
EXPIRING = VALUE._replace(expiry_ms=900)


@pytest.mark.parametrize(
    "versions, since_ms",
    [
        ([VALUE], 0),
        ([DELETED], 500),
        ([EXPIRING], 900),
        ([purged(EXPIRING)], 900),
        ([DELETED, EXPIRING._replace(dot=dot("b", 1))], 900),
        ([DELETED, VALUE._replace(dot=dot("b", 1))], 0),
        ([], 0),
    ],
)
def test_a_state_is_dead_once_its_last_version_is(versions: list[object], since_ms: int) -> None:
    held = decode(state(*versions))  # type: ignore[arg-type]
    assert dead_since_ms(held) == since_ms


def test_one_look_tells_only_what_nothing_can_be_let_go_of() -> None:
    assert is_alive(state(VALUE))
    for other in (DELETED, EXPIRING, purged(EXPIRING)):
        assert not is_alive(state(other))
    assert not is_alive(state(VALUE, also_seen=[dot("b", 1)]))
    assert not is_alive(state(VALUE, VALUE._replace(dot=dot("b", 1))))


def test_an_idle_writer_is_one_that_shows_nothing() -> None:
    held = state(VALUE, also_seen=[dot("b", 1), dot("c", 4)])
    assert idle_writers(decode(held)) == (writer("b"), writer("c"))
    assert idle_writers(decode(state(VALUE))) == ()
    assert last_change_ms(decode(held)) == VALUE.wall_ms
    assert last_change_ms(State()) == 0


def test_a_message_names_writers_one_after_the_other() -> None:
    assert writers_in(writer("a") + writer("b")) == [writer("a"), writer("b")]
    assert writers_in(b"") == []


_dots = st.builds(dot, st.sampled_from("abc"), st.integers(1, 6), life=st.integers(1, 2))


@given(st.sets(_dots, min_size=1, max_size=5), st.sets(_dots, max_size=8), st.data())
def test_without_some_writers_all_else_is_as_it_was(
    shown: set[Dot], seen: set[Dot], data: st.DataObject
) -> None:
    held = state(*(version(one, b"v") for one in sorted(shown)), also_seen=seen)
    known = sorted({one.writer for one in shown | seen})
    gone = data.draw(st.sets(st.sampled_from(known)))
    before, after = decode(held), decode_strict(without_writers(held, gone))
    assert after.versions == before.versions
    dropped = gone - {one.writer for one in shown}
    for one in {Dot(w, n) for w in known for n in range(1, 8)}:
        assert after.clock.covers(one) == (before.clock.covers(one) and one.writer not in dropped)
    assert without_writers(encode(after), gone) == encode(after)


def test_a_purged_version_of_a_kind_is_still_of_its_writer() -> None:
    held = replace(decode(state(EXPIRING)), versions=(purged(EXPIRING),))
    assert held.versions[0].kind == Kind.PURGED and idle_writers(held) == ()
