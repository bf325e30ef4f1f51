"""A slot on its way: what may be asked of whom, what is given, what is taken (rules 9, 12, 16, 17).

What a storm shows soon is in tests/sim/test_guards.py; here is what it shows too seldom.
"""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.agreeing import CLOSED, OTHER_EPOCH, Exchange, epoch_for, judge
from dynamo_ray.core.handover import Handover, Publish
from dynamo_ray.core.membership import LINE, NODE_ROLE, Fact, Slot, View
from dynamo_ray.core.messages import Merge, Persist, Reply, Send
from dynamo_ray.core.node import Answer, Node, Own
from dynamo_ray.core.receive import FORGOTTEN, OWNED, PROMISED, UNABLE, Grant, Receiver
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.upkeep import Confirm, Offer, Offered, Reap, Seal, Sealed
from tests.core.histories import dot, incarnation, node_id, placement, state, version

A, B, C, D = map(node_id, "abcd")
SETTINGS = Settings(n=2, partitions=2)
RING = Ring(2, 2, tuple(Member(node_id(one), one) for one in "abcd"), (A, B, C, B))
FIRST = 0  # the slot of partition 0 that A has
STAMP = b"1"
HELD = state(version(dot("b", 1), b"v"))


def known() -> Placement:
    return placement(RING, SETTINGS)


def wished(receiver: bytes = D) -> Placement:
    """A's slot should go to D."""
    return known().learn(known().with_wishes([(FIRST, receiver)], STAMP))


def replica(node: bytes, at: Placement) -> Replica:
    return Replica(node, SETTINGS, [{}, {}], at.owned(node))


def giver(at: Placement) -> Handover:
    machine = Handover(replica(A, at), SETTINGS)
    machine.on_placement(at)
    return machine


def receiver(at: Placement, node: bytes = D) -> Receiver:
    machine = Receiver(replica(node, at), {})
    machine.on_placement(at)
    return machine


# Who may be asked what.


@pytest.mark.parametrize("kind", [Confirm, Reap])
def test_nothing_is_reaped_while_a_newcomer_is_not_asked(kind: Any) -> None:
    """It may keep a copy for an owner; the partition's owners are the same for both."""
    newcomer = Fact(incarnation(1), 0, node_id("e"), NODE_ROLE, "e", "h", 1)
    before, after = known().ring, known().learn(View().with_facts([newcomer])).ring
    assert before.epoch_of(0) == after.epoch_of(0)
    message = kind([b"k"], [0], [bytes(16)], *([[None]] if kind is Reap else []))
    nothing: frozenset[int] = frozenset()
    assert judge(after, nothing, nothing, message, epoch_for(after, message)) is None
    assert judge(after, nothing, nothing, message, epoch_for(before, message)) == OTHER_EPOCH


def test_what_changes_hands_or_has_takes_nothing_from_its_own_repairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The receiver would not have it: it has been compared for the last time."""
    at = Node(replica(A, known()), SETTINGS, known())
    merge = Merge([b"k"], [0], [HELD])
    at.handover.closed = frozenset({0})
    answered: list[Any] = []
    ends = lambda node, request, reply: answered.append((request, reply)) or []  # noqa: E731
    monkeypatch.setattr(at, "on_peer", ends)
    assert at._take([Send(A, merge)]) == [] and answered == [(merge, CLOSED)]
    foreign = Merge([b"k"], [1], [HELD])
    assert at._take([Send(A, foreign)]) == [] and answered[1:] == [(foreign, CLOSED)]
    at.handover.closed = frozenset({1})
    (persist,) = at._take([Send(A, merge)])
    assert isinstance(persist, Persist) and at.replica.maps[0] == {b"k": HELD}
    assert at._waiting[0].to == Own(merge)


# Giving.


def test_what_is_in_doubt_is_not_given_away() -> None:
    """Its receiver counts at once, and would vouch for what the giver has forgotten."""
    machine = giver(wished())
    machine._replica.doubted = frozenset({0})
    assert machine.on_tick(1000, frozenset()) == []
    machine._replica.doubted = frozenset({1})
    (send,) = machine.on_tick(2000, frozenset())
    assert send == Send(D, Offer(0, FIRST, 1))


def test_who_inherits_takes_no_writes_and_says_nothing_before_the_others_know() -> None:
    """Somebody who does not know yet would count the one that is gone, for the same slot."""
    end = View(ends={A: D})
    machine = Handover(replica(D, known()), SETTINGS)
    machine.on_placement(known().learn(end))
    show = [Exchange(B)]  # until it is known to know; C owns nothing of it
    assert machine.closed == frozenset({0}) and machine.on_tick(1000, frozenset()) == show
    machine.on_told(C, end)
    machine.on_told(B, View())
    assert machine.on_tick(2000, frozenset()) == show
    assert machine.on_tick(2500, frozenset({B})) == [], "it cannot be reached"
    machine.on_told(B, end)
    assert machine.on_tick(3000, frozenset()) == [
        Publish({FIRST: Slot(LINE, D)}, frozenset({0}))
    ], "and what it may lack is noted before"
    said = known().learn(end).learn(View(slots={FIRST: Slot(LINE, D)}))
    machine.on_placement(said)
    machine.on_published(True)
    assert machine.closed == frozenset({0}) and machine.on_tick(4000, frozenset()) == show
    machine.on_told(B, end)
    assert machine.closed == frozenset({0}), "it knows of the end, and not that it is published"
    machine.on_told(B, said.view)
    assert machine.closed == frozenset() and machine.is_idle


def test_what_is_inherited_is_in_doubt_whatever_was_promised() -> None:
    """Who promised to keep a slot may inherit it: its giver may have gone on after the seal."""
    machine = Handover(replica(D, known()), SETTINGS)
    machine.on_placement(known().learn(View(ends={A: D})))
    assert machine._replica.doubted == {0} == machine.inheriting


def test_a_promise_does_not_stand_once_the_slot_is_inherited() -> None:
    machine = receiver(wished())
    (offered,) = machine.on_offer("a", Offer(0, FIRST, 1))
    (grant,) = machine.on_seal("a", Seal(0, FIRST, 1, offered.message.token))
    assert machine.stands(grant)
    machine.on_placement(wished().learn(View(ends={A: D})))
    assert not machine.stands(grant) and machine.promised == frozenset()
    machine._replica.doubted = frozenset({0})  # as whoever inherits doubts it
    assert machine.on_granted(grant, True) == [Reply("a", FORGOTTEN)]
    assert machine._replica.doubted == {0}


def test_a_promise_on_disk_is_the_end_of_the_doubt() -> None:
    machine = receiver(wished())
    machine._replica.doubted = frozenset({0, 1})
    (offered,) = machine.on_offer("a", Offer(0, FIRST, 1))
    (grant,) = machine.on_seal("a", Seal(0, FIRST, 1, offered.message.token))
    assert machine.on_granted(grant, False) == [Reply("a", UNABLE)]
    assert machine._replica.doubted == {0, 1}
    machine.on_granted(grant, True)
    assert machine._replica.doubted == {1}


def test_what_is_sealed_while_something_else_is_published_is_published_next() -> None:
    """It counts as given, and is kept by nobody, if the end of the other is taken for its own."""
    machine = giver(wished())
    machine.on_tick(1000, frozenset())
    machine._publishing = {5: Slot(LINE, A)}  # what it has inherited
    assert machine.on_peer(Seal(0, FIRST, 1, b""), Sealed(), 1000) == []
    assert machine.on_published(True) == [Publish({FIRST: Slot(1, D)})]
    assert machine._replica.handed_over == {} and machine._given == 0
    machine.on_published(True)
    assert machine._replica.handed_over == {0: D} and machine._given == 1


def test_what_one_owns_for_want_of_somebody_unknown_is_closed_until_that_is_known() -> None:
    at = known().learn(View(slots={FIRST: Slot(1, node_id("z"))}))
    instead = at.ring.slots[FIRST]
    machine = Handover(replica(instead, known()), SETTINGS)
    machine.on_placement(at)
    assert machine.closed == {0} == machine.inheriting == machine._replica.doubted
    assert machine.on_tick(1000, frozenset()) == [], "and nothing of it is said"


# Taking.


def test_a_second_giver_of_a_partition_is_refused_from_the_promise_on() -> None:
    """Two copies of one partition at one node are one."""
    machine = receiver(wished())
    (offered,) = machine.on_offer("a", Offer(0, FIRST, 1))
    assert isinstance(offered, Reply) and isinstance(offered.message, Offered)
    grant = machine.on_seal("a", Seal(0, FIRST, 1, offered.message.token))
    assert grant == [Grant("a", 0, FIRST, 1)]
    assert machine.on_offer("b", Offer(0, 1, 1)) == [Reply("b", PROMISED)]
    assert machine.on_offer("b", Offer(1, 2, 1)) != [Reply("b", PROMISED)], "of another partition"


def test_an_owner_takes_no_second_slot_of_the_same_partition() -> None:
    machine = receiver(known(), B)
    assert machine.on_offer("a", Offer(0, FIRST, 1)) == [Reply("a", OWNED)]


def test_a_seal_of_an_offer_that_was_followed_by_another_is_refused() -> None:
    """What the later giver has sent is not what the earlier one holds."""
    machine = receiver(wished())
    (first,) = machine.on_offer("a", Offer(0, FIRST, 1))
    machine.on_offer("b", Offer(0, 1, 1))
    assert isinstance(first, Reply)
    (refused,) = machine.on_seal("a", Seal(0, FIRST, 1, first.message.token))
    assert not isinstance(refused, Grant)


@pytest.mark.parametrize("is_over", [False, True])
def test_who_was_replaced_takes_nothing_more_and_keeps_what_it_had(is_over: bool) -> None:
    """What it would keep for others now nobody would ever get; the rest stays aside (rule 15)."""
    here = known().learn(View(slots={FIRST: Slot(1, D)}, ends={A: D} if is_over else {}))
    at = Node(replica(A, here), SETTINGS, here)
    at.replica.maps[0][b"old"] = HELD
    merge = Merge([b"k"], [1], [HELD], C)
    out = at.on_request("co", merge, 0, 1000, 1000, here.ring.epoch_of(1))
    assert (out == [Answer("co", OTHER_EPOCH)]) == is_over
    at.receiver.on_tick(1000)
    kept_for = at.replica.hints.owners()
    assert kept_for == ([] if is_over else [B, C, D]) and b"old" in at.replica.maps[0]
