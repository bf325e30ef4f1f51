"""Who belongs to the pool of coordinators, who has left it, and whom a client asks first."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.membership import COORDINATOR_ROLE, Fact, View
from dynamo_ray.core.pool import (
    MOST,
    PoolError,
    asking_order,
    contradiction,
    last_word,
    last_word_on,
    last_words,
    pool_of,
    scaling,
    serving,
)

NOW_MS = 1_800_000_000_000
CHANCE = b"by luck!"


def fact(name: str, at_ms: int = NOW_MS, chance: bytes = CHANCE) -> Fact:
    made: dict[str, Any] = {
        "incarnation": at_ms.to_bytes(6, "big") + chance,
        "revision": 0,
        "member": name.encode() * 4,
        "role": COORDINATOR_ROLE,
        "name": name,
        "host": "10.0.0.1",
        "port": 7400,
    }
    return Fact(**made)


def names(view: View) -> list[str]:
    return [one.name for one in serving(view)]


# ---- how large it is


@pytest.mark.parametrize("count", [0, -1, MOST + 1, True, "2", 2.0])
def test_a_pool_has_a_size(count: Any) -> None:
    with pytest.raises(PoolError, match=f"1 to {MOST} coordinators"):
        pool_of(count)


@pytest.mark.parametrize(
    "count, present, starts, ends",
    [
        (2, {"c1": "up", "c2": "up"}, (), ()),
        (4, {"c1": "up", "c2": "up"}, ("c3", "c4"), ()),
        (1, {"c1": "up", "c2": "up", "c10": "silent"}, (), ("c2", "c10")),
        (3, {"c2": "up", "c3": "failed"}, ("c1",), ()),
        (2, {"c1": "starting", "c2": "leaving"}, ("c2",), ("c2",)),
        (1, {"c1": "up", "mine": "up"}, (), ("mine",)),
        (1, {}, ("c1",), ()),
    ],
)
def test_whom_to_start_and_whom_to_end(
    count: int, present: dict[str, str], starts: tuple[str, ...], ends: tuple[str, ...]
) -> None:
    made = scaling(count, present)
    assert (made.starts, made.ends) == (starts, ends)
    assert made.wanted == pool_of(count)


# ---- who has left


@given(st.integers(NOW_MS - 9, NOW_MS + 9), st.binary(min_size=8, max_size=8))
def test_a_last_word_counts_whatever_the_clock_shows(clock_ms: int, chance: bytes) -> None:
    own = fact("c1", NOW_MS, chance)
    word = last_word(own, clock_ms)
    for view in (View().with_facts([own, word]), View().with_facts([word]).with_facts([own])):
        assert names(view) == [] and len(view.facts) == 1


def test_a_later_run_comes_after_a_last_word() -> None:
    word = last_word(fact("c1"), NOW_MS + 5)
    assert names(View().with_facts([word, fact("c1", NOW_MS + 6)])) == ["c1"]


@given(st.integers(NOW_MS - 9, NOW_MS + 9), st.binary(min_size=8, max_size=8))
def test_a_later_run_contradicts_whatever_the_clock_shows(clock_ms: int, chance: bytes) -> None:
    own = fact("c1", NOW_MS - 3)
    view = View().with_facts([own, last_word(fact("c1"), NOW_MS + 5), fact("c2")])
    word = last_word_on("c1", view)
    assert word is not None and last_word_on("c2", view) is None
    said = view.with_facts([contradiction(own, word, clock_ms, chance)])
    assert names(said) == ["c1", "c2"] and last_word_on("c1", said) is None


def test_all_but_those_staying_have_left() -> None:
    view = View().with_facts(map(fact, ("c1", "c2", "c3")))
    left = last_words(view, ("c1", "c9"), NOW_MS)
    assert names(left) == ["c1"]
    assert last_words(left, ("c1",), NOW_MS + 9) is left, "and it is said once"
    assert names(left.with_facts(view.facts.values())) == ["c1"], "an older view brings nobody back"


# ---- whom to ask


@given(st.lists(st.integers(0, 9), max_size=7), st.integers(0, 10_000))
def test_everybody_is_asked_once(outstanding: list[int], turn: int) -> None:
    assert sorted(asking_order(outstanding, turn)) == list(range(len(outstanding)))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_two_the_one_with_less_outstanding_and_every_two_in_turn(count: int) -> None:
    turns = range(7, 7 + count * (count - 1))
    firsts = Counter(asking_order([0] * count, turn)[0] for turn in turns)
    assert firsts == dict.fromkeys(range(count), count - 1), "idle ones take turns"
    pairs = Counter(frozenset(asking_order([0] * count, turn)[:2]) for turn in turns)
    assert set(pairs.values()) == {2} and len(pairs) == count * (count - 1) // 2
    laden = list(range(count))
    for turn in turns:
        one, other = asking_order(laden, turn)[:2]
        assert laden[one] < laden[other]


def test_who_has_most_outstanding_gets_nothing() -> None:
    turns = range(100)
    assert all(asking_order([0, 0, 9, 0], turn)[0] != 2 for turn in turns)
