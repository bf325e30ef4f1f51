"""What one member knows comes to all, by rumour and by digest, and little travels for it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gossip import Talker
from dynamo_ray.core.gossip import BUCKETS, FAN_OUT, WIDTH, Digests, Gossip, Known, News, lacked
from dynamo_ray.core.membership import Slot, View, Wish, merge_views, view_from
from tests.core.test_membership import fact, views

A, B, C = (letter * 8 for letter in (b"a", b"b", b"c"))
FOUNDED = View().with_facts([fact("a"), fact("b"), fact("c")])
MANY = merge_views(FOUNDED, View(slots={slot: Slot(1, A) for slot in range(300)}))


def size(view: View) -> int:
    return len(view.facts) + len(view.slots) + len(view.wishes) + len(view.ends)


@given(views, views)
def test_two_that_exchange_know_what_both_knew_and_agree_on_it(a: View, b: View) -> None:
    one, other = Talker(a), Talker(b)
    one.exchange(other)
    assert one.view == other.view == merge_views(a, b)
    assert one.machine.digests == other.machine.digests
    assert one.exchange(other) == (Known(b"", View()), None)


@given(st.lists(views, min_size=3, max_size=3))
def test_digests_hang_on_what_is_known_and_not_on_how_it_was_learnt(learnt: list[View]) -> None:
    found = set()
    for order in permutations(learnt):
        talker = Talker(View())
        for view in order:
            talker.learn(view)
        assert talker.machine.digests == Gossip(talker.view).digests
        found.add(talker.machine.digests)
    assert len(found) == 1


def test_who_was_told_over_the_wire_agrees_with_who_wrote_it() -> None:
    """A founder has its weight as it was given, and all others as a number of the wire."""
    written = replace(fact("a"), weight=1)
    view = View().with_facts([written])
    assert type(next(iter(view.facts.values())).weight) is int, "or this shows nothing"
    assert Gossip(view).digests == Gossip(view_from(view.to_rows())).digests


@given(views, views)
def test_what_is_lacked_is_all_that_is_lacked(knows: View, other: View) -> None:
    assert merge_views(knows, lacked(knows, other)) == merge_views(knows, other)
    assert lacked(knows, knows) == View()


@pytest.mark.parametrize(
    "change",
    [
        View(slots={7: Slot(2, B)}),
        View(wishes={7: Wish(1, b"stamp", B)}),
        View(ends={B: C}),
        View().with_facts([fact("b", run=2)]),
        View().with_facts([fact("b", weight=0.0, revision=1)]),
    ],
    ids=["slot", "wish", "end", "run", "weight"],
)
def test_one_change_costs_a_bucket_and_not_the_view(change: View) -> None:
    for knows, other in ((MANY, merge_views(MANY, change)), (merge_views(MANY, change), MANY)):
        one, another = Talker(knows), Talker(other)
        known, news = one.exchange(another)
        assert one.view == another.view == merge_views(MANY, change)
        assert 1 <= len(known.buckets) <= 2 and size(known.view) < size(MANY) / 10
        assert news is None or size(news.view) == 1


def test_only_what_is_new_is_told_and_only_once() -> None:
    talker = Talker(MANY)
    assert talker.machine.take_news() is None, "what it begins with"
    talker.learn(View(slots={7: Slot(2, B)}))
    talker.learn(View(slots={7: Slot(3, C), 8: Slot(2, B)}))
    talker.learn(View(slots={7: Slot(1, A)}))
    assert talker.machine.take_news() == News(View(slots={7: Slot(3, C), 8: Slot(2, B)}))
    assert talker.machine.take_news() is None


def test_digests_that_cannot_be_are_answered_with_all_there_is() -> None:
    talker = Talker(MANY)
    for strange in (b"", b"x", bytes(BUCKETS * WIDTH + 3)):
        assert talker.machine.on_digests(Digests(strange)).view == MANY
    assert talker.machine.on_known(Known(bytes([200, 255]), View())) is None


def rounds_until_all_know(count: int, seed: int) -> int:
    """One of so many learns something; in each round each exchanges with one, and tells news."""
    chance = random.Random(seed)
    everybody = [Talker(FOUNDED) for _ in range(count)]
    everybody[0].learn(View(slots={0: Slot(1, B)}))
    for number in range(1, 40):
        for one in chance.sample(everybody, count):
            news = one.machine.take_news()
            told = chance.sample(everybody, FAN_OUT) if news is not None else []
            for other in told:
                other.learn(news.view)
            one.exchange(chance.choice(everybody))
        if all(one.view == everybody[0].view for one in everybody):
            return number
    raise AssertionError("not within 40 rounds")


@pytest.mark.parametrize("count", [10, 100, 400])
def test_all_know_after_few_rounds(count: int) -> None:
    """As many as the logarithm of their number, at most; benchmarks/gossip.py has the curve."""
    assert max(rounds_until_all_know(count, seed) for seed in range(5)) <= count.bit_length()
