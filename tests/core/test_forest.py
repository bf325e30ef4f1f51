"""Trees that are kept up to date: what a mark costs, how much is hashed at a time, and when."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core import forest as forests
from dynamo_ray.core.forest import (
    EFFORT_A_KEY,
    EFFORT_A_TICK,
    EFFORT_AT_ONCE,
    MARKS,
    READY_TICKS,
    Forest,
)
from dynamo_ray.core.merkle import BUCKETS, Tree, bucket_of, root_of
from dynamo_ray.core.messages import Merge, Mint
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from tests.core.histories import dot, incarnation, node_id, state, version
from tests.core.test_merkle import from_scratch, root

STATE, LATER = state(version(dot("a", 1), b"v")), state(version(dot("a", 2), b"w"))
MANY = EFFORT_AT_ONCE // EFFORT_A_KEY + 100


def replica(**held: bytes) -> Replica:
    maps = [{key.encode(): value for key, value in held.items()}]
    made = Replica(node_id("a"), Settings(partitions=1), maps, frozenset({0}))
    made.on_incarnation(incarnation(1))
    return made


def mint(at: Replica, key: bytes, put_id: bytes = b"p" * 16) -> list[Any]:
    return at.on_mint("to", Mint([key], [0], [b"v"], [None], [put_id], [0]), 1)


def test_whatever_changes_a_key_makes_its_tree_another() -> None:
    at = replica(k=STATE, l=STATE)
    before = root(at.forest)
    at.on_merge("to", Merge([b"k"], [0], [LATER]))
    assert root(at.forest) == from_scratch(at.maps[0]) != before
    mint(at, b"m")
    assert root(at.forest) == from_scratch(at.maps[0])


def test_what_a_failed_append_undid_is_hashed_anew() -> None:
    at = replica(k=STATE)
    before = root(at.forest)
    mint(at, b"k")
    assert root(at.forest) != before
    at.on_append_failed()
    assert root(at.forest) == before


def test_a_partition_that_was_never_compared_and_an_empty_one_have_no_tree() -> None:
    forest = Forest([{b"k": STATE}, {}])
    forest.mark([0, 1], [b"k", b"l"])
    forest.on_tick()
    assert not forest._trees and not forest._marks
    assert forest.is_ready(1)
    assert not forest._trees


def test_marks_are_sorted_before_they_are_many() -> None:
    forest = Forest([{b"k": STATE}])
    root(forest)
    for _ in range(MARKS):
        forest.mark([0], [b"k"])
    assert not forest._marks


def test_so_much_is_hashed_at_once_and_so_much_between_two_ticks() -> None:
    held = {b"%d" % i: STATE for i in range(MANY)}
    forest = Forest([held, *({**held} for _ in range(9))])
    assert not forest.is_ready(0)  # one call holds the loop for so long and no longer
    assert forest.is_ready(0)
    ready = sum(forest.is_ready(p) or forest.is_ready(p) for p in range(1, 10))
    assert 0 < ready <= EFFORT_A_TICK // EFFORT_AT_ONCE - 1
    for _ in range(50):
        forest.on_tick()
    assert all(forest.is_ready(p) or forest.is_ready(p) for p in range(1, 4))
    assert root_of(forest.branches(0)) == from_scratch(held)


def test_large_states_count_for_more() -> None:
    large = state(version(dot("a", 1), bytes(1024 * 1024)))
    forest = Forest([{b"%d" % i: large for i in range(10)}])
    assert not forest.is_ready(0)


def test_a_key_that_changes_while_its_partition_is_hashed_is_hashed_again() -> None:
    held = {b"%d" % i: STATE for i in range(2 * MANY)}
    forest = Forest([held])
    assert not forest.is_ready(0)
    for key in [b"0", b"new"]:
        held[key] = LATER
        forest.mark([0], [key])
    del held[b"7"]
    forest.mark([0], [b"7"])
    root(forest)  # what had begun before comes to its end
    assert root(forest) == from_scratch(held)


def test_a_tree_that_nobody_came_back_for_is_not_taken_for_ready_for_ever() -> None:
    held = {b"%d" % i: STATE for i in range(2 * MANY)}
    forest = Forest([held])
    assert not forest.is_ready(0)
    for _ in range(READY_TICKS + 5):
        forest.on_tick()
    held[b"0"] = LATER
    forest.mark([0], [b"0"])
    assert root(forest) == from_scratch(held)


def test_only_stale_buckets_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {b"%d" % i: STATE for i in range(300)}
    forest = Forest([held])
    root(forest)
    hashed: list[bytes] = []
    entry = forests.entry

    def seen(key: bytes, held_state: bytes) -> bytes:
        hashed.append(key)
        return entry(key, held_state)

    monkeypatch.setattr(forests, "entry", seen)
    forest.mark([0], [b"5"])
    root(forest)
    assert b"5" in hashed
    assert {bucket_of(key) for key in hashed} == {bucket_of(b"5")}


def test_a_new_tree_is_stale_all_over() -> None:
    assert sum(Tree().take_stale()) == BUCKETS


def test_exact_is_only_what_shows_all_that_is_there_now() -> None:
    """A pass that ends shows what was there when it began, and that is enough for comparisons."""
    at = replica(**{f"k{i}": STATE for i in range(10)})
    at.forest._effort = 1  # a pass begins, and comes no further
    assert not at.forest.is_ready(0)
    at.on_merge("to", Merge([b"late"], [0], [LATER]))
    at.forest.on_tick()
    at.on_merge("to", Merge([b"later"], [0], [LATER]))
    assert at.forest.is_exact(0)
    assert root_of(at.forest.branches(0)) == from_scratch(at.maps[0])


def test_a_pass_that_ends_just_now_is_not_exact_if_a_key_was_marked_meanwhile() -> None:
    at = replica(**{f"k{i}": STATE for i in range(10)})
    at.forest._effort = 1  # a pass begins, and comes no further
    assert not at.forest.is_exact(0)
    at.on_merge("to", Merge([b"late"], [0], [LATER]))
    at.forest._effort = EFFORT_A_TICK
    assert not at.forest.is_exact(0)
    assert at.forest.is_exact(0)
    assert root_of(at.forest.branches(0)) == from_scratch(at.maps[0])
