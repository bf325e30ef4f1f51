"""Which dot comes next: never one that was used before, whatever was forgotten in between."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_ray.core.lives import Lives
from dynamo_ray.core.merge import merge
from dynamo_ray.core.mint import mint
from tests.core.histories import (
    KEY,
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
)

A1, A2 = dot("a", 1), dot("a", 2)


def lives_of_a(run: int = 1) -> Lives:
    lives = Lives(node_id("a"))
    lives.begin(incarnation(run))
    return lives


def test_a_key_that_is_held_counts_on_and_a_new_key_begins_a_life() -> None:
    lives = lives_of_a()
    assert lives.next_dot(b"x", None) == dot("a", 1, life=1)
    assert lives.next_dot(b"y", None) == dot("a", 1, life=2)
    held = state(version(dot("a", 1, life=1), b"v"))
    assert lives.next_dot(b"x", held) == dot("a", 2, life=1)


def test_another_nodes_state_begins_a_life_of_ones_own() -> None:
    assert lives_of_a().next_dot(KEY, state(version(dot("b", 4), b"v"))) == A1


def test_a_new_incarnation_goes_on_in_no_life_of_the_last() -> None:
    held = state(version(A1, b"v"))
    assert lives_of_a(run=2).next_dot(KEY, held) == dot("a", 1, run=2)


def test_without_an_incarnation_nothing_begins() -> None:
    lives = Lives(node_id("a"))
    assert not lives.begun
    lives.begin(incarnation(1))
    assert lives.begun
    lives.end()
    assert not lives.begun


def test_kv679_an_own_life_that_came_back_is_over() -> None:
    """The key went home with a:1 and a:2, and only a:1 comes back: a:2 is never numbered again."""
    lives = lives_of_a()
    first = mint(None, lives.next_dot(KEY, None), None, body(b"v1")).state
    second = mint(first, lives.next_dot(KEY, first), None, body(b"v2")).state
    lives.forget(KEY)
    lives.watch(KEY, None, first)
    assert lives.next_dot(KEY, first) == dot("a", 1, life=2)
    third = mint(first, dot("a", 1, life=2), None, body(b"v3"))
    lives.minted(KEY, dot("a", 1, life=2), third.state, with_context=False)
    assert dot("a", 1, life=2) in shown(merge(second, third.state))
    assert lives.next_dot(KEY, third.state) == dot("a", 2, life=2)


def test_a_context_that_brings_an_own_life_ends_it_too() -> None:
    """A reader elsewhere saw a.2, which this node let go of; its own life here is a.1."""
    lives = lives_of_a()
    held = mint(None, lives.next_dot(KEY, None), None, body(b"v1")).state
    context = seen(A1, dot("a", 1, life=2))
    after = mint(held, A2, context, body(b"v2"))
    lives.minted(KEY, A2, after.state, with_context=True)
    assert lives.next_dot(KEY, after.state).counter == 1


def test_a_merge_that_brings_nothing_of_ones_own_ends_nothing() -> None:
    lives = lives_of_a()
    held = mint(None, lives.next_dot(KEY, None), None, body(b"v1")).state
    merged = merge(held, state(version(dot("b", 1), b"w")))
    lives.watch(KEY, held, merged)
    assert lives.next_dot(KEY, merged) == A2


@given(histories)
def test_no_dot_is_ever_minted_twice(history: History) -> None:
    """`History.put` asserts it at each mint: here are forgotten keys, restarts, old disks."""
    assert len(history.past) == len(history.mints)


_forgetful = st.lists(
    st.sampled_from(
        [
            ("put", "a", None, b"x"),
            ("put", "a", 0, b"y"),
            ("put", "a", 7, b"z"),
            ("sync", "a", "b"),
            ("sync", "b", "a"),
            ("forget", "a"),
        ]
    ),
    min_size=5,
    max_size=16,
)


@given(_forgetful)
@settings(max_examples=300)
def test_a_node_that_forgets_a_key_again_and_again_reuses_no_dot(
    steps: list[tuple[Any, ...]],
) -> None:
    """b gets a's copies, a forgets, b gives them back: what the hand-over of hints does to a."""
    history = History().play(steps)
    assert len(history.past) == len(history.mints)


@given(histories)
def test_within_a_life_the_counters_have_no_gap(history: History) -> None:
    counters: dict[bytes, list[int]] = {}
    for one in history.past:
        counters.setdefault(one.writer, []).append(one.counter)
    assert all(found == list(range(1, len(found) + 1)) for found in counters.values())
