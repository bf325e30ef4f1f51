"""When another owner is asked as well, how often, and when nothing is concluded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.latency import ENOUGH
from dynamo_ray.core.speculation import (
    ANSWER_S,
    BURST,
    FAULT_S,
    LEAST_S,
    SHARE,
    UNKNOWN_S,
    Speculation,
)

A, B = b"a", b"b"
LATE_S = 2 * UNKNOWN_S + ANSWER_S + 0.001  # at a node of which nothing is known


def used_to(seconds: float, node: bytes = A) -> Speculation:
    speculation = Speculation()
    for call in range(ENOUGH):
        speculation.on_mint(call, node, 0.0)
        speculation.on_answer(call, seconds)
    return speculation


def never_heard(node: bytes) -> float:
    return 1e9


def test_a_quick_node_is_given_the_least() -> None:
    speculation = used_to(0.001)
    assert speculation.on_mint(900, A, 1.0) == LEAST_S
    assert speculation.wakes_at() == pytest.approx(1.0 + LEAST_S + ANSWER_S)
    assert speculation.late(1.0 + LEAST_S, never_heard) == []
    assert speculation.late(1.001 + LEAST_S + ANSWER_S, never_heard) == [900]
    assert speculation.slow == {A}
    assert speculation.wakes_at() is None


def test_a_slow_node_is_given_the_time_that_it_usually_takes() -> None:
    speculation = used_to(0.2)
    usual_s = speculation.p99_s(A)
    assert 0.2 <= usual_s <= 0.25
    assert speculation.on_mint(900, A, 1.0) == 2 * usual_s
    assert speculation.wakes_at() == pytest.approx(1.0 + 3 * usual_s)
    assert speculation.p99_s(B) == UNKNOWN_S


def test_what_was_answered_or_ended_is_not_late() -> None:
    speculation = Speculation()
    speculation.on_mint(1, A, 0.0)
    speculation.on_mint(2, A, 0.0)
    speculation.on_answer(1, 0.01)
    speculation.on_end(2)
    assert speculation.wakes_at() is None
    assert speculation.late(0.2, never_heard) == [] and speculation.slow == frozenset()


def test_an_answer_that_a_fault_held_up_teaches_nothing() -> None:
    assert used_to(FAULT_S * 1.1).p99_s(A) == UNKNOWN_S


def test_a_node_is_slow_until_it_persists_something() -> None:
    speculation = Speculation()
    speculation.on_mint(1, A, 0.0)
    speculation.late(LATE_S, never_heard)
    speculation.on_persisted(B)
    assert speculation.slow == {A}
    speculation.on_persisted(A)
    assert speculation.slow == frozenset()


def test_one_that_is_suspected_begins_anew() -> None:
    speculation = Speculation()
    speculation.on_mint(1, A, 0.0)
    speculation.late(LATE_S, never_heard)
    speculation.on_suspected(frozenset({A}))
    assert speculation.slow == frozenset()


def test_a_coordinator_that_wakes_late_concludes_nothing() -> None:
    speculation = Speculation()
    speculation.on_mint(1, A, 0.0)
    assert speculation.late(5.0, never_heard) == [] and speculation.slow == frozenset()
    assert speculation.wakes_at() == pytest.approx(5.0 + LEAST_S)
    assert speculation.late(5.001 + LEAST_S, never_heard) == [1], "it had time to read the answer"


@given(st.lists(st.booleans(), max_size=400))
def test_no_more_than_its_share_is_speculative(wanted: list[bool]) -> None:
    speculation, spent = Speculation(), 0
    for call, wants in enumerate(wanted):
        speculation.on_mint(call, A, 0.0)
        if wants and speculation.affordable:
            speculation.on_speculated()
            spent += 1
        assert spent <= BURST + SHARE * (call + 1)
    assert speculation.affordable or spent >= BURST
