"""For whom a copy is kept, and what goes home next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.hints import Hints, owners_in
from tests.core.histories import node_id

A, B = node_id("a"), node_id("b")


def test_a_key_is_kept_for_its_owners_oldest_first() -> None:
    hints = Hints(bytes_max=1_000)
    hints.add(A, b"x", 7, 10)
    hints.add(A, b"y", 8, 10)
    hints.add(B, b"x", 7, 10)
    assert owners_in(hints.of(b"x")) == [A, B]
    assert hints.of(b"z") == b""
    assert hints.owners() == [A, B]
    assert hints.next_for(A, most=1) == [(b"x", 7)]
    assert hints.next_for(A, most=9) == [(b"x", 7), (b"y", 8)]
    assert hints.count_for(A) == 2 and len(hints) == 2
    assert hints.partition_of(A, b"y") == 8
    assert hints.partition_of(B, b"y") is None


def test_one_delivery_to_an_owner_at_a_time() -> None:
    hints = Hints(bytes_max=1_000)
    hints.add(A, b"x", 7, 10)
    hints.sent(A, {b"x": b"state"})
    assert hints.next_for(A, most=9) == []
    assert hints.settled(A) == {b"x": b"state"}
    assert hints.settled(A) == {}
    assert hints.next_for(A, most=9) == [(b"x", 7)]


def test_over_the_bound_there_is_no_room() -> None:
    hints = Hints(bytes_max=100)
    hints.add(A, b"x", 7, 60)
    assert hints.has_room(40)
    assert not hints.has_room(41)
    hints.add(A, b"x", 7, 30)  # the same key, smaller now
    assert hints.has_room(70)
    hints.remove(A, b"x")
    assert hints.has_room(100)
    hints.remove(A, b"x")
    assert hints.has_room(100) and not hints.owners()


_steps = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([A, B]),
        st.sampled_from([b"x", b"y", b"z"]),
        st.integers(1, 9),
    ),
    max_size=30,
)


@given(_steps)
def test_hints_are_a_set_of_owner_and_key(steps: list[tuple[bool, bytes, bytes, int]]) -> None:
    """The dumb twin: one set of pairs and one size per key."""
    hints, pairs, sizes = Hints(bytes_max=10_000), set(), dict[bytes, int]()
    for is_add, owner, key, size in steps:
        if is_add:
            hints.add(owner, key, 1, size)
            pairs.add((owner, key))
            sizes[key] = size
        else:
            hints.remove(owner, key)
            pairs.discard((owner, key))
        kept = {key for _, key in pairs}
        room = 10_000 - sum(sizes[key] for key in kept)
        assert hints.has_room(room) and not hints.has_room(room + 1)
        assert hints.owners() == sorted({owner for owner, _ in pairs})
        for one in (b"x", b"y", b"z"):
            assert set(owners_in(hints.of(one))) == {owner for owner, k in pairs if k == one}
        for one in (A, B):
            assert {k for k, _ in hints.next_for(one, 9)} == {k for o, k in pairs if o == one}
