"""A plan moves what the new ring asks for and nothing else, and tells what is too weak to move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.plan import Plan, PlanError, plan
from dynamo_ray.core.ring import Member, Ring, claim
from tests.core.costly import costly

Q, N = 64, 3


def member(i: int, zone: str = "", weight: float = 1) -> Member:
    return Member(bytes([i]) * 8, f"n{i}", zone, weight)


def ring(nodes: int = 5, zones: int = 1) -> Ring:
    members = [member(i + 1, f"z{i % zones}" if zones > 1 else "") for i in range(nodes)]
    return claim(members, Q, N)


def check(made: Plan) -> None:
    """The laws: the moves are the whole difference, and give nobody a partition twice."""
    slots = list(made.before.slots)
    for move in made.moves:
        at = move.partition * N + move.copy
        assert slots[at] == move.giver != move.receiver
        slots[at] = move.receiver
    assert tuple(slots) == made.after.slots
    copies = made.copies()
    assert sum(before for before, _ in copies.values()) == Q * N
    assert sum(after for _, after in copies.values()) == Q * N


@given(st.integers(3, 9), st.integers(1, 3), st.data())
@costly
def test_whoever_comes_and_goes_the_moves_are_the_difference(
    nodes: int, zones: int, data: st.DataObject
) -> None:
    before = ring(nodes, zones)
    add = [member(20 + i, "z0" if zones > 1 else "") for i in range(data.draw(st.integers(0, 2)))]
    most = max(0, nodes + len(add) - N)
    names = [m.name for m in before.members]
    remove = data.draw(st.sets(st.sampled_from(names), max_size=min(most, 2)))
    left = [name for name in names if name not in remove]
    old = data.draw(st.none() | st.sampled_from(left)) if left else None
    replaced = {old: member(40)} if old else {}
    made = plan(before, add, remove, replaced)
    check(made)
    gone = {m.node for m in before.members if m.name in remove or m.name == old}
    assert not gone & set(made.after.slots)


def test_one_more_node_gets_its_share_and_nothing_else_moves() -> None:
    made = plan(ring(5), add=[member(6)])
    assert {move.receiver for move in made.moves} == {member(6).node}
    assert len(made.moves) in (Q * N // 6, Q * N // 6 + 1)
    givers = Counter(move.giver for move in made.moves)
    assert max(givers.values()) - min(givers.values()) <= 1


@pytest.mark.parametrize("nodes", [4, 5, 8])
def test_a_node_that_goes_gives_all_it_has_and_little_else_moves(nodes: int) -> None:
    made = plan(ring(nodes), remove=["n2"])
    due, left = made.copies()[member(2).node]
    given = sum(move.giver == member(2).node for move in made.moves)
    assert (given, left) == (due, 0)
    # More than its own moves only for balance, where those who lack a copy hold the partition.
    assert len(made.moves) <= due * 1.4


def test_a_replacement_gets_exactly_what_the_dead_node_had() -> None:
    before = ring(5)
    made = plan(before, replaced={"n3": member(9)})
    assert {(move.giver, move.receiver) for move in made.moves} == {
        (member(3).node, member(9).node)
    }
    assert made.dead == {member(3).node}
    assert made.copies()[member(9).node] == (0, made.copies()[member(3).node][0])


def test_without_a_wish_nothing_moves() -> None:
    made = plan(ring())
    assert made.moves == () and made.after == made.before


def test_what_has_too_few_living_copies_is_told() -> None:
    before = ring(5)
    made = plan(before, replaced={"n3": member(9)})
    everybody = {m.node for m in before.members}
    assert made.weak(everybody, 2) == ()  # two of three live, as many as W
    weak = made.weak(everybody - {member(1).node}, 2)
    both = {member(1).node, member(3).node}
    assert weak and all(both <= set(before.owners(p)) for p in weak)
    assert made.weak(everybody, 3) == tuple(dict.fromkeys(m.partition for m in made.moves))


@pytest.mark.parametrize(
    "wish, sentence",
    [
        ({"remove": ["n9"]}, "no node 'n9'"),
        ({"replaced": {"n9": member(7)}}, "no node 'n9'"),
        ({"add": [member(1)]}, "'n1' is there already"),
        ({"remove": ["n1"], "replaced": {"n1": member(7)}}, "'n1' is named 2 times"),
        ({"add": [member(7), member(7)]}, "'n7' is named 2 times"),
        ({"remove": ["n1", "n2", "n3"]}, "3 copies need 3 nodes"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(wish: dict[str, object], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        plan(ring(), **wish)  # type: ignore[arg-type]
