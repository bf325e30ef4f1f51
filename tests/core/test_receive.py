"""Taking slots: what is promised stays, and what is held for nobody is let go of."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.membership import Slot, View
from dynamo_ray.core.messages import Code, Merge, Minted, Persist, Refused
from dynamo_ray.core.node import Answer, Fsync
from dynamo_ray.core.receive import KEYS_A_TICK, SESSION_MS, Grant
from dynamo_ray.core.upkeep import Compare, Offer, Offered, Seal, Sealed
from tests.core.moving import ALONE, CLIENT, SHARED, A, B, C, D, World, keys, value_of, wish

FIRST, SECOND = Offer(0, 0, 1), Offer(0, 1, 1)


def offered(at: World, node: bytes, offer: Offer = FIRST) -> bytes:
    """The token of an offer that is taken."""
    answer = at.ask(node, offer)
    assert isinstance(answer, Offered)
    return answer.token


def seal(offer: Offer, token: bytes) -> Seal:
    return Seal(offer.partition, offer.slot, offer.generation, token)


def code_of(answer: Any) -> int | None:
    return answer.code if isinstance(answer, Refused) else None


def moved(held_by: bytes = A) -> World:
    """A's only slot has gone to B, and everybody knows."""
    at = World(ALONE, {held_by: [keys(3)]})
    at.learn(A, View(slots={0: Slot(1, B)}))
    at.nodes[A].replica.handed_over[0] = B
    at.tell()
    return at


# Promises.


def test_an_owner_takes_no_second_copy() -> None:
    at = World(SHARED, {})
    assert code_of(at.ask(B, FIRST)) == Code.BAD_REQUEST


def test_what_is_offered_is_sealed_with_the_token_of_that_offer() -> None:
    at = World(ALONE, {})
    token = offered(at, B)
    assert code_of(at.ask(B, seal(FIRST, b"another"))) == Code.NOT_READY
    assert at.granted[B] == {}
    assert at.ask(B, seal(FIRST, token)) == Sealed()
    assert at.granted[B] == {0: (0, 1)}


def test_a_later_offer_makes_the_earlier_one_void() -> None:
    """Two givers of a partition: who is sealed first is the one that gives."""
    at = World(SHARED, {})
    first, second = offered(at, C, FIRST), offered(at, C, SECOND)
    assert code_of(at.ask(C, seal(FIRST, first))) == Code.NOT_READY
    assert at.ask(C, seal(SECOND, second)) == Sealed()


def test_what_is_promised_to_one_is_not_promised_to_another() -> None:
    at = World(SHARED, {})
    at.ask(C, seal(FIRST, offered(at, C, FIRST)))
    assert code_of(at.ask(C, SECOND)) == Code.NOT_READY
    later = Offer(0, 0, 2)
    assert code_of(at.ask(C, later)) == Code.NOT_READY, "of another generation"
    assert at.ask(C, seal(FIRST, offered(at, C, FIRST))) == Sealed(), "to the same one, again"


def test_two_givers_of_one_partition_to_one_receiver() -> None:
    """One gives it; the other one's wish is void then, for it would be a second copy there."""
    at = World(SHARED, {A: [keys(5)], B: [keys(5)]}, wishes={0: wish(C), 1: wish(C)})
    at.run(10)
    assert len(at.published) == 1
    at.tell()
    at.run(20)
    (_, given), (stays, taken_back) = at.published
    assert list(taken_back.values()) == [Slot(1, stays)] and taken_back.keys().isdisjoint(given)
    at.tell()
    assert sorted(at.placements[D].ring.owners(0)) in ([A, C], [B, C])


def test_a_promise_is_given_once_what_it_speaks_of_is_fsynced() -> None:
    """At every level of durability: somebody gives up a copy for it (rule 8)."""
    at = World(ALONE, {})
    token, node, epoch = offered(at, B), at.nodes[B], at.placements[B].ring.epoch_of(0)
    (record, *_) = node.on_request(CLIENT, Merge([b"k"], [0], [value_of(1)]), 0, 0, 0, epoch)
    assert isinstance(record, Persist) and node.on_appended(record.position)
    (grant,) = node.on_request(CLIENT, seal(FIRST, token), 0, 0, 0, epoch)
    assert grant == Grant(CLIENT, 0, 0, 1)
    assert node.on_granted(grant, True) == [Fsync()], "and at once, for nothing else comes"
    assert node.on_synced(record.position) == [Answer(CLIENT, Sealed())]


def test_one_that_became_an_owner_since_the_offer_does_not_seal_it() -> None:
    at = World(SHARED, {})
    token = offered(at, C, SECOND)
    at.learn(C, View(slots={0: Slot(1, C)}))
    assert code_of(at.ask(C, seal(SECOND, token))) == Code.BAD_REQUEST


def test_a_promise_that_cannot_be_noted_is_not_given() -> None:
    at = World(ALONE, {})
    token = offered(at, B)
    at.full = {B}
    assert code_of(at.ask(B, seal(FIRST, token))) == Code.READ_ONLY


def test_a_promise_outlives_a_restart() -> None:
    at = World(SHARED, {C: [keys(3)]})
    at.ask(C, seal(FIRST, offered(at, C)))
    at.start(C)
    at.run(5)
    assert code_of(at.ask(C, SECOND)) == Code.NOT_READY
    assert at.held(C) == keys(3), "it may be the owner already"
    assert at.nodes[C].receiver.expects(0)


def test_a_promise_is_settled_once_the_slot_is_of_that_generation() -> None:
    """Whoever has it then."""
    at = World(SHARED, {C: [keys(3)]})
    at.ask(C, seal(FIRST, offered(at, C)))
    at.learn(C, View(slots={1: Slot(5, D)}))
    at.tick(C)
    assert at.held(C) == keys(3), "of another slot"
    at.learn(C, View(slots={0: Slot(1, A)}))
    at.run(5)
    assert at.held(C) == {} == at.disks[C][0]
    assert isinstance(at.ask(C, Offer(0, 0, 2)), Offered)


def test_an_offer_before_the_slot_changed_hands_is_forgotten_with_it() -> None:
    at = World(SHARED, {})
    token = offered(at, C)
    at.learn(C, View(slots={0: Slot(1, D)}))
    assert code_of(at.ask(C, seal(FIRST, token))) == Code.NOT_READY


def test_no_two_runs_and_no_two_offers_have_the_same_token() -> None:
    at = World(ALONE, {})
    tokens = [offered(at, B), offered(at, B)]
    at.start(B)
    tokens.append(offered(at, B))
    assert len(set(tokens)) == 3


# Leftovers.


def test_whoever_gave_it_away_lets_go_of_it() -> None:
    at = moved()
    at.run(3)
    assert at.held(A) == {} == at.disks[A][0]


def test_an_owner_lets_go_of_nothing() -> None:
    at = World(ALONE, {A: [keys(3)]})
    at.run(5)
    assert at.held(A) == keys(3)


def test_it_is_let_go_of_a_part_at_every_tick() -> None:
    at = World(ALONE, {B: [keys(KEYS_A_TICK + 10)]})
    at.nodes[B].replica.handed_over[0] = A
    at.tick(B)
    assert len(at.held(B)) == 10
    at.tick(B)
    at.tick(B)
    assert at.held(B) == {}


def test_what_was_not_given_away_goes_once_the_owners_have_it() -> None:
    """A transfer came to nothing, or the slot fell to an heir: perhaps nobody else has it."""
    at = World(SHARED, {C: [keys(3)]})
    at.away = frozenset({B})
    at.run(3)
    assert at.held(A) == keys(3) == at.held(C) and at.held(B) == {}
    at.away = frozenset()
    at.run(3)
    assert at.held(B) == keys(3) and at.held(C) == {} == at.disks[C][0]


def test_what_it_gave_away_goes_without_more_ado() -> None:
    at = World(ALONE, {A: [keys(3)]}, wishes={0: wish(B)})
    while not at.published:
        at.tick()
    at.sent.clear()
    at.run(3)
    assert at.held(A) == {} and "Merge" not in at.kinds
    at.learn(A, View(slots={0: Slot(2, A)}))
    assert not at.nodes[A].replica.handed_over, "it is given back"


def test_what_it_gave_to_one_that_was_replaced_goes_to_the_heir_first() -> None:
    """Found by the simulator: with one copy, the giver's was the last, and it let go of it."""
    at = moved()
    at.away = frozenset({B})
    at.learn(A, View(ends={B: C}))
    at.tell()
    at.run(3)
    assert at.held(C) == keys(3) and at.held(A) == {}


def test_copies_of_what_is_to_come_here_outlast_their_hints() -> None:
    """The giver counts on what is here, though it was kept for another owner at first."""
    at = World(SHARED, {A: [keys(3)], C: [keys(3)]})
    for key in keys(3):
        at.nodes[C].replica.hints.add(B, key, 0, 10)
    token = offered(at, C)
    at.run(3)
    assert at.held(B) == keys(3) == at.held(C) and not len(at.nodes[C].replica.hints)
    assert isinstance(at.ask(C, seal(FIRST, token)), Sealed)


def test_what_is_kept_for_others_stays() -> None:
    at = moved()
    at.nodes[A].replica.hints.add(B, b"k0001", 0, 10)
    at.away = frozenset({B, C, D})
    at.run(5)
    assert at.held(A).keys() == {b"k0001"}


def test_what_is_kept_for_others_since_the_walk_began_stays_too() -> None:
    at = World(ALONE, {B: [keys(KEYS_A_TICK + 10)]})
    at.nodes[B].replica.handed_over[0] = A
    at.tick(B)
    kept = max(at.held(B))
    at.nodes[B].replica.hints.add(A, kept, 0, 10)
    at.away = frozenset({A})
    at.tick(B)
    assert at.held(B).keys() == {kept}


def test_while_it_is_offered_nothing_of_it_is_let_go_of() -> None:
    at = World(ALONE, {B: [keys(3)]})
    offered(at, B)
    for _ in range(2):
        at.tick(B, passed_ms=SESSION_MS - 1)
        for _ in range(3):
            at.tick(B, passed_ms=0)
        assert at.held(B) == keys(3)
        at.ask(B, Compare(0, b""))  # somebody works on it
    at.tick(B, passed_ms=SESSION_MS)
    at.run(3)
    assert at.held(B) == {} and at.held(A) == keys(3)


def test_while_it_is_wished_for_nothing_of_it_is_let_go_of() -> None:
    """A giver that starts again begins with what came before."""
    at = World(ALONE, {B: [keys(3)], C: [keys(3)]})
    at.learn(B, View(wishes={0: wish(B)}))
    at.run(3)
    assert at.held(B) == keys(3) and at.held(C) == {}
    at.learn(B, View(wishes={0: wish(C, stamp=b"2")}))
    at.run(3)
    assert at.held(B) == {}


def test_what_is_let_go_of_is_not_resumed() -> None:
    """A mint that finds nothing begins a new life (rule 3), and a retry is known (rule 7)."""
    at = World(ALONE, {})
    before = at.put(A, b"k")
    assert isinstance(before, Minted)
    at.learn(A, View(slots={0: Slot(1, B)}))
    at.run(3)
    assert at.held(A) == {}
    again = at.put(A, b"k")
    assert isinstance(again, Minted) and again.codes == [Code.UNKNOWN]


@pytest.mark.parametrize("is_owner", [True, False])
def test_it_expects_what_it_owns_and_what_is_offered(is_owner: bool) -> None:
    at = World(ALONE, {})
    node = A if is_owner else B
    assert at.nodes[node].receiver.expects(0) == is_owner
    if not is_owner:
        offered(at, node)
        assert at.nodes[node].receiver.expects(0)
