"""What came of the keys of a put: states for the others, contexts for the caller, and failures."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.made import Made
from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import Code, Failure, Merge, Mint, Minted, PutOutcome
from dynamo_ray.core.version import clock_of
from tests.core.histories import dot, state, version

KEYS = [b"a", b"b", b"c"]
MINT = Mint(KEYS, [0, 1, 0], [b"v"] * 3, [None] * 3, [bytes(16)] * 3, [0] * 3)
STATES = [state(version(dot("a", i), b"v")) for i in (1, 2, 3)]
CLOCKS = [clock_of(one) for one in STATES]
MANY = int(Code.TOO_MANY_SIBLINGS)
ELSE = int(Code.READ_ONLY)


def made(minted: Minted, doubtful: bool = False) -> Made:
    it = Made(MINT)
    it.on_minted(minted, 2, doubtful)
    return it


def test_all_that_was_minted_goes_to_the_others_and_to_the_caller() -> None:
    it = made(Minted(STATES, CLOCKS))
    assert it.merge_for(None) == Merge(KEYS, [0, 1, 0], STATES)
    assert it.merge_for(b"owner").hint_for == b"owner"
    assert it.outcome(Code.OK, 2, 2, "") == PutOutcome(CLOCKS, ())


@pytest.mark.parametrize(
    ("code", "doubtful", "told"),
    [(MANY, False, MANY), (ELSE, False, ELSE), (ELSE, True, int(Code.UNKNOWN))],
)
def test_a_key_that_its_minter_refused_fails_alone_and_honestly(
    code: int, doubtful: bool, told: int
) -> None:
    states: list[Any] = [STATES[0], None, STATES[2]]
    clocks: list[Any] = [CLOCKS[0], None, CLOCKS[2]]
    it = made(Minted(states, clocks, [0, code, 0]), doubtful)
    assert it.live == [0, 2]
    assert it.merge_for(None) == Merge([b"a", b"c"], [0, 0], [STATES[0], STATES[2]])
    refused = Failure(1, told, 2, 0)
    assert it.outcome(Code.OK, 2, 2, "") == PutOutcome(clocks, (refused,))
    others = [Failure(row, Code.UNAVAILABLE, 2, 1, "why") for row in (0, 2)]
    ended = it.outcome(Code.UNAVAILABLE, 2, 1, "why")
    assert ended.contexts == [None] * 3
    assert list(ended.failures) == [others[0], refused, others[1]]


def test_the_same_puts_under_later_dots_are_made_one_with_the_first() -> None:
    it = made(Minted(STATES, CLOCKS))
    assert not it.on_late(Minted(STATES, CLOCKS)), "nothing new"
    late = state(version(dot("b", 1), b"v"))
    assert it.on_late(Minted([late, None, None], [clock_of(late), None, None]))
    both = merge(STATES[0], late)
    assert it.merge_for(None).states == [both, *STATES[1:]]
    assert it.outcome(Code.OK, 2, 2, "").contexts == [merge(CLOCKS[0], clock_of(late)), *CLOCKS[1:]]


def test_a_later_dot_belongs_to_the_key_of_its_row() -> None:
    refused: list[Any] = [None, *STATES[1:]]
    it = made(Minted(refused, [None, *CLOCKS[1:]], [MANY, 0, 0]))
    late = state(version(dot("b", 1), b"v"))
    assert it.on_late(Minted([None, late, None], [None, clock_of(late), None]))
    assert it.merge_for(None).states == [merge(STATES[1], late), STATES[2]]
    contexts = it.outcome(Code.OK, 2, 2, "").contexts
    assert contexts == [None, merge(CLOCKS[1], clock_of(late)), CLOCKS[2]]
