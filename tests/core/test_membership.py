"""Views: facts of single writers, merged by the greater incarnation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.membership import (
    COORDINATOR_ROLE,
    NODE_ROLE,
    Fact,
    View,
    merge_views,
    view_from,
)


def fact(name: str, run: int = 1, role: str = NODE_ROLE, port: int = 7_000) -> Fact:
    return Fact(run.to_bytes(14, "big"), 0, name.encode() * 4, role, name, "10.0.0.1", port)


def test_the_later_incarnation_of_a_member_is_believed() -> None:
    old, new = View().with_facts([fact("n1", 1)]), View().with_facts([fact("n1", 2, port=9)])
    assert merge_views(old, new) == merge_views(new, old) == new
    assert merge_views(new, old) is new  # nothing learnt, nothing made


def test_a_member_is_told_by_role_and_name() -> None:
    view = View().with_facts([fact("a"), fact("b", role=COORDINATOR_ROLE), fact("c")])
    assert sorted(f.name for f in view.nodes().values()) == ["a", "c"]
    assert [f.name for f in view.coordinators()] == ["b"]
    assert view.nodes()[b"aaaa"] == fact("a")


def test_coordinators_come_in_the_order_of_their_names() -> None:
    made = [fact(name, role=COORDINATOR_ROLE) for name in ("c3", "c1", "c2")]
    assert [f.name for f in View().with_facts(made).coordinators()] == ["c1", "c2", "c3"]


def test_a_view_survives_being_written_down() -> None:
    view = View().with_facts([fact("a"), fact("b", role=COORDINATOR_ROLE)])
    assert view_from(view.to_rows()) == view


@pytest.mark.parametrize(
    "row",
    [
        [],
        [b"i", b"m", NODE_ROLE, "n", "h"],
        ["i", b"m", NODE_ROLE, "n", "h", 1],
        [b"i", "m", NODE_ROLE, "n", "h", 1],
        [b"i", b"m", "king", "n", "h", 1],
        [b"i", b"m", NODE_ROLE, "n", "h", 0],
        [b"i", b"m", NODE_ROLE, "n", "h", 65_536],
        [b"i", b"m", NODE_ROLE, "n", "h", "1"],
        [b"i", b"m", NODE_ROLE, "n", "h", None],
        [b"i", b"m", ["node"], "n", "h", 1],
        7,
    ],
)
def test_what_is_no_fact_is_refused(row: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        view_from([row])


facts = st.builds(
    fact,
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from([NODE_ROLE, COORDINATOR_ROLE]),
    st.integers(1, 2),
)
views = st.lists(facts, max_size=6).map(View().with_facts)


@given(views, views, views)
def test_merging_is_commutative_associative_and_idempotent(a: View, b: View, c: View) -> None:
    assert merge_views(a, b) == merge_views(b, a)
    assert merge_views(merge_views(a, b), c) == merge_views(a, merge_views(b, c))
    assert merge_views(a, a) is a
    assert merge_views(a, b).to_rows() == merge_views(b, a).to_rows()
