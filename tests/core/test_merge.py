"""The one merge: examples, laws on states that real histories reach, and a dumb twin."""

from __future__ import annotations

from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import Dot, join
from dynamo_ray.core.lives import Lives
from dynamo_ray.core.merge import merge, merge_states, replaced
from dynamo_ray.core.messages import Merge
from dynamo_ray.core.plain import Plain
from dynamo_ray.core.remembered import RememberedPuts
from dynamo_ray.core.unpersisted import Changes
from dynamo_ray.core.version import (
    PUT_ID_AT,
    State,
    decode,
    decode_clock,
    digest,
    dot_bytes,
    encode,
    hide_expired,
    purged,
)
from tests.core.histories import (
    History,
    TwinNode,
    dot,
    histories,
    seen,
    shown,
    state,
    version,
)


def test_the_later_event_of_one_writer_has_replaced_the_earlier() -> None:
    old = state(version(dot("a", 1), b"v1"))
    new = state(version(dot("a", 2), b"v2"), also_seen=[dot("a", 1)])
    assert merge(old, new) == merge(new, old) == new


def test_versions_that_did_not_see_each_other_stay_siblings() -> None:
    """dvvset: {[{a,1,[v1]}],[]} with {[{b,1,[v2]}],[]}."""
    both = merge(state(version(dot("a", 1), b"v1")), state(version(dot("b", 1), b"v2")))
    assert shown(both) == {dot("a", 1): b"v1", dot("b", 1): b"v2"}


def test_an_event_that_one_side_saw_and_no_longer_holds_is_gone() -> None:
    """dvvset: W={[{a,1,[]}],[]}, Z={[{a,2,[v2,v1]}],[]} gives {[{a,2,[v2]}],[]}."""
    w = state(also_seen=[dot("a", 1)])
    z = state(version(dot("a", 1), b"v1"), version(dot("a", 2), b"v2"))
    assert merge(w, z) == merge(z, w)
    assert shown(merge(w, z)) == {dot("a", 2): b"v2"}
    assert decode(merge(w, z)).clock == decode_clock(seen(dot("a", 1), dot("a", 2)))


def test_a_clock_without_versions_is_joined() -> None:
    """dvvset: {[{x,1,[]}],[]} with {[{a,1,[v1]}],[]}."""
    both = merge(state(also_seen=[dot("x", 1)]), state(version(dot("a", 1), b"v1")))
    assert both == state(version(dot("a", 1), b"v1"), also_seen=[dot("x", 1)])


def test_equal_values_of_two_writers_stay_two_versions() -> None:
    """dvvset: {a,2,[]}+{b,1,[v3]} with {a,2,[]}+{c,1,[v3]}."""
    base = [dot("a", 1), dot("a", 2)]
    left = state(version(dot("b", 1), b"v3"), also_seen=base)
    right = state(version(dot("c", 1), b"v3"), also_seen=base)
    assert shown(merge(left, right)) == {dot("b", 1): b"v3", dot("c", 1): b"v3"}


def test_kv679_lost_clock_a_new_life_keeps_what_a_reused_number_would_lose() -> None:
    """a holds (a,3), loses its disk and mints again: as (a,1) it would be swallowed, acked."""
    everywhere = state(version(dot("a", 3), b"v3"), also_seen=[dot("a", 1), dot("a", 2)])
    reused = state(version(dot("a", 1), b"v4"))
    assert shown(merge(everywhere, reused)) == {dot("a", 3): b"v3"}  # v4 is lost: never do this
    for fresh in (dot("a", 1, run=2), dot("a", 1, life=2)):
        kept = merge(everywhere, state(version(fresh, b"v4")))
        assert shown(kept) == {dot("a", 3): b"v3", fresh: b"v4"}


def test_kv679_doomstone_a_recreated_key_survives_the_late_tombstone() -> None:
    """A tombstone was reaped, the key came back, and a stand-in hands the tombstone home."""
    tombstone = state(version(dot("a", 4), None), also_seen=[dot("a", n) for n in (1, 2, 3)])
    recreated = state(version(dot("a", 1, life=2), b"new"))
    assert shown(merge(recreated, tombstone)) == {dot("a", 4): b"", dot("a", 1, life=2): b"new"}


def test_at_one_dot_purged_absorbs_the_value() -> None:
    expiring = state(version(dot("a", 1), b"v")._replace(expiry_ms=50))
    hidden = hide_expired(expiring, now_ms=50)
    assert hidden != expiring
    assert merge(expiring, hidden) == merge(hidden, expiring) == hidden
    assert digest(expiring) == digest(hidden)


@given(histories)
def test_merge_is_commutative_associative_and_idempotent(history: History) -> None:
    states = list(dict.fromkeys(held for held, _ in history.states))[-6:]
    for a in states:
        assert merge(a, a) == a
    for a, b in combinations(states, 2):
        assert merge(a, b) == merge(b, a)
        assert merge(merge(a, b), b) == merge(a, b)
        assert decode(merge(a, b)).clock == join(decode(a).clock, decode(b).clock)
    for a, b, c in combinations(states, 3):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(histories)
def test_merge_is_the_union_of_what_two_copies_know(history: History) -> None:
    for (a, left), (b, right) in product(history.states[-5:], repeat=2):
        twin = TwinNode(history.past, left.known | right.known)
        history.check(merge(a, b), twin)


@given(histories)
def test_the_fast_path_gives_what_the_general_path_gives(history: History) -> None:
    states = [held for held, _ in history.states]
    for a, b in product(states[-6:], repeat=2):
        assert merge(a, b) == encode(merge_states(decode(a), decode(b)))


@given(histories)
def test_what_replaces_a_state_is_its_merge_with_it(history: History) -> None:
    states = [held for held, _ in history.states]
    for a, b in product(states[-6:], repeat=2):
        maps, puts = [{b"k": b}], RememberedPuts(1, 100)
        plain = Plain(maps, Lives(b"n" * 8), puts, {})
        left: list[int] = []
        plain.merge(Merge([b"k"], [0], [a]), Changes(), left.append)
        if not left and a != b:
            assert merge(a, b) == a == maps[0][b"k"]
            assert shown(a).keys().isdisjoint(shown(b))
            assert list(puts.generations[0].items()) == replaced(b, a)


@given(histories)
def test_purging_commutes_with_merge(history: History) -> None:
    """Whoever purges first, the copies come out with one digest, and purged where one was."""
    for (a, _), (b, _) in product(history.states[-4:], repeat=2):
        gone = _purge(a)
        assert merge(gone, b) == merge(b, gone)
        assert digest(merge(gone, b)) == digest(merge(a, b))
        assert merge(gone, a) == gone


def _purge(held: bytes) -> bytes:
    decoded = decode(held)
    return encode(State(decoded.clock, tuple(purged(v) for v in decoded.versions)))


@given(histories)
def test_replaced_names_every_version_that_is_gone(history: History) -> None:
    for (a, _), (b, _) in product(history.states[-6:], repeat=2):
        after = merge(a, b)
        gone = sorted(shown(a).keys() - shown(after).keys())
        assert sorted(d for _, d in replaced(a, after)) == [dot_bytes(d) for d in gone]
        assert _ids(replaced(a, None)) == set(_put_ids(a).items())


def test_replaced_of_simple_states_is_cut_without_decoding() -> None:
    old = state(version(dot("a", 1), b"v1"))
    new = state(version(dot("a", 2), b"v2"), also_seen=[dot("a", 1)])
    assert replaced(old, new) == [(old[PUT_ID_AT : PUT_ID_AT + 16], dot_bytes(dot("a", 1)))]
    assert replaced(old, old) == []
    assert replaced(old, None) == replaced(old, new)
    other = state(version(dot("b", 1), b"v2"), also_seen=[dot("a", 1)])
    assert replaced(old, other) == replaced(old, None)


def test_replaced_looks_at_the_version_not_at_the_clock() -> None:
    """One writer whose clock has run ahead of the version that is left."""
    both = state(version(dot("a", 1), b"v1"), also_seen=[dot("a", 2)])
    after = state(version(dot("a", 1), b"v1"), also_seen=[dot("a", 2), dot("a", 3)])
    assert replaced(both, after) == []


def _put_ids(held: bytes) -> dict[Dot, bytes]:
    return {v.dot: v.put_id for v in decode(held).versions}


def _ids(pairs: list[tuple[bytes, bytes]]) -> set[tuple[Dot, bytes]]:
    return {(Dot(d[:30], int.from_bytes(d[30:], "big")), put_id) for put_id, d in pairs}


@given(histories, st.integers(0, 10))
def test_all_orders_of_delivery_end_in_one_state(history: History, turn: int) -> None:
    states = [held for held, _ in history.states][-5:]
    turned = states[turn % len(states) :] + states[: turn % len(states)] if states else []
    assert _fold(states) == _fold(turned) == _fold(states + states[::-1])


def _fold(states: list[bytes]) -> bytes:
    result = b""
    for one in states:
        result = merge(result, one) if result else one
    return result


def test_the_put_id_plays_no_part_in_merge() -> None:
    a = state(version(dot("a", 1), b"v")._replace(put_id=b"1" * 16))
    b = state(version(dot("b", 1), b"v")._replace(put_id=b"1" * 16))
    assert shown(merge(a, b)) == {dot("a", 1): b"v", dot("b", 1): b"v"}
