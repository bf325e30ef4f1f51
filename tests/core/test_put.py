"""A put in flight, as events and effects: who is asked, and when the caller hears what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import (
    Code,
    Done,
    Failure,
    Merge,
    Mint,
    Minted,
    PutOutcome,
    Send,
)
from dynamo_ray.core.put import NO_WRITES, Put
from dynamo_ray.core.routing import Route
from dynamo_ray.core.version import clock_of
from tests.core.histories import dot, node_id, state, version

A, B, C, D, E = (node_id(letter) for letter in "abcde")
MINT = Mint([b"k"], [7], [b"v"], [None], [b"i" * 16], [0])
HELD = state(version(dot("a", 1), b"v"))
MINTED = Minted([HELD], [clock_of(HELD)])
MERGE = Merge([b"k"], [7], [HELD])
OK = Done(PutOutcome([clock_of(HELD)]))


def put(
    *suspected: bytes, w: int = 2, strict: bool = False, spares: tuple[bytes, ...] = (D, E)
) -> Put:
    return Put(MINT, Route((A, B, C), spares, frozenset(suspected)), w, strict)


def hinted(message: Mint | Merge, owner: bytes) -> Mint | Merge:
    if isinstance(message, Merge):
        return Merge(message.keys, message.partitions, message.states, owner)
    columns = message.values, message.contexts, message.put_ids, message.ttls_ms
    return Mint(message.keys, message.partitions, *columns, owner)


def ended(code: Code, received: int = 0, w: int = 2, text: str = "") -> Done:
    return Done(PutOutcome([None], (Failure(0, code, w, received, text),)))


# The healthy put.


def test_one_owner_mints_the_others_merge_and_w_acknowledgements_answer() -> None:
    machine = put()
    assert machine.start() == [Send(A, MINT)]
    assert machine.on_minted(A, MINTED) == [Send(B, MERGE), Send(C, MERGE)]
    assert machine.on_merged(C) == [OK]
    assert machine.answered and not machine.closed
    assert machine.on_merged(B) == []
    assert machine.closed


def test_w_1_answers_at_the_mint_and_goes_on() -> None:
    machine = put(w=1)
    machine.start()
    assert machine.on_minted(A, MINTED) == [Send(B, MERGE), Send(C, MERGE), OK]
    assert not machine.closed


def test_w_n_waits_for_all() -> None:
    machine = put(w=3)
    machine.start()
    machine.on_minted(A, MINTED)
    assert machine.on_merged(B) == []
    assert machine.on_merged(B) == []  # twice is once
    assert machine.on_merged(C) == [OK]


# The minter fails.


def test_an_owner_that_is_known_to_be_down_is_not_asked_to_mint() -> None:
    machine = put(A)
    assert machine.start() == [Send(B, MINT)]
    assert machine.on_minted(B, MINTED) == [Send(D, hinted(MERGE, A)), Send(C, MERGE)]


def test_a_minter_that_refuses_is_followed_by_the_next_with_the_same_put_ids() -> None:
    machine = put()
    machine.start()
    assert machine.on_refused(A, Code.NOT_READY) == [Send(B, MINT)]
    assert machine.on_minted(B, MINTED) == [Send(A, MERGE), Send(C, MERGE)]


def test_a_spare_mints_with_a_hint_where_no_owner_can() -> None:
    machine = put(A, B, C)
    assert machine.start() == [Send(D, hinted(MINT, A))]
    assert machine.on_minted(D, MINTED) == [Send(E, hinted(MERGE, B))]
    assert machine.on_merged(E) == [OK]


def test_a_minter_that_answers_late_makes_one_put_with_the_second() -> None:
    """A was given up, B minted: two dots of one operation. Their merge goes to who acknowledged."""
    machine = put()
    machine.start()
    assert machine.on_failure(A) == [Send(B, MINT)]
    second = state(version(dot("b", 1), b"v"))
    machine.on_minted(B, Minted([second], [clock_of(second)]))
    both = Merge([b"k"], [7], [merge(HELD, second)])
    assert machine.on_minted(A, MINTED) == [Send(A, both), Send(B, both), Send(C, both)]
    assert machine.on_minted(A, MINTED) == []  # twice is once


def test_what_a_late_minter_made_reaches_a_stand_in_too_and_the_writers_context() -> None:
    machine = put(C, w=3)
    machine.start()
    assert machine.on_late(A) == [Send(B, MINT)]
    second = state(version(dot("b", 1), b"v"))
    minted = Minted([second], [clock_of(second)])
    first = Merge([b"k"], [7], [second])
    assert machine.on_minted(B, minted) == [Send(A, first), Send(D, hinted(first, C))]
    both = Merge([b"k"], [7], [merge(HELD, second)])
    assert machine.on_minted(A, MINTED) == [Send(A, both), Send(B, both), Send(D, hinted(both, C))]
    machine.on_merged(A)
    (done,) = machine.on_merged(D)
    assert done == Done(PutOutcome([clock_of(merge(HELD, second))]))


# The minter is slow.


def test_a_late_minter_is_not_waited_for_and_not_given_up() -> None:
    machine = put()
    machine.start()
    assert machine.has_another
    assert machine.on_late(A) == [Send(B, MINT)]
    assert machine.on_late(A) == [], "B is at work"
    assert machine.on_late(B) == [Send(C, MINT)]
    assert not machine.has_another
    assert machine.on_late(C) == [], "a spare is no better than a slow owner"
    assert machine.on_minted(A, MINTED) == [Send(B, MERGE), Send(C, MERGE)]
    assert machine.on_late(B) == []


def test_slow_owners_are_asked_last_and_before_spares() -> None:
    machine = Put(MINT, Route((A, B, C), (D, E)), 2, slow=frozenset({A, C}))
    assert machine.start() == [Send(B, MINT)]
    assert machine.on_refused(B, Code.NOT_READY, MINT) == [Send(A, MINT)]
    assert machine.on_refused(A, Code.NOT_READY, MINT) == [Send(C, MINT)]
    assert machine.on_refused(C, Code.NOT_READY, MINT) == [Send(D, hinted(MINT, A))]


def test_where_nobody_else_is_left_the_late_ones_are_waited_for() -> None:
    machine = put(spares=())
    machine.start()
    machine.on_late(A)
    assert machine.on_refused(B, Code.NOT_READY, MINT) == [Send(C, MINT)]
    assert machine.on_refused(C, Code.NOT_READY, MINT) == []
    assert machine.on_refused(A, Code.EXPIRED, MINT) == [ended(Code.UNAVAILABLE)]


def test_what_the_second_refuses_the_first_may_do_yet() -> None:
    machine = put()
    machine.start()
    machine.on_late(A)
    refused = Minted([None], [None], [Code.TOO_MANY_SIBLINGS])
    assert machine.on_minted(B, refused) == [ended(Code.UNKNOWN)]


def test_a_late_mint_that_is_refused_is_no_refusal_of_the_copy() -> None:
    machine = put(w=3)
    machine.start()
    machine.on_late(A)
    machine.on_minted(B, MINTED)
    assert machine.on_refused(A, Code.EXPIRED, MINT) == []
    machine.on_merged(C)
    assert machine.on_merged(A) == [OK]


def test_the_first_of_two_minters_to_answer_is_taken() -> None:
    machine = put()
    machine.start()
    machine.on_failure(A)
    assert machine.on_minted(A, MINTED) == [Send(B, MERGE), Send(C, MERGE)]
    assert machine.on_merged(B) == [OK]


# How it ends where it cannot go well (rule 7).


def test_with_fewer_than_w_nodes_nothing_is_sent() -> None:
    assert put(A, B, C, D).start() == [ended(Code.UNAVAILABLE, 1)]
    assert put(A, B, strict=True).start() == [ended(Code.UNAVAILABLE, 1)]
    assert put(A, B, spares=()).start() == [ended(Code.UNAVAILABLE, 1)]


def test_refused_by_all_is_unavailable_nothing_was_applied() -> None:
    machine = put(strict=True)
    machine.start()
    machine.on_refused(A, Code.READ_ONLY)
    machine.on_failure(B, maybe_applied=False)
    assert machine.on_refused(C, Code.NOT_READY) == [ended(Code.UNAVAILABLE, text=NO_WRITES)]
    assert machine.closed
    assert machine.on_minted(A, MINTED) == []


def test_one_lost_answer_among_refusals_is_unknown() -> None:
    machine = put(strict=True)
    machine.start()
    machine.on_failure(A, maybe_applied=True)
    machine.on_refused(B, Code.NOT_READY)
    assert machine.on_refused(C, Code.NOT_READY) == [ended(Code.UNKNOWN)]


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (Code.TOO_MANY_SIBLINGS, Code.UNKNOWN),
        (Code.INVALID_CONTEXT, Code.INVALID_CONTEXT),
        (Code.UNKNOWN, Code.UNKNOWN),
    ],
)
def test_a_key_that_the_second_minter_refuses_may_stand_at_the_first(code: Code, end: Code) -> None:
    machine = put()
    machine.start()
    machine.on_failure(A, maybe_applied=True)
    assert machine.on_minted(B, Minted([None], [None], [code])) == [ended(end)]


def test_a_key_that_the_only_minter_refuses_was_not_applied() -> None:
    machine = put()
    machine.start()
    refused = Minted([None], [None], [Code.TOO_MANY_SIBLINGS])
    assert machine.on_minted(A, refused) == [ended(Code.TOO_MANY_SIBLINGS)]
    assert machine.closed


def test_after_a_mint_a_lost_quorum_is_unknown_at_once() -> None:
    machine = put(w=3, strict=True)
    machine.start()
    machine.on_minted(A, MINTED)
    assert machine.on_refused(B, Code.READ_ONLY) == [
        Send(D, hinted(MERGE, B)),
        ended(Code.UNKNOWN, 1, w=3, text=NO_WRITES),
    ]


def test_time_is_up_while_minting_is_unknown() -> None:
    machine = put()
    machine.start()
    assert machine.on_deadline() == [ended(Code.UNKNOWN)]
    assert machine.closed


def test_time_is_up_while_spreading_is_unknown_and_the_work_goes_on() -> None:
    machine = put()
    machine.start()
    machine.on_minted(A, MINTED)
    assert machine.on_deadline() == [ended(Code.UNKNOWN, 1)]
    assert not machine.closed
    assert machine.on_failure(B) == [Send(D, hinted(MERGE, B))]
    machine.on_deadline()
    assert machine.closed
    assert machine.on_failure(C) == []


# Stand-ins (§4.6).


def test_an_owner_that_fails_gets_a_stand_in_that_counts() -> None:
    machine = put(w=3)
    machine.start()
    machine.on_minted(A, MINTED)
    machine.on_merged(B)
    assert machine.on_failure(C) == [Send(D, hinted(MERGE, C))]
    assert machine.on_merged(D) == [OK]


def test_a_stand_in_that_fails_is_followed_by_the_next_for_the_same_owner() -> None:
    machine = put(w=3)
    machine.start()
    machine.on_minted(A, MINTED)
    machine.on_merged(B)
    machine.on_failure(C)
    assert machine.on_refused(D, Code.HINTS_FULL) == [Send(E, hinted(MERGE, C))]
    assert machine.on_refused(E, Code.HINTS_FULL) == [ended(Code.UNKNOWN, 2, w=3)]


def test_an_owner_that_fails_after_the_answer_still_gets_its_stand_in() -> None:
    machine = put()
    machine.start()
    machine.on_minted(A, MINTED)
    machine.on_merged(B)
    assert machine.on_failure(C) == [Send(D, hinted(MERGE, C))]
    assert machine.on_merged(D) == []
    assert machine.closed


def test_under_a_strict_quorum_a_stand_in_keeps_the_copy_and_does_not_count() -> None:
    machine = put(w=3, strict=True)
    machine.start()
    machine.on_minted(A, MINTED)
    machine.on_merged(B)
    effects = machine.on_failure(C)
    assert effects == [Send(D, hinted(MERGE, C)), ended(Code.UNKNOWN, 2, w=3)]


# A batch.


def test_keys_that_were_refused_fail_alone() -> None:
    batch = Mint([b"x", b"y"], [7, 7], [b"v"] * 2, [None] * 2, [b"i" * 16] * 2, [0] * 2)
    machine = Put(batch, Route((A, B, C), (D, E)), 2)
    machine.start()
    codes = [Code.OK, Code.TOO_MANY_SIBLINGS]
    effects = machine.on_minted(A, Minted([HELD, None], [clock_of(HELD), None], codes))
    one = Merge([b"x"], [7], [HELD])
    assert effects == [Send(B, one), Send(C, one)]
    failure = Failure(1, Code.TOO_MANY_SIBLINGS, 2, 0)
    assert machine.on_merged(B) == [Done(PutOutcome([clock_of(HELD), None], (failure,)))]


# Any order of events.


class Driver:
    """Feeds a machine with whatever its messages may meet, and remembers what was true."""

    def __init__(self, machine: Put, w: int, strict: bool) -> None:
        self.machine, self.w, self.strict = machine, w, strict
        self.open: list[tuple[bytes, Any]] = []
        self.over: list[tuple[bytes, Any]] = []
        self.done: list[PutOutcome] = []
        self.acked: set[bytes] = set()
        self.maybe_applied = False
        self.spares: dict[bytes, set[bytes]] = {}
        self.take(machine.start)

    def take(self, event: Callable[[], list[Any]]) -> None:
        was_closed = self.machine.closed
        effects = event()
        assert not (was_closed and effects), "a closed put did something"
        for effect in effects:
            if isinstance(effect, Done):
                self.done.append(effect.outcome)
                self.judge(effect.outcome)
            else:
                self.open.append((effect.node, effect.message))
                if effect.node in (D, E):
                    # A mint that comes late may bring it more of the same copy.
                    self.spares.setdefault(effect.node, set()).add(effect.message.hint_for)
                    assert effect.message.hint_for in (A, B, C)

    def judge(self, outcome: PutOutcome) -> None:
        assert len(self.done) == 1
        counted = self.acked & {A, B, C} if self.strict else self.acked
        codes = {failure.code for failure in outcome.failures}
        if not codes:
            assert len(counted) >= self.w, "acknowledged without W copies"
        if Code.UNAVAILABLE in codes:
            assert not self.maybe_applied, "called a failure what may have been applied"
            assert not any(isinstance(message, Mint) for _, message in self.open)

    def step(self, what: str, which: int) -> None:
        machine = self.machine
        if what == "deadline":
            self.take(machine.on_deadline)
        elif what == "again" and self.over:
            node, message = self.over[which % len(self.over)]
            self.answer(node, message)
        elif self.open and what == "suspect":  # its call stays open: it may answer after all
            node, message = self.open[which % len(self.open)]
            self.maybe_applied = self.maybe_applied or isinstance(message, Mint)
            self.take(lambda: machine.on_failure(node, True))
        elif self.open and what == "late":
            node, message = self.open[which % len(self.open)]
            if isinstance(message, Mint):
                self.take(lambda: machine.on_late(node))
        elif self.open and what in ("ok", "lost", "unsent", "refuse"):
            node, message = self.open.pop(which % len(self.open))
            if what == "ok":
                self.over.append((node, message))
                self.answer(node, message)
            elif what == "refuse":
                self.take(lambda: machine.on_refused(node, Code.NOT_READY, message))
            else:
                lost = what == "lost"
                self.maybe_applied = self.maybe_applied or (lost and isinstance(message, Mint))
                self.take(lambda: machine.on_failure(node, lost, message))

    def answer(self, node: bytes, message: Any) -> None:
        self.acked.add(node)
        if isinstance(message, Mint):
            self.maybe_applied = True
            held = state(version(dot(chr(node[0]), 1), b"v"))
            minted = Minted([held], [clock_of(held)])
            self.take(lambda: self.machine.on_minted(node, minted))
        else:
            self.take(lambda: self.machine.on_merged(node))


_steps = st.lists(
    st.tuples(
        st.sampled_from("ok ok ok lost unsent refuse suspect late again deadline".split()),
        st.integers(0, 4),
    ),
    max_size=25,
)
_suspected = st.frozensets(st.sampled_from([A, B, C, D, E]), max_size=3)


@given(_steps, _suspected, st.integers(1, 3), st.booleans())
def test_in_any_order_of_events_the_caller_hears_once_and_the_truth(
    steps: list[tuple[str, int]], suspected: frozenset[bytes], w: int, strict: bool
) -> None:
    driver = Driver(put(*suspected, w=w, strict=strict), w, strict)
    for what, which in steps:
        driver.step(what, which)
    while driver.open:
        driver.step("unsent", 0)
    driver.step("deadline", 0)
    assert len(driver.done) == 1
    driver.step("deadline", 0)
    assert driver.machine.closed and driver.machine.answered
    kept_for = driver.spares.values()
    assert all(len(owners) == 1 for owners in kept_for), "a stand-in was used for two owners"


@given(_steps, st.integers(1, 3))
def test_without_failures_every_order_ends_well(steps: list[tuple[str, int]], w: int) -> None:
    driver = Driver(put(w=w), w, strict=False)
    for _, which in steps:
        driver.step("ok", which)
        driver.step("again", which)
    while driver.open:
        driver.step("ok", 0)
    (outcome,) = driver.done
    assert not outcome.failures and driver.machine.closed
    assert driver.acked == {A, B, C}


# Who came to its end meanwhile.


def test_a_copy_at_one_that_is_gone_counts_once_its_heir_has_it() -> None:
    """Its heir copied what the others held, perhaps before they had this."""
    machine = put()
    machine.start()
    machine.on_minted(A, MINTED)
    assert machine.on_gone(frozenset({A, E})) == [Send(A, MERGE)], "who has its place gets it"
    assert machine.on_merged(B) == []
    assert machine.on_merged(A) == [OK]


def test_what_one_that_is_gone_minted_is_not_its_acknowledgement() -> None:
    machine = put(w=1)
    machine.start()
    assert machine.on_gone(frozenset({A})) == []
    assert machine.on_minted(A, MINTED) == [Send(A, MERGE), Send(B, MERGE), Send(C, MERGE)]
    assert machine.on_merged(C) == [OK]


def test_after_its_end_nobody_gets_anything() -> None:
    machine = put()
    machine.start()
    machine.on_minted(A, MINTED)
    for node in (B, C):
        machine.on_merged(node)
    assert machine.closed and machine.on_gone(frozenset({A})) == []
