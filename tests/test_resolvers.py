"""Resolvers: from concurrent values to one, alike for every reader (Dynamo §4.4)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamo_ray
from dynamo_ray.found import Found
from dynamo_ray.resolvers import BY_NAME, Sibling, keep_all, last_write_wins, union_of_sets

siblings = st.lists(st.builds(Sibling, st.binary(max_size=3), st.integers(0, 3)), min_size=1)
items = st.integers() | st.text(max_size=3)
sets = st.lists(st.lists(items, unique_by=lambda item: json.dumps(item)), min_size=1, max_size=4)


def as_siblings(lists: list[list[object]]) -> list[Sibling]:
    return [Sibling(json.dumps(one).encode(), 0) for one in lists]


@given(siblings)
def test_the_last_write_is_one_of_the_latest(given_: list[Sibling]) -> None:
    value = last_write_wins(given_)
    latest = max(sibling.wall_ms for sibling in given_)
    assert value in [sibling.value for sibling in given_ if sibling.wall_ms == latest]


def test_a_tie_goes_to_the_greater_dot() -> None:
    tie = [Sibling(b"a", 5), Sibling(b"b", 5), Sibling(b"c", 4)]
    assert last_write_wins(tie) == b"b"


@given(sets)
def test_a_union_loses_nothing_and_adds_nothing(lists: list[list[object]]) -> None:
    united = json.loads(union_of_sets(as_siblings(lists)))
    texts = {json.dumps(item) for one in lists for item in one}
    assert {json.dumps(item) for item in united} == texts and len(united) == len(texts)


@given(sets)
def test_a_union_does_not_depend_on_the_order(lists: list[list[object]]) -> None:
    there, back = as_siblings(lists), as_siblings(lists)[::-1]
    assert union_of_sets(there) == union_of_sets(back)
    once = union_of_sets(there)
    assert union_of_sets([Sibling(once, 0), *there]) == once


@pytest.mark.parametrize("value", [b"1", b'{"a": 1}', b"text", b"\xff"])
def test_a_union_is_of_lists(value: bytes) -> None:
    with pytest.raises(ValueError):
        union_of_sets([Sibling(b"[]", 0), Sibling(value, 0)])


def test_keeping_all_is_refusing_to_choose() -> None:
    assert keep_all([Sibling(b"a", 1), Sibling(b"a", 2)]) == b"a"
    with pytest.raises(dynamo_ray.ConflictError) as caught:
        keep_all([Sibling(b"a", 1), Sibling(b"b", 1), Sibling(b"a", 1)])
    assert caught.value.siblings == (b"a", b"b")


def test_resolvers_have_their_names() -> None:
    assert all(BY_NAME[name] is getattr(dynamo_ray, name) for name in BY_NAME)


def test_one_value_needs_no_resolver() -> None:
    def never(siblings: object) -> bytes:
        raise AssertionError("there is nothing to resolve")

    nothing = Found(None, b"", False, never)
    assert nothing.value is None and nothing.resolved(never) is None
