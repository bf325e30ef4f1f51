"""Views: of everything the greater counts, whoever meets whom, and an end is final."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.membership import (
    COORDINATOR_ROLE,
    NODE_ROLE,
    Fact,
    Slot,
    View,
    Wish,
    merge_views,
    view_from,
)

A, B, C = (letter * 8 for letter in (b"a", b"b", b"c"))


def fact(
    name: str,
    run: int = 1,
    role: str = NODE_ROLE,
    port: int = 7_000,
    revision: int = 0,
    zone: str = "",
    weight: float = 1.0,
) -> Fact:
    where = name, "10.0.0.1", port, zone, weight
    return Fact(run.to_bytes(14, "big"), revision, name.encode() * 8, role, *where)


def test_the_later_incarnation_of_a_member_is_believed() -> None:
    old, new = View().with_facts([fact("n1", 1)]), View().with_facts([fact("n1", 2, port=9)])
    assert merge_views(old, new) == merge_views(new, old) == new
    assert merge_views(new, old) is new  # nothing learnt, nothing made


def test_a_member_is_told_by_role_and_name() -> None:
    view = View().with_facts([fact("a"), fact("b", role=COORDINATOR_ROLE), fact("c")])
    assert sorted(f.name for f in view.nodes().values()) == ["a", "c"]
    assert [f.name for f in view.coordinators()] == ["b"]
    assert view.nodes()[A] == fact("a")


def test_coordinators_come_in_the_order_of_their_names() -> None:
    made = [fact(name, role=COORDINATOR_ROLE) for name in ("c3", "c1", "c2")]
    assert [f.name for f in View().with_facts(made).coordinators()] == ["c1", "c2", "c3"]


def test_a_member_may_change_what_it_says_of_itself() -> None:
    old, new = fact("a", revision=1, weight=2.0), fact("a", revision=2, weight=0.0)
    assert View().with_facts([new, old]).nodes() == {A: new}
    started_again = fact("a", run=2)
    assert View().with_facts([started_again, new]).nodes() == {A: started_again}


def test_a_node_that_has_another_name_now_is_the_same_and_a_coordinator_is_not() -> None:
    for role, count in ((NODE_ROLE, 1), (COORDINATOR_ROLE, 2)):
        renamed = replace(fact("a", 2, role), name="b")
        assert len(View().with_facts([fact("a", 1, role), renamed]).facts) == count


# Slots, wishes, ends.


def test_a_slot_is_whose_the_later_generation_says() -> None:
    old, new = View(slots={7: Slot(1, B)}), View(slots={7: Slot(2, A)})
    assert merge_views(old, new) == merge_views(new, old) == new
    assert new.generation(7) == 2 and new.generation(8) == 0


def test_the_later_command_of_a_generation_counts() -> None:
    old, new = View(wishes={7: Wish(0, b"1", B)}), View(wishes={7: Wish(0, b"2", A)})
    assert merge_views(old, new) == merge_views(new, old) == new


def test_a_wish_goes_with_the_generation_that_it_was_for() -> None:
    wished = View(wishes={7: Wish(1, b"1", B), 8: Wish(0, b"1", B)})
    moved = View(slots={7: Slot(2, C), 8: Slot(0, A)})
    assert merge_views(wished, moved).wishes == {8: Wish(0, b"1", B)}
    assert merge_views(moved, wished).wishes == {8: Wish(0, b"1", B)}


def test_an_end_is_final_and_of_two_the_lower_counts() -> None:
    removed, replaced = View(ends={A: b""}), View(ends={A: B})
    assert merge_views(removed, replaced) == merge_views(replaced, removed) == removed
    assert merge_views(replaced, View(ends={A: C})).ends == {A: B}


def test_who_has_come_to_its_end_says_nothing_of_itself_any_more() -> None:
    """Whatever it starts as, and wherever that is heard of first. A coordinator is no node."""
    there = View().with_facts([fact("a", 9), fact("b"), fact("a", role=COORDINATOR_ROLE)])
    for view in (merge_views(there, View(ends={A: B})), merge_views(View(ends={A: B}), there)):
        assert view.nodes().keys() == {B}
        assert len(view.coordinators()) == 1


# Written down.


def test_a_view_survives_being_written_down() -> None:
    view = View({}, {1: Slot(2, B)}, {1: Wish(2, b"s", C), 0: Wish(0, b"t", A)}, {C: b"", B: A})
    view = view.with_facts(
        [fact("a", revision=3, zone="z", weight=0.5), fact("b", role=COORDINATOR_ROLE)]
    )
    assert view_from(view.to_rows()) == view


def row(**changed: Any) -> list[Any]:
    """A fact as it is written down, with something else in a place or two."""
    names = "incarnation revision member role name host port zone weight machine".split()
    return list({**dict(zip(names, fact("a").to_row(), strict=True)), **changed}.values())


def test_a_fact_is_read_as_it_was_written() -> None:
    assert view_from([[row()], [], [], []]) == View().with_facts([fact("a")])


@pytest.mark.parametrize(
    "bad",
    [
        [],
        row()[:-1],
        [*row(), 1],
        row(incarnation="i"),
        row(member="m"),
        row(role="king"),
        row(role=["node"]),
        row(port=0),
        row(port=65_536),
        row(port="1"),
        row(port=None),
        row(revision=-1),
        row(revision=1.5),
        row(revision=True),
        row(weight=-1.0),
        row(weight=float("nan")),
        row(weight=float("inf")),
        row(weight="heavy"),
        7,
    ],
)
def test_what_is_no_fact_is_refused(bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        view_from([[bad], [], [], []])


@pytest.mark.parametrize(
    ("slots", "wishes", "ends"),
    [
        ([[-1, 1, A]], [], []),
        ([["1", 1, A]], [], []),
        ([[True, 1, A]], [], []),
        ([[1, -1, A]], [], []),
        ([[1, 1.0, A]], [], []),
        ([[1, 1, A[1:]]], [], []),
        ([[1, 1, "a" * 8]], [], []),
        ([[1, 1]], [], []),
        ([7], [], []),
        (7, [], []),
        ([], [[1, 1, b"s"]], []),
        ([], [[1, 1, "s", A]], []),
        ([], [[1, 1, b"s", b""]], []),
        ([], [[1, None, b"s", A]], []),
        ([], [], [[A]]),
        ([], [], [[b"", A]]),
        ([], [], [["a" * 8, b""]]),
        ([], [], [[A, None]]),
        ([], [], None),
    ],
)
def test_what_is_no_slot_no_wish_and_no_end_is_refused(slots: Any, wishes: Any, ends: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        view_from([[], slots, wishes, ends])


@pytest.mark.parametrize("rows", [[[], [], []], [[], [], [], [], []], 7, None])
def test_what_has_not_four_parts_is_no_view(rows: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        view_from(rows)


# Laws.

ids = st.sampled_from([A, B, C])
numbers = st.integers(0, 3)
facts = st.builds(
    fact,
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from([NODE_ROLE, COORDINATOR_ROLE]),
    st.integers(1, 2),
    st.integers(0, 2),
    st.just(""),
    st.sampled_from([0.0, 1.0]),
)
views = st.builds(
    lambda facts, *parts: merge_views(View({}, *parts), View().with_facts(facts)),
    st.lists(facts, max_size=6),
    st.dictionaries(numbers, st.builds(Slot, numbers, ids)),
    st.dictionaries(numbers, st.builds(Wish, numbers, st.sampled_from([b"1", b"2"]), ids)),
    st.dictionaries(ids, st.one_of(ids, st.just(b"")), max_size=2),
)


@given(views, views, views)
def test_merging_is_commutative_associative_and_idempotent(a: View, b: View, c: View) -> None:
    assert merge_views(a, b) == merge_views(b, a)
    assert merge_views(merge_views(a, b), c) == merge_views(a, merge_views(b, c))
    assert merge_views(a, a) is a
    assert merge_views(merge_views(a, b), b) == merge_views(a, b)
    assert merge_views(a, b).to_rows() == merge_views(b, a).to_rows()


@given(views)
def test_a_view_is_read_as_it_was_written(view: View) -> None:
    assert view_from(view.to_rows()) == view
