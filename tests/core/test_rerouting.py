"""What was meant for one owner goes to its successor, in parts, and counts once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from dynamo_ray.core.joint import Failed, Joint
from dynamo_ray.core.messages import (
    Code,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Mint,
    Minted,
    Refused,
    Send,
)
from dynamo_ray.core.operation import Operation
from dynamo_ray.core.rerouting import Part, rerouted
from dynamo_ray.core.ring import Member, Ring
from tests.core.histories import node_id

A, B, C, D, E = map(node_id, "abcde")
OLD = (A, B)
MEMBERS = tuple(Member(node_id(letter), letter) for letter in "abcde")
FETCH = Fetch([b"k0", b"k1"], [0, 1])
GONE = Refused(Code.OTHER_EPOCH, "under another ring")


def ring(*owners: bytes) -> Ring:
    """Two copies of each partition, owners in a row."""
    return Ring(len(owners) // 2, 2, MEMBERS, owners)


def merge_for(hint_for: bytes = b"") -> Merge:
    return Merge([b"k0", b"k1"], [0, 1], [b"s0", b"s1"], hint_for)


def test_a_successor_takes_an_owners_place() -> None:
    now = ring(C, B, C, B)
    assert rerouted(now, OLD, A, FETCH) == [Part(None, C, FETCH, now.epoch_of(0))]


def test_keys_whose_owners_differ_by_now_go_in_parts() -> None:
    now = ring(C, B, D, B)
    first, second = rerouted(now, OLD, A, FETCH) or ()
    assert (first.node, second.node) == (C, D)
    assert (list(first.rows or ()), list(second.rows or ())) == ([0], [1])
    assert list(second.message.keys) == [b"k1"]
    assert (first.epoch, second.epoch) == (now.epoch_of(0), now.epoch_of(1))


def test_an_owner_that_has_another_owners_place_is_not_asked_twice() -> None:
    """B has a message of its own: its one copy would count for two."""
    assert rerouted(ring(B, C, B, C), OLD, A, FETCH) is None


def test_a_stand_in_that_became_an_owner_stands_in_for_nobody() -> None:
    assert rerouted(ring(A, C, A, C), OLD, C, merge_for(B)) is None


def test_a_hint_is_for_the_successor() -> None:
    (part,) = rerouted(ring(A, D, A, D), OLD, C, merge_for(B)) or ()
    assert (part.node, part.message.hint_for) == (C, D)


def operation(before: Ring, *reached: bytes) -> Operation:
    group = cast(Any, SimpleNamespace(machine=None, owners=OLD, epoch=before.epoch_of(0)))
    made = Operation("client", cast(Any, None), group, 1.0, 2.0, frozenset(), before)
    made.reached.update(reached)
    return made


def test_a_successor_that_has_a_copy_already_does_not_count_again() -> None:
    """D stood in for A and has become B's successor: neither its own copy nor one kept for it."""
    before, now = ring(A, B, A, B), ring(A, D, A, D)
    for send in (Send(B, merge_for()), Send(C, merge_for(B))):
        (free,) = operation(before, C).parts(send, now)
        assert free.epoch == now.epoch_of(0)
        (taken,) = operation(before, C, D).parts(send, now)
        assert taken == Part(None, send.node, send.message, before.epoch_of(0)), "it is refused"


def joint(message: Any, *ends: Any) -> Any:
    """What comes of a message of two rows that went in as many parts."""
    parts = [Part([row], A, None, b"") for row in range(2)]
    whole = Joint(Send(A, message), 2)
    assert whole.on_end(parts[0], ends[0]) is None
    return whole.on_end(parts[1], ends[1])


MINT = Mint([b"k0", b"k1"], [0, 1], [b"v"] * 2, [None] * 2, [bytes(16)] * 2, [0] * 2)


def test_all_parts_together_are_one_answer() -> None:
    one, other = Fetched([b"s0"], True), Fetched([b"s1"], True)
    assert joint(FETCH, one, other) == Fetched([b"s0", b"s1"], True)
    assert not joint(FETCH, one, replace(other, complete=False)).complete
    assert joint(merge_for(), Merged(), Merged()) == Merged()


def test_a_part_that_nobody_took_is_not_one_that_was_taken() -> None:
    assert joint(merge_for(), Merged(), GONE) == Failed(True)
    assert joint(FETCH, GONE, Fetched([b"s1"], True)) == Failed(True)
    assert joint(merge_for(), GONE, GONE) == GONE


def test_a_part_that_nobody_minted_fails_alone() -> None:
    minted = Minted([b"s0"], [None])
    refused, lost = joint(MINT, minted, GONE), joint(MINT, minted, Failed(True))
    assert list(refused.codes) == [Code.OK, Code.UNAVAILABLE] and refused.states[1] is None
    assert list(lost.codes) == [Code.OK, Code.UNKNOWN]
    assert joint(MINT, GONE, Failed(True)) == Failed(True), "it may have been minted there"
