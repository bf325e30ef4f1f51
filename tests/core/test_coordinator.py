"""The coordinator: calls out, replies in, one answer per request, and an end to everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.coordinator import Coordinator, ToClient, ToNode
from dynamo_ray.core.messages import (
    ClientGet,
    Code,
    Fetch,
    Fetched,
    GetDone,
    Merge,
    Merged,
    Mint,
    Minted,
    PutDone,
    Refused,
)
from dynamo_ray.core.rerouting import TRIES
from dynamo_ray.core.ring import Ring, partition_of
from dynamo_ray.core.settings import Limits, Times
from dynamo_ray.core.speculation import ANSWER_S, BURST, LEAST_S, MOST_KEYS, SHARE, UNKNOWN_S
from dynamo_ray.core.version import clock_of
from tests.core.histories import dot, state, version
from tests.core.test_requests import DESK, KEYS, keys_of_different_routes, put_of

WALL = 1_000
HELD = state(version(dot("a", 1), b"v"))
MINTED = Minted([HELD], [clock_of(HELD)])
OWNERS = DESK.ring.owners(partition_of(b"k", 16))
GET = ClientGet([b"k"], 0, False)


def never_heard(node: bytes) -> float:
    return 1e9


def coordinator(**settings: Any) -> Coordinator:
    return Coordinator(replace(DESK, settings=replace(DESK.settings, **settings)))


def ask(
    at: Coordinator,
    message: Any,
    now: float = 0.0,
    to: str = "client",
    timeout_s: float = 1.0,
) -> list[Any]:
    return at.on_request(to, message, now + timeout_s, now, WALL)


def reply(at: Coordinator, call: ToNode, message: Any, now: float = 0.1) -> list[Any]:
    return at.on_reply(call.call, message, now, WALL)


def to_client(out: list[Any]) -> list[Any]:
    return [effect.message for effect in out if isinstance(effect, ToClient)]


def test_a_put_from_the_request_to_the_reply() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert mint.node == OWNERS[0] and isinstance(mint.message, Mint)
    second, third = reply(at, mint, MINTED)
    assert [second.node, third.node] == list(OWNERS[1:])
    (done,) = to_client(reply(at, third, Merged()))
    assert done == PutDone([KEYS.seal(b"k", clock_of(HELD))])
    assert at.in_flight == 1
    assert reply(at, second, Merged()) == []
    assert at.in_flight == 0


def test_a_get_from_the_request_to_the_reply_and_the_repair() -> None:
    at = coordinator()
    first, second, third = ask(at, GET)
    assert isinstance(first.message, Fetch)
    reply(at, first, Fetched([None]))
    (done,) = to_client(reply(at, second, Fetched([HELD])))
    assert isinstance(done, GetDone) and done.states == [HELD]
    (repair,) = reply(at, third, Fetched([HELD]))
    assert repair.node == OWNERS[0] and isinstance(repair.message, Merge)
    assert at.in_flight == 0
    assert reply(at, repair, Merged()) == [] and at.late_replies == 1


def test_two_routes_make_two_calls_and_one_reply() -> None:
    at = coordinator()
    x, y = keys_of_different_routes(2)
    calls = ask(at, put_of(keys=[x, y], w=1))
    assert len({call.call for call in calls}) == 2 and at.in_flight == 2
    assert to_client(reply(at, calls[0], MINTED)) == []
    (done,) = to_client(reply(at, calls[1], MINTED))
    assert [context is not None for context in done.contexts] == [True, True]


def test_one_bad_key_fails_alone() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"", b"k"], w=1))
    (done,) = to_client(reply(at, mint, MINTED))
    assert [f.code for f in done.failures] == [Code.KEY_SIZE]
    assert done.contexts[0] is None and done.contexts[1] is not None


def test_only_bad_keys_are_answered_at_once() -> None:
    (done,) = to_client(ask(coordinator(), put_of(keys=[b""])))
    assert [f.code for f in done.failures] == [Code.KEY_SIZE]
    assert to_client(ask(coordinator(), ClientGet([], 0, False))) == [GetDone([], [])]


def test_too_much_is_refused_quickly() -> None:
    at = coordinator(limits=Limits(in_flight=1, batch_keys=2))
    assert to_client(ask(at, put_of(keys=[b"k"] * 3)))[0].code == Code.BAD_REQUEST
    assert to_client(ask(at, GET)) == []
    assert to_client(ask(at, GET))[0].code == Code.OVERLOADED
    assert to_client(ask(at, "nonsense"))[0].code == Code.BAD_REQUEST


def test_stragglers_do_not_count_against_the_bound_on_requests() -> None:
    """Found under load: each put beside a hung node waited for it, until others were refused."""
    at = coordinator(limits=Limits(in_flight=1))
    for _ in range(3):
        (mint,) = ask(at, put_of(keys=[b"k"]))
        assert ask(at, GET)[0].message.code == Code.OVERLOADED
        _, third = reply(at, mint, MINTED)
        assert to_client(reply(at, third, Merged()))
    assert at.in_flight == 3


def test_the_deadline_answers_unknown_and_closes_what_has_not_minted() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]), timeout_s=0.5)
    assert at.on_tick(0.4, WALL) == []
    (done,) = to_client(at.on_tick(0.5, WALL))
    assert done.failures[0].code == Code.UNKNOWN
    assert at.in_flight == 0
    assert reply(at, mint, MINTED) == [] and at.late_replies == 1


def test_what_comes_too_late_is_not_begun() -> None:
    """It waited while this process was stopped, and its client has gone elsewhere with it."""
    at = coordinator()
    for expires in (0.0, 4.9, 5.0):
        (answer,) = to_client(at.on_request("client", put_of(keys=[b"k"]), expires, 5.0, WALL))
        assert answer.code == Code.EXPIRED
    assert at.in_flight == 0


def test_nobody_may_ask_for_more_time_than_there_is() -> None:
    at = coordinator(times=Times(timeout_max_s=3.0))
    *_, last = ask(at, GET, timeout_s=60.0)
    assert last.timeout_s == 3.0
    assert to_client(at.on_tick(3.0, WALL))


def test_the_work_after_the_answer_has_a_deadline_of_its_own() -> None:
    """A short time-out is the caller's: stragglers still get their linger, and then the end."""
    at = coordinator(times=Times(linger_s=2.0))
    (mint,) = ask(at, put_of(keys=[b"k"]), timeout_s=0.05)
    second, third = reply(at, mint, MINTED, now=0.01)
    assert to_client(reply(at, second, Merged(), now=0.02))
    assert at.on_tick(0.06, WALL) == [] and at.in_flight == 1
    (stand_in,) = at.on_failure(third.call, True, 1.0, WALL)
    assert stand_in.message.hint_for == third.node
    at.on_tick(2.02, WALL)
    assert at.in_flight == 0


def test_a_get_repairs_when_its_linger_ends() -> None:
    at = coordinator()
    first, second, _ = ask(at, GET)
    reply(at, first, Fetched([None]))
    reply(at, second, Fetched([HELD]))
    (repair,) = at.on_tick(3.0, WALL)
    assert repair.node == first.node and at.in_flight == 0


def test_a_coordinator_that_was_stopped_for_long_sends_nothing_more() -> None:
    """What it knows may be forgotten elsewhere since: a tombstone that was reaped (rule 12)."""
    at = coordinator(times=Times(linger_s=2.0))
    first, second, _ = ask(at, GET)
    reply(at, first, Fetched([None]))
    reply(at, second, Fetched([HELD]))
    assert at.on_tick(5.0, WALL) == [] and at.in_flight == 0
    (mint,) = ask(at, put_of(keys=[b"k"]), now=10.0)
    assert len(reply(at, mint, MINTED, now=10.9)) == 2
    (mint,) = ask(at, put_of(keys=[b"k"]), now=20.0)
    assert reply(at, mint, MINTED, now=10_000.0) == []


def test_what_it_sends_is_done_before_the_operations_end_or_not_at_all() -> None:
    at = coordinator(times=Times(linger_s=2.0))
    (mint,) = ask(at, put_of(keys=[b"k"]))
    second, third = reply(at, mint, MINTED)
    assert to_client(reply(at, second, Merged(), now=0.9))
    (stand_in,) = at.on_failure(third.call, True, 2.8, WALL)
    assert 0 < stand_in.timeout_s <= 1.0 + 2 * 2.0 - 2.8


def test_a_straggler_after_a_time_out_is_heard_until_the_linger_ends() -> None:
    at = coordinator(times=Times(linger_s=2.0))
    (mint,) = ask(at, put_of(keys=[b"k"]))
    second, _ = reply(at, mint, MINTED)
    (done,) = to_client(at.on_tick(1.0, WALL))
    assert done.failures[0].code == Code.UNKNOWN
    assert at.in_flight == 1
    assert reply(at, second, Merged(), now=1.5) == []
    at.on_tick(3.0, WALL)
    assert at.in_flight == 0


def test_a_put_does_not_go_on_to_a_node_that_was_suspected_meanwhile() -> None:
    """No new suspicion of it would come: the put would wait there until its time is up."""
    first, second, third = OWNERS
    for before, now in ((frozenset(), {first, second}), (frozenset({second}), {first})):
        at = coordinator()
        ask(at, put_of(keys=[b"k"]))
        at.on_suspected(before, before, 0.05, WALL)
        (mint,) = at.on_suspected(before | now, frozenset(now), 0.1, WALL)
        assert mint.node == third


def test_a_copy_is_not_sent_to_a_node_that_was_suspected_meanwhile() -> None:
    _, second, third = OWNERS
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    gone = frozenset({second, third})
    assert at.on_suspected(gone, gone, 0.05, WALL) == []
    copies = reply(at, mint, MINTED)
    assert {copy.node for copy in copies}.isdisjoint(gone)
    assert {copy.message.hint_for for copy in copies} == gone


def test_a_suspicion_routes_around_and_waits_no_longer() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    gone = frozenset({OWNERS[0]})
    (again,) = at.on_suspected(gone, gone, 0.1, WALL)
    assert again.node == OWNERS[1] and again.message.put_ids == mint.message.put_ids
    assert at.on_suspected(gone, frozenset(), 0.2, WALL) == []
    (other,) = ask(at, put_of(keys=[b"k"]))
    assert other.node == OWNERS[1]
    assert len(reply(at, mint, MINTED)) == 2  # an answer that comes after all is welcome


BEGIN_S = 2 * UNKNOWN_S
LATE_S = BEGIN_S + ANSWER_S + 0.001


def test_a_mint_is_to_begin_soon_where_another_owner_can_do_it() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert mint.timeout_s == BEGIN_S
    (second,) = reply(at, mint, Refused(Code.EXPIRED))
    (third,) = reply(at, second, Refused(Code.EXPIRED))
    assert [second.node, third.node] == list(OWNERS[1:])
    assert second.timeout_s == BEGIN_S
    assert third.timeout_s == pytest.approx(0.9), "all that is left"


def test_a_late_mint_is_asked_of_the_next_owner_and_others_go_there_first() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert at.wakes_at() is not None and at.on_wake(BEGIN_S, WALL, never_heard) == []
    (again,) = at.on_wake(LATE_S, WALL, never_heard)
    assert again.node == OWNERS[1] and again.message.put_ids == mint.message.put_ids
    (other,) = ask(at, put_of(keys=[b"k"]), now=LATE_S)
    assert other.node == OWNERS[1]
    merges = reply(at, again, MINTED, now=LATE_S)
    assert {merge.node for merge in merges} == {OWNERS[0], OWNERS[2]}
    assert reply(at, mint, Refused(Code.EXPIRED), now=1.0) == []
    (other,) = ask(at, put_of(keys=[b"k"]), now=LATE_S)
    assert other.node == OWNERS[1], "it is awake, and has persisted nothing"
    reply(at, next(m for m in merges if m.node == OWNERS[0]), Merged(), now=1.0)
    (other,) = ask(at, put_of(keys=[b"k"]), now=1.1)
    assert other.node == OWNERS[0]


def test_a_node_that_was_heard_since_is_waited_for() -> None:
    """It has read the mint, so it has begun it or dropped it: a second would make two versions."""
    at = coordinator()
    ask(at, put_of(keys=[b"k"]))
    assert at.on_wake(LATE_S, WALL, lambda node: LATE_S - LEAST_S - 0.01) == []
    assert at.on_wake(LATE_S + LEAST_S + 0.001, WALL, never_heard)


def test_few_mints_are_speculative_however_many_are_late() -> None:
    at = coordinator()
    for _ in range(200):
        ask(at, put_of(keys=[b"k"]))
    assert BURST <= len(at.on_wake(LATE_S, WALL, never_heard)) < BURST * (1 + 2 * SHARE)
    assert at.on_wake(LATE_S + LEAST_S + 0.001, WALL, never_heard) == []


def test_a_long_batch_takes_long_because_it_is_long() -> None:
    at = coordinator()
    calls = ask(at, put_of(keys=[b"k"] * (MOST_KEYS + 1)))
    assert [call.timeout_s for call in calls] == [1.0]
    assert at.wakes_at() is None


def test_an_answer_of_the_wrong_kind_is_a_failure() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    (again,) = reply(at, mint, Fetched([None]))
    assert isinstance(again.message, Mint)
    (third,) = reply(at, again, Refused(Code.UNKNOWN))
    calls = [third]
    while isinstance(calls[-1], ToNode):
        calls += reply(at, calls[-1], Refused(Code.READ_ONLY))
    assert calls[-1].message.failures[0].code == Code.UNKNOWN


def test_losing_every_minter_before_it_was_asked_is_unavailable() -> None:
    at = coordinator()
    (call,) = ask(at, put_of(keys=[b"k"]))
    while isinstance(call, ToNode):
        (call,) = at.on_failure(call.call, False, 0.1, WALL)
    assert call.message.failures[0].code == Code.UNAVAILABLE
    assert at.in_flight == 0


def test_a_call_that_nobody_waits_for_does_no_harm() -> None:
    at = coordinator()
    assert at.on_reply(99, Merged(), 0.0, WALL) == [] == at.on_failure(99, True, 0.0, WALL)
    assert at.late_replies == 1


# Another ring (DESIGN rule 16).

PARTITION = partition_of(b"k", 16)
SPARES = DESK.ring.preference(PARTITION)[3:]
OTHER = Refused(Code.OTHER_EPOCH)


def ring_with(*owners: bytes, of: int = PARTITION, ring: Ring = DESK.ring) -> Ring:
    """The ring in which a partition, the key's, has other owners."""
    slots, first = list(ring.slots), of * 3
    slots[first : first + 3] = owners
    return replace(ring, slots=tuple(slots))


GIVEN = ring_with(SPARES[0], *OWNERS[1:])
"""The first owner's slot has gone to the first spare."""
TWIN = next(
    key
    for key in (b"%d" % i for i in range(1000))
    if (p := partition_of(key, 16)) != PARTITION and DESK.ring.owners(p) == OWNERS
)
"""A key of the same owners in another partition."""


def exchanged(at: Coordinator, node: bytes, ring: Ring = GIVEN) -> list[Any]:
    """The coordinator and a node showed each other what they know."""
    at.on_ring(ring, 0.1, WALL)
    return at.on_exchanged(node, 0.1, WALL)


def test_a_request_travels_under_the_epoch_of_its_keys_owners() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert mint.epoch == DESK.ring.epoch_of(PARTITION)
    assert {call.epoch for call in ask(at, GET)} == {mint.epoch}
    at.on_ring(GIVEN, 0.1, WALL)
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert (mint.node, mint.epoch) == (SPARES[0], GIVEN.epoch_of(PARTITION))


def test_what_is_refused_for_another_ring_goes_on_at_the_present_owner() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    assert reply(at, mint, OTHER) == [Exchange(OWNERS[0])]
    (again,) = exchanged(at, OWNERS[0])
    assert (again.node, again.epoch) == (SPARES[0], GIVEN.epoch_of(PARTITION))
    assert again.message == mint.message and again.call != mint.call
    second, third = reply(at, again, MINTED)
    assert {second.node, third.node} == set(OWNERS[1:])
    (done,) = to_client(reply(at, second, Merged()))
    assert isinstance(done, PutDone) and not done.failures


def test_a_read_counts_the_present_owner_in_the_place_of_the_one_before() -> None:
    at = coordinator()
    first, second, _ = ask(at, replace(GET, strict=True))
    assert reply(at, second, OTHER) == [Exchange(OWNERS[1])]
    (again,) = exchanged(at, OWNERS[1], ring_with(OWNERS[0], SPARES[0], OWNERS[2]))
    assert again.node == SPARES[0]
    assert to_client(reply(at, again, Fetched([HELD], True))) == []
    (found,) = to_client(reply(at, first, Fetched([HELD], True)))
    assert isinstance(found, GetDone) and not found.failures


def without(node: bytes, heir: bytes) -> Ring:
    """The ring in which a node was replaced."""
    slots = tuple(heir if owner == node else owner for owner in DESK.ring.slots)
    members = tuple(member for member in DESK.ring.members if member.node != node)
    return replace(DESK.ring, slots=slots, members=members)


def test_a_copy_at_one_that_was_replaced_meanwhile_is_made_at_its_heir() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"], strict=True))
    second, _ = reply(at, mint, MINTED)
    (copy,) = at.on_ring(without(OWNERS[0], SPARES[0]), 0.1, WALL)
    assert copy.node == SPARES[0] and copy.message == second.message
    assert to_client(reply(at, second, Merged())) == []
    (done,) = to_client(reply(at, copy, Merged()))
    assert isinstance(done, PutDone) and not done.failures


def test_what_one_says_that_was_replaced_meanwhile_is_asked_of_its_heir() -> None:
    for held, heirs in ((Fetched([HELD], True), 1), (Refused(Code.NOT_READY), 0)):
        at = coordinator()
        first, *_ = ask(at, replace(GET, strict=True))
        ring = without(OWNERS[0], SPARES[0])
        assert at.on_ring(ring, 0.1, WALL) == []
        out = reply(at, first, held)
        assert len(out) == heirs and to_client(out) == []
        if heirs:
            assert out == [Exchange(OWNERS[0])]
            (again,) = at.on_exchanged(OWNERS[0], 0.1, WALL)
            assert again.node == SPARES[0]


def test_parts_of_a_batch_go_on_like_the_whole_however_often_owners_part() -> None:
    """Found under load: each key's partition moved at another moment, and the get was given up."""
    both = ring_with(SPARES[0], *OWNERS[1:], of=partition_of(TWIN, 16), ring=GIVEN)
    at = coordinator()
    first, second, _ = ask(at, replace(GET, keys=[TWIN, b"k"], strict=True))
    assert first.message.keys == [TWIN, b"k"]
    reply(at, first, OTHER)
    of_twin, of_k = exchanged(at, OWNERS[0])
    assert (of_twin.node, of_twin.message.keys) == (OWNERS[0], [TWIN])
    assert (of_k.node, of_k.message.keys) == (SPARES[0], [b"k"])
    assert reply(at, of_twin, OTHER) == [Exchange(OWNERS[0])]
    (of_twin,) = exchanged(at, OWNERS[0], both)
    assert (of_twin.node, of_twin.message.keys) == (SPARES[0], [TWIN])
    assert reply(at, of_k, OTHER) == [Exchange(SPARES[0])], "who got it does not know yet"
    (of_k,) = exchanged(at, SPARES[0], both)
    assert (of_k.node, of_k.epoch) == (SPARES[0], both.epoch_of(PARTITION))
    reply(at, of_k, Fetched([HELD]))
    assert to_client(reply(at, of_twin, Fetched([None]))) == []
    (found,) = to_client(reply(at, second, Fetched([None, HELD])))
    assert found.states == [None, HELD] and not found.failures and not found.degraded


def fork(at: Coordinator, **columns: Any) -> list[Any]:
    """A put of two keys, of which the minter owns one no longer."""
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"], **columns))
    assert (mint.node, mint.message.keys) == (OWNERS[0], [TWIN, b"k"])
    assert reply(at, mint, OTHER) == [Exchange(OWNERS[0])]
    return exchanged(at, OWNERS[0])


def test_puts_of_a_batch_whose_owners_part_each_find_a_minter() -> None:
    """Found under load: one part's partition was closed for its cut-over, and its keys failed."""
    at = coordinator()
    of_twin, of_k = fork(at)
    assert (of_twin.node, of_twin.message.keys) == (OWNERS[0], [TWIN])
    assert (of_k.node, of_k.message.keys) == (SPARES[0], [b"k"])
    assert of_k.epoch == GIVEN.epoch_of(PARTITION)
    (next_of_k,) = reply(at, of_k, Refused(Code.NOT_READY))
    assert (next_of_k.node, next_of_k.message.keys) == (OWNERS[1], [b"k"])
    assert next_of_k.message.put_ids == of_k.message.put_ids == [bytes([1]) * 16]
    _, twin_copy = reply(at, of_twin, MINTED)
    assert to_client(reply(at, twin_copy, Merged())) == []
    k_copy, _ = reply(at, next_of_k, MINTED)
    assert k_copy.node == SPARES[0]
    (done,) = to_client(reply(at, k_copy, Merged()))
    assert done == PutDone([KEYS.seal(key, clock_of(HELD)) for key in (TWIN, b"k")])


def test_a_put_that_is_asked_of_another_forks_too() -> None:
    """The ring changed while the first minter was at work, and it refuses for another cause."""
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"]))
    at.on_ring(GIVEN, 0.1, WALL)
    of_twin, of_k = reply(at, mint, Refused(Code.NOT_READY))
    assert (of_twin.node, of_k.node) == (OWNERS[0], SPARES[0])
    assert at.in_flight == 2


def test_what_may_have_been_applied_before_its_owners_parted_is_never_called_unavailable() -> None:
    at = coordinator(w=3)
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"], strict=True))
    at.on_ring(GIVEN, 0.1, WALL)
    of_twin, of_k = at.on_failure(mint.call, True, 0.1, WALL)
    out: list[Any] = []
    for call in (of_twin, of_k):
        (second,) = reply(at, call, Refused(Code.NOT_READY))
        (third,) = reply(at, second, Refused(Code.NOT_READY))
        out = reply(at, third, Refused(Code.NOT_READY))
    (done,) = to_client(out)
    assert [failure.code for failure in done.failures] == [Code.UNKNOWN] * 2
    assert at.in_flight == 0


def test_nor_where_too_few_can_be_reached_by_then() -> None:
    at = coordinator(w=3)
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"], strict=True))
    at.on_ring(GIVEN, 0.1, WALL)
    gone = frozenset(OWNERS[:2])
    (done,) = to_client(at.on_suspected(gone, gone, 0.1, WALL))
    assert [failure.code for failure in done.failures] == [Code.UNKNOWN] * 2
    assert at.on_failure(mint.call, True, 0.2, WALL) == []


def late_and_forked(at: Coordinator) -> tuple[Any, Any]:
    """The first minter is slow, and the second refuses since it owns one key no longer."""
    (first,) = ask(at, put_of(keys=[TWIN, b"k"]))
    (second,) = at.on_wake(LATE_S, WALL, never_heard)
    assert second.node == OWNERS[1]
    reply(at, second, OTHER)
    assert exchanged(at, OWNERS[1], ring_with(OWNERS[0], SPARES[0], OWNERS[2])) == []
    return first, second


def test_a_put_does_not_fork_while_a_minter_may_still_answer_for_all_of_it() -> None:
    at = coordinator()
    first, _ = late_and_forked(at)
    copies = reply(at, first, Minted([HELD] * 2, [clock_of(HELD)] * 2))
    assert {copy.node for copy in copies} >= {OWNERS[1], OWNERS[2]}
    assert at.in_flight == 1


def test_but_forks_once_that_minter_is_lost() -> None:
    at = coordinator()
    first, _ = late_and_forked(at)
    of_twin, of_k = at.on_failure(first.call, True, 0.2, WALL)
    assert [call.message.keys for call in (of_twin, of_k)] == [[TWIN], [b"k"]]


def test_and_if_no_other_candidate_is_left() -> None:
    """The last one was not asked, since the owners had parted: it may be when they have."""
    at = coordinator()
    (first,) = ask(at, put_of(keys=[TWIN, b"k"], strict=True))
    (second,) = at.on_wake(LATE_S, WALL, never_heard)
    (third,) = reply(at, second, Refused(Code.NOT_READY), now=LATE_S)
    reply(at, third, OTHER, now=LATE_S)
    assert exchanged(at, OWNERS[2]) == []
    of_twin, of_k = reply(at, first, Refused(Code.EXPIRED), now=LATE_S)
    assert [call.message.keys for call in (of_twin, of_k)] == [[TWIN], [b"k"]]


def test_a_fork_takes_only_the_keys_of_its_route_and_keeps_its_time() -> None:
    at = coordinator(w=1)
    keys = keys_of_different_routes(2)
    other = next(key for key in keys if DESK.ring.owners(partition_of(key, 16)) != OWNERS)
    mint, of_other = ask(at, put_of(keys=[TWIN, other, b"k"]))
    reply(at, mint, OTHER, now=0.5)
    at.on_ring(GIVEN, 0.1, WALL)
    of_twin, of_k = at.on_exchanged(OWNERS[0], 0.5, WALL)
    assert [call.message.keys for call in (of_twin, of_k)] == [[TWIN], [b"k"]]
    assert to_client(reply(at, of_k, MINTED, now=0.6)) == []
    assert to_client(reply(at, of_other, MINTED, now=0.6)) == []
    (done,) = to_client(at.on_tick(1.0, WALL))
    assert [failure.index for failure in done.failures] == [0]
    assert done.contexts[0] is None and None not in done.contexts[1:]


def test_a_fork_finds_whom_the_route_of_before_does_not_know() -> None:
    """All that it knows are suspected or refuse; the new owner of one key is well."""
    at = coordinator(w=1)
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"], strict=True))
    at.on_ring(GIVEN, 0.1, WALL)
    gone = frozenset(OWNERS[1:])
    assert at.on_suspected(gone, gone, 0.1, WALL) == []
    of_twin, of_k = reply(at, mint, Refused(Code.NOT_READY))
    assert (of_twin.node, of_k.node) == (OWNERS[0], SPARES[0])


def test_after_its_end_nothing_is_sent_again() -> None:
    """The coordinator was stopped while the two told each other (rule 12)."""
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    second, _ = reply(at, mint, MINTED)
    reply(at, second, OTHER)
    at.on_ring(GIVEN, 0.1, WALL)
    assert at.on_exchanged(OWNERS[1], 60.0, WALL) == []


def test_what_was_minted_is_not_asked_again_of_a_second_minter() -> None:
    """The one that was asked because the first was late refused it for another ring."""
    at = coordinator()
    (first,) = ask(at, put_of(keys=[b"k"]))
    (second,) = at.on_wake(LATE_S, WALL, never_heard)
    assert reply(at, second, OTHER) == [Exchange(OWNERS[1])]
    reply(at, first, MINTED)
    assert exchanged(at, OWNERS[1], ring_with(OWNERS[0], SPARES[0], OWNERS[2])) == []


def test_nor_does_it_begin_anew_because_the_second_hears_that_owners_have_parted() -> None:
    at = coordinator()
    (first,) = ask(at, put_of(keys=[TWIN, b"k"]))
    (second,) = at.on_wake(LATE_S, WALL, never_heard)
    assert reply(at, second, OTHER) == [Exchange(OWNERS[1])]
    assert reply(at, first, Minted([HELD] * 2, [clock_of(HELD)] * 2))
    assert exchanged(at, OWNERS[1], ring_with(OWNERS[0], SPARES[0], OWNERS[2])) == []
    assert at.in_flight == 1


def test_nor_is_one_that_was_given_up_asked_in_the_name_of_another() -> None:
    """It was suspected, so the next owner is at work on the put; then it refuses after all."""
    at = coordinator()
    (first,) = ask(at, put_of(keys=[b"k"]))
    gone = frozenset({OWNERS[0]})
    (second,) = at.on_suspected(gone, gone, 0.1, WALL)
    at.on_suspected(frozenset(), frozenset(), 0.1, WALL)
    assert second.node == OWNERS[1]
    assert reply(at, first, OTHER) == [Exchange(OWNERS[0])]
    assert exchanged(at, OWNERS[0]) == []


def test_what_forks_is_asked_of_slow_nodes_last_too() -> None:
    at = coordinator()
    ask(at, put_of(keys=[b"k"]))
    (_,) = at.on_wake(LATE_S, WALL, never_heard)
    assert at.speculation.slow == {OWNERS[0]}
    (mint,) = ask(at, put_of(keys=[TWIN, b"k"]))
    assert mint.node == OWNERS[1]
    at.on_ring(GIVEN, 0.1, WALL)
    of_twin, _ = reply(at, mint, Refused(Code.NOT_READY))
    assert (of_twin.node, of_twin.message.keys) == (OWNERS[1], [TWIN])


def test_an_owner_that_was_suspected_at_the_beginning_gets_its_copy_if_only_owners_count() -> None:
    at = coordinator()
    gone = frozenset({OWNERS[2]})
    at.on_suspected(gone, gone, 0.0, WALL)
    (mint,) = ask(at, put_of(keys=[b"k"], strict=True))
    assert [copy.node for copy in reply(at, mint, MINTED)] == list(OWNERS[1:])


def test_one_exchange_serves_all_that_a_node_refused() -> None:
    at = coordinator()
    (one,), (other,) = ask(at, put_of(keys=[b"k"])), ask(at, put_of(keys=[b"k"]), to="other")
    assert reply(at, one, OTHER) == [Exchange(OWNERS[0])]
    assert reply(at, other, OTHER) == []
    assert [call.node for call in exchanged(at, OWNERS[0])] == [SPARES[0]] * 2
    assert at.on_exchanged(OWNERS[0], 0.1, WALL) == []


def test_where_nobody_could_tell_the_same_node_is_asked_only_so_often() -> None:
    at = coordinator()
    (call,) = ask(at, put_of(keys=[b"k"]))
    for _ in range(TRIES - 1):
        assert reply(at, call, OTHER) == [Exchange(OWNERS[0])]
        (call,) = at.on_exchanged(OWNERS[0], 0.1, WALL)
        assert call.node == OWNERS[0]
    reply(at, call, OTHER)
    (call,) = at.on_exchanged(OWNERS[0], 0.1, WALL)
    assert call.node == OWNERS[1], "as if it had refused for any other cause"


def test_one_copy_is_never_counted_twice() -> None:
    """The spare stands in for one owner, and is given the slot of another meanwhile."""
    at = coordinator(w=3)
    (mint,) = ask(at, put_of(keys=[b"k"]))
    second, third = reply(at, mint, MINTED)
    (stand_in,) = reply(at, second, Refused(Code.NOT_READY))
    assert stand_in.node == SPARES[0] and stand_in.message.hint_for == OWNERS[1]
    reply(at, third, OTHER)
    (other,) = exchanged(at, OWNERS[2], ring_with(*OWNERS[:2], SPARES[0]))
    assert other.node == SPARES[1] and other.message.hint_for == OWNERS[2]
    assert to_client(reply(at, stand_in, Merged())) == []
    assert to_client(reply(at, other, Merged()))


def test_nor_if_it_takes_a_hint_before_it_knows_that_it_is_an_owner() -> None:
    """Asked for one owner's slot it has not heard of, it stands in for another, and hears then."""
    at, given = coordinator(w=3), ring_with(OWNERS[0], SPARES[0], OWNERS[2])
    (mint,) = ask(at, put_of(keys=[b"k"]))
    second, _ = reply(at, mint, MINTED)
    reply(at, second, OTHER)
    (other,) = exchanged(at, OWNERS[1], given)
    assert reply(at, other, OTHER) == [Exchange(SPARES[0])]
    gone = frozenset({OWNERS[2]})
    (stand_in,) = at.on_suspected(gone, gone, 0.1, WALL)
    assert (stand_in.node, stand_in.epoch) == (SPARES[0], mint.epoch)
    assert to_client(reply(at, stand_in, Merged())) == []
    (elsewhere,) = exchanged(at, SPARES[0], given)
    assert elsewhere.node == SPARES[1] and elsewhere.message.hint_for == OWNERS[1]
    assert to_client(reply(at, elsewhere, Merged()))


def test_who_refused_to_mint_in_an_owners_place_may_take_the_copy_in_that_place() -> None:
    at = coordinator(w=3)
    (mint,) = ask(at, replace(put_of(keys=[b"k"]), strict=True))
    reply(at, mint, OTHER)
    (again,) = exchanged(at, OWNERS[0])
    assert again.node == SPARES[0]
    (mint,) = reply(at, again, Refused(Code.NOT_READY))
    assert mint.node == OWNERS[1]
    merges = reply(at, mint, MINTED)
    assert [merge.node for merge in merges] == [SPARES[0], OWNERS[2]]
    reply(at, merges[0], Merged())
    (done,) = to_client(reply(at, merges[1], Merged()))
    assert isinstance(done, PutDone) and not done.failures


def test_a_present_owner_that_is_suspected_is_not_waited_for() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    reply(at, mint, OTHER)
    at.on_suspected(frozenset({SPARES[0]}), frozenset({SPARES[0]}), 0.1, WALL)
    (call,) = exchanged(at, OWNERS[0])
    assert call.node == OWNERS[1]


def test_what_has_ended_meanwhile_goes_nowhere() -> None:
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    reply(at, mint, OTHER)
    (ended,) = to_client(at.on_tick(1.0, WALL))
    assert ended.failures[0].code == Code.UNKNOWN
    at.on_tick(60.0, WALL)
    assert at.in_flight == 0
    assert exchanged(at, OWNERS[0]) == []


def test_one_that_is_suspected_is_not_asked_for_in_the_name_of_another() -> None:
    """The present owner is silent: the operation goes on as if the one before were."""
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    reply(at, mint, OTHER)
    exchanged(at, OWNERS[0])
    new = frozenset({SPARES[0]})
    (call,) = at.on_suspected(new, new, 0.2, WALL)
    assert call.node == OWNERS[1] and isinstance(call.message, Mint)


def test_nor_where_the_present_owner_of_one_slot_is_asked_to_stand_in_for_another() -> None:
    """It knows that it is an owner, so it refuses what is meant for a stand-in of before."""
    at = coordinator()
    (mint,) = ask(at, put_of(keys=[b"k"]))
    reply(at, mint, OTHER)
    (again,) = exchanged(at, OWNERS[0])
    second, third = reply(at, again, MINTED)
    (stand_in,) = reply(at, second, Refused(Code.NOT_READY))
    assert (stand_in.node, stand_in.epoch) == (SPARES[0], mint.epoch)
    assert reply(at, stand_in, OTHER) == [Exchange(SPARES[0])]
    (other,) = exchanged(at, SPARES[0])
    assert other.node == SPARES[1] and other.message.hint_for == OWNERS[1]
    assert to_client(reply(at, third, Merged()))
