"""One new dot and what it replaces: the vectors of the literature, laws, and the dumb twin."""

from __future__ import annotations

import pytest
from hypothesis import given

from dynamo_ray.core.clock import Clock, Dot, join
from dynamo_ray.core.merge import merge
from dynamo_ray.core.mint import (
    CONCURRENT,
    _general,
    again,
    mint,
    operation_id,
    own_dot,
)
from dynamo_ray.core.version import (
    Kind,
    MalformedStateError,
    clock_of,
    decode,
    decode_clock,
    is_simple,
    siblings,
)
from tests.core.histories import (
    History,
    body,
    dot,
    histories,
    incarnation,
    node_id,
    seen,
    shown,
    state,
    version,
    writer,
)

A1, A2, A3 = dot("a", 1), dot("a", 2), dot("a", 3)
B1, C1 = dot("b", 1), dot("c", 1)


def put(held: bytes | None, at: Dot, context: bytes | None, value: bytes) -> bytes:
    return mint(held, at, context, body(value)).state


# The vectors of dvvset.erl, with our dots (dynamo.md, 4.3).


def test_update_with_the_context_of_what_is_there_replaces_it() -> None:
    a0 = put(None, A1, None, b"v1")
    a1 = put(a0, A2, clock_of(a0), b"v2")
    assert a1 == state(version(A2, b"v2"), also_seen=[A1])
    assert put(a1, B1, clock_of(a1), b"v3") == state(version(B1, b"v3"), also_seen=[A1, A2])


def test_update_with_an_older_context_keeps_what_came_since() -> None:
    a0 = put(None, A1, None, b"v1")
    a1 = put(a0, A2, clock_of(a0), b"v2")
    at_b = put(a1, B1, clock_of(a0), b"v4")
    assert at_b == state(version(A2, b"v2"), version(B1, b"v4"), also_seen=[A1])
    at_a = put(a1, A3, clock_of(a0), b"v5")
    assert at_a == state(version(A2, b"v2"), version(A3, b"v5"), also_seen=[A1])


def test_classic_peter_replaces_what_he_read_and_not_what_came_meanwhile() -> None:
    first = put(None, A1, None, b"v1")
    peters = clock_of(first)
    both = put(first, A2, CONCURRENT, b"v2")
    assert shown(both) == {A1: b"v1", A2: b"v2"}
    assert put(both, A3, peters, b"v3") == state(
        version(A2, b"v2"), version(A3, b"v3"), also_seen=[A1]
    )


def test_figure_3_of_the_paper() -> None:
    """D1, D2 at Sx; D3 at Sy and D4 at Sz from D2; D5 at Sx reconciles both."""
    sx1, sx2, sx3, sy1, sz1 = dot("x", 1), dot("x", 2), dot("x", 3), dot("y", 1), dot("z", 1)
    d1 = put(None, sx1, None, b"D1")
    d2 = put(d1, sx2, clock_of(d1), b"D2")
    assert clock_of(d2) == seen(sx1, sx2)
    d3, d4 = put(d2, sy1, clock_of(d2), b"D3"), put(d2, sz1, clock_of(d2), b"D4")
    assert clock_of(d3) == seen(sx1, sx2, sy1)
    assert clock_of(d4) == seen(sx1, sx2, sz1)
    both = merge(d3, d4)
    assert shown(both) == {sy1: b"D3", sz1: b"D4"}
    assert clock_of(both) == seen(sx1, sx2, sy1, sz1)
    d5 = put(both, sx3, clock_of(both), b"D5")
    assert shown(d5) == {sx3: b"D5"}
    assert clock_of(d5) == seen(sx1, sx2, sx3, sy1, sz1)
    assert merge(d5, d3) == merge(d4, d5) == d5


def test_less_with_a_history_that_branches() -> None:
    """A put at r, then at a, b or z from it; c on top of a's; d on top of c's over b's."""
    base = put(None, dot("r", 1), None, b"A")
    b, b2, b3 = (put(base, dot(n, 1), clock_of(base), n.encode()) for n in "abz")
    c = put(b, dot("c", 1), clock_of(b), b"C")
    d = put(merge(c, b2), dot("d", 1), clock_of(merge(c, b2)), b"D")

    def less(one: bytes, other: bytes) -> bool:
        return one != other and decode(other).clock.includes(decode(one).clock)

    assert all(less(*pair) for pair in [(base, b), (base, c), (b, c), (b, d), (b2, d), (base, d)])
    assert not any(less(*p) for p in [(b2, c), (b, b2), (b2, b), (base, base), (d, b2), (b3, d)])


# The three manners of a put (rule 4), and what it returns (rule 5).


def test_without_a_context_a_put_replaces_what_the_minting_node_holds() -> None:
    held = state(version(B1, b"x"), version(C1, b"y"))
    minted = mint(held, A1, None, body(b"new"))
    assert minted.state == state(version(A1, b"new"), also_seen=[B1, C1])
    assert minted.context == clock_of(minted.state)


def test_with_the_empty_context_a_put_adds_a_version_beside_all_others() -> None:
    held = state(version(B1, b"x"), version(C1, b"y"))
    minted = mint(held, A1, CONCURRENT, body(b"new"))
    assert shown(minted.state) == {B1: b"x", C1: b"y", A1: b"new"}
    assert minted.context == seen(A1)


def test_a_put_returns_what_it_used_plus_its_own_dot_and_nothing_unseen() -> None:
    """v1 and v2 are blind siblings; the writer of v2 must not delete v1 with its answer."""
    first = put(None, A1, CONCURRENT, b"v1")
    second = mint(first, A2, CONCURRENT, body(b"v2"))
    assert second.context == seen(A2)  # a dot beyond the vector: A1 was not seen
    third = put(second.state, A3, second.context, b"v3")
    assert shown(third) == {A1: b"v1", A3: b"v3"}


def test_a_context_may_be_ahead_of_the_node_that_mints() -> None:
    """The version that it replaces arrives later, and is gone already."""
    ahead = put(None, A1, seen(B1), b"new")
    late = state(version(B1, b"old"))
    assert shown(merge(ahead, late)) == {A1: b"new"}


def test_a_context_that_is_no_clock_is_refused() -> None:
    for wrong in (b"x", state(version(A1, b"v"))):
        with pytest.raises(MalformedStateError):
            mint(state(version(B1, b"v")), A1, wrong, body(b"v"))


@pytest.mark.parametrize("rounds", [50])
def test_a_reader_and_a_blind_writer_do_not_explode(rounds: int) -> None:
    """With one vector for all siblings this grows by one each round."""
    held, mine = put(None, A1, CONCURRENT, b"0"), clock_of(put(None, A1, CONCURRENT, b"0"))
    for i in range(rounds):
        at = own_dot(held, writer("a")[:22])
        assert at is not None
        step = mint(held, Dot(at.writer, at.counter + 1), mine, body(b"rmw%d" % i))
        blind = mint(step.state, Dot(at.writer, at.counter + 2), None, body(b"blind%d" % i))
        held, mine = blind.state, step.context
        assert siblings(held) == 1
        held = mint(held, Dot(at.writer, at.counter + 3), mine, body(b"old%d" % i)).state
        assert siblings(held) == 2
        mine = clock_of(held)
    assert len(held) < 300


def test_two_writers_who_only_know_their_own_last_put_stay_two_siblings() -> None:
    held: bytes | None = None
    contexts = [CONCURRENT, CONCURRENT]
    for i in range(1, 101):
        minted = mint(held, Dot(writer("a"), i), contexts[i % 2], body(b"%d" % i))
        held, contexts[i % 2] = minted.state, minted.context
        assert siblings(held) <= 2


# Retries (rule 7).


def test_a_put_id_is_bound_to_the_whole_operation() -> None:
    one = operation_id(b"i" * 16, Kind.VALUE, b"v", None, 0)
    others = [
        operation_id(b"j" * 16, Kind.VALUE, b"v", None, 0),
        operation_id(b"i" * 16, Kind.VALUE, b"w", None, 0),
        operation_id(b"i" * 16, Kind.TOMBSTONE, b"", None, 0),
        operation_id(b"i" * 16, Kind.VALUE, b"v", CONCURRENT, 0),
        operation_id(b"i" * 16, Kind.VALUE, b"v", None, 1),
        operation_id(b"i" * 16, Kind.VALUE, b"", b"v", 0),
        operation_id(b"i" * 16, Kind.VALUE, b"v", b"", 0),
    ]
    assert one == operation_id(b"i" * 16, Kind.VALUE, b"v", None, 0)
    assert len({one, *others}) == 8 and len(one) == 16


def test_a_retry_gets_a_context_that_can_delete_nothing_unseen() -> None:
    first = mint(state(version(B1, b"x")), A1, None, body(b"v"))
    assert again(first.state, A1, None) == first.context
    joined = mint(first.state, C1, CONCURRENT, body(b"beside")).state
    assert again(joined, A1, None) == seen(A1)
    assert again(None, A1, None) == seen(A1)
    assert again(joined, A1, seen(B1)) == seen(B1, A1)


def test_own_dot_is_the_last_of_the_newest_life() -> None:
    prefix = node_id("a") + incarnation(1)
    held = state(
        version(dot("a", 1, life=2), b"v"), version(dot("b", 7), b"w"), also_seen=[A1, A2, A3]
    )
    assert own_dot(held, prefix) == dot("a", 1, life=2)
    assert own_dot(state(version(A2, b"v"), also_seen=[A1]), prefix) == A2
    assert own_dot(state(version(B1, b"v")), prefix) is None
    assert own_dot(state(version(B1, prefix + b" in a value")), prefix) is None
    assert own_dot(None, prefix) is None


# Laws.


@given(histories)
def test_what_a_history_shows_is_what_the_twin_says(history: History) -> None:
    for held, twin in history.states:
        history.check(held, twin)


@given(histories)
def test_the_fast_path_gives_what_the_general_path_gives(history: History) -> None:
    for held, at, context, content in history.mints:
        assert mint(held, at, context, content) == _general(held, at, context, content)


@given(histories)
def test_the_clock_covers_the_old_one_the_context_and_the_dot(history: History) -> None:
    for held, at, context, content in history.mints:
        before = decode(held).clock if held is not None else Clock()
        used = before if context is None else decode_clock(context)
        minted = mint(held, at, context, content)
        assert decode(minted.state).clock == join(before, used).with_dot(at)
        assert decode_clock(minted.context) == used.with_dot(at)
        kept = shown(minted.state).keys() - {at}
        assert kept == {one for one in shown(held) if not used.covers(one)}
        assert shown(minted.state)[at] == content.payload


@given(histories)
def test_own_dot_agrees_with_the_clock(history: History) -> None:
    for held, _ in history.states[-4:]:
        for name in "abc":
            for run in range(1, history.runs + 1):
                prefix = node_id(name) + incarnation(run)
                own = [Dot(w, n) for w, n in decode(held).clock.vector.items() if w[:22] == prefix]
                assert own_dot(held, prefix) == max(own, default=None)
        assert is_simple(held) <= (siblings(held) == 1)
