"""Whether two mean the same by a request: judged by the owners of what it is about (rule 16)."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.agreeing import CLOSED, OTHER_EPOCH, OWNERS, epoch_for, judge
from dynamo_ray.core.membership import Slot, View
from dynamo_ray.core.messages import Code, Fetch, Merge, Merged, Mint, Refused
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.upkeep import Compare, Confirm, Copy, Offer, Reap, Scan, Seal
from tests.core.histories import node_id
from tests.core.moving import CLIENT, TWO, A, B, C, World, keys, value_of

MEMBERS = tuple(Member(node_id(x), x) for x in "abc")
RING = Ring(3, 1, MEMBERS, (A, A, B))
MOVED = Ring(3, 1, MEMBERS, (A, C, B))
"""Partition 1 has another owner."""
ALL = frozenset(range(3))
NONE: frozenset[int] = frozenset()
CONFIRM, REAP = Confirm([], [], []), Reap([], [], [], [])


def fetch(*partitions: int) -> Fetch:
    return Fetch([b"k"] * len(partitions), list(partitions))


def merge(*partitions: int, durable: bool = False) -> Merge:
    return Merge([b"k"] * len(partitions), list(partitions), [b""] * len(partitions), b"", durable)


def mint(*partitions: int) -> Mint:
    rows = len(partitions)
    return Mint([b"k"] * rows, list(partitions), [b"v"] * rows, [None] * rows, [], [0] * rows, b"")


ABOUT_0: list[Any] = [
    fetch(0),
    merge(0),
    mint(0),
    Copy(0, b""),
    Scan(0, b""),
    Compare(0, b""),
    Offer(0, 0, 1),
    Seal(0, 0, 1, b""),
]
ABOUT_1: list[Any] = [
    fetch(1),
    merge(1),
    mint(1),
    Copy(1, b""),
    Scan(1, b""),
    Compare(1, b""),
    Offer(1, 1, 1),
]


@pytest.mark.parametrize("message", [*ABOUT_0, *ABOUT_1, fetch(0, 1), CONFIRM, REAP])
def test_who_knows_the_same_agrees(message: Any) -> None:
    assert judge(RING, ALL, NONE, message, epoch_for(RING, message)) is None


@pytest.mark.parametrize("message", ABOUT_0, ids=lambda m: type(m).__name__)
def test_what_changes_elsewhere_makes_nobody_wait(message: Any) -> None:
    assert RING.epoch != MOVED.epoch
    assert judge(RING, ALL, NONE, message, epoch_for(MOVED, message)) is None


@pytest.mark.parametrize("message", ABOUT_1, ids=lambda m: type(m).__name__)
def test_where_the_owners_differ_it_is_refused(message: Any) -> None:
    assert judge(RING, ALL, NONE, message, epoch_for(MOVED, message)) == OTHER_EPOCH
    assert judge(MOVED, ALL, NONE, message, epoch_for(RING, message)) == OTHER_EPOCH


def test_of_many_partitions_each_is_looked_at() -> None:
    epoch = RING.epoch_of(0)
    assert judge(RING, ALL, NONE, fetch(0, 1, 0), epoch) is None
    assert judge(MOVED, ALL, NONE, fetch(0, 1, 0), epoch) == OTHER_EPOCH


def test_the_order_of_owners_counts() -> None:
    """The first mints."""
    one, other = Ring(1, 2, MEMBERS, (A, B)), Ring(1, 2, MEMBERS, (B, A))
    assert judge(one, ALL, NONE, mint(0), epoch_for(other, mint(0))) == OTHER_EPOCH


@pytest.mark.parametrize("message", [CONFIRM, REAP])
def test_to_forget_all_must_know_all(message: Any) -> None:
    """Somebody who is not known of may hold what is reaped."""
    assert judge(RING, ALL, NONE, message, epoch_for(MOVED, message)) == OTHER_EPOCH
    newcomer = Ring(3, 1, (*MEMBERS, Member(node_id("d"), "d")), RING.slots)
    assert judge(RING, ALL, NONE, message, epoch_for(newcomer, message)) == OTHER_EPOCH


def test_what_comes_home_may_be_taken_by_whoever_owns_it() -> None:
    home = merge(1, durable=True)
    assert epoch_for(RING, home) == OWNERS == epoch_for(MOVED, home)
    assert judge(RING, frozenset({0, 1}), NONE, home, OWNERS) is None
    assert judge(MOVED, frozenset({0}), NONE, home, OWNERS) == OTHER_EPOCH
    both = merge(0, 1, durable=True)
    assert judge(MOVED, frozenset({0}), NONE, both, OWNERS) == OTHER_EPOCH


@pytest.mark.parametrize("message", [*ABOUT_0, *ABOUT_1, CONFIRM, REAP])
def test_what_a_node_asks_itself_hangs_on_no_ring(message: Any) -> None:
    assert judge(RING, NONE, ALL, message, None) is None


def test_a_closed_partition_takes_no_writes() -> None:
    closed = frozenset({1})
    for message in (mint(1), merge(1), mint(0, 1)):
        assert judge(RING, ALL, closed, message, RING.epoch_of(1)) == CLOSED
    for message in (mint(0), merge(0), fetch(1), Compare(1, b""), Copy(1, b"")):
        assert judge(RING, ALL, closed, message, RING.epoch_of(1)) is None
    assert judge(RING, ALL, closed, merge(1, durable=True), OWNERS) == CLOSED


@pytest.mark.parametrize("partition", [-1, 3, True, "0", None, [0]])
def test_what_is_no_partition_is_left_to_who_says_what_there_is(partition: Any) -> None:
    assert judge(RING, ALL, NONE, Compare(partition, b""), b"anything") is None


# At a whole node.


def code_of(answer: Any) -> int | None:
    return answer.code if isinstance(answer, Refused) else None


def test_one_that_gave_a_slot_away_writes_and_reads_nothing_of_it_any_more() -> None:
    """As a coordinator asks it that knows nothing of that yet."""
    at = World(TWO, {A: [keys(3), {}]})
    before = at.placements[C].ring.epoch_of(0)
    at.learn(A, View(slots={0: Slot(1, B)}))
    for message in (fetch(0), Merge([b"k"], [0], [value_of(1)])):
        at.perform(A, at.nodes[A].on_request(CLIENT, message, 0, 0, 0, before))
        assert code_of(at.answers.pop()) == Code.OTHER_EPOCH
    assert at.held(A).keys() == keys(3).keys()
    at.perform(A, at.nodes[A].on_request(CLIENT, fetch(1), 0, 0, 0, before))
    assert code_of(at.answers.pop()) is None


def test_two_nodes_that_know_different_things_show_them_to_each_other() -> None:
    at = World(TWO, {A: [{}, {}]})
    at.learn(A, View(slots={0: Slot(1, B)}))
    replica = at.nodes[C].replica
    (record, _) = replica.on_merge("to", Merge([b"k"], [0], [value_of(1)], A))
    at.perform(C, [record])
    at.tick(C)
    assert at.placements[C].ring.owners(0) == (B,)
    at.tick(C)
    assert b"k" in at.disks[C][0], "B does not know yet, and the two agree now"
    at.tick(C)
    assert b"k" in at.disks[B][0] and b"k" not in at.disks[C][0]
    assert at.sent[-1][0] == B and isinstance(at.sent[-1][1], Merge)
    assert Merged() not in at.answers
