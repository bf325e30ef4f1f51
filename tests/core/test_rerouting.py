"""Where a message goes that was refused for another ring, and in whose place it counts."""

from __future__ import annotations

from typing import Any

from dynamo_ray.core.messages import Fetch, Merge, Mint
from dynamo_ray.core.rerouting import Part, rerouted
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.upkeep import Copy
from tests.core.histories import node_id

A, B, C, D, E, F = map(node_id, "abcdef")
MEMBERS = tuple(Member(node_id(x), x) for x in "abcdef")
BEFORE = (A, B, C)


def ring(*rows: tuple[bytes, ...]) -> Ring:
    return Ring(len(rows), 3, MEMBERS, tuple(node for row in rows for node in row))


def mint(*partitions: int, hint_for: bytes = b"") -> Mint:
    rows = len(partitions)
    ids, keys = [bytes(16)] * rows, [b"k"] * rows
    return Mint(keys, list(partitions), [b"v"] * rows, [None] * rows, ids, [0] * rows, hint_for)


def merge(*partitions: int, hint_for: bytes = b"") -> Merge:
    return Merge([b"k"] * len(partitions), list(partitions), [b"s"] * len(partitions), hint_for)


def fetch(*partitions: int) -> Fetch:
    return Fetch([b"k"] * len(partitions), list(partitions))


def test_an_owner_of_before_gives_place_to_the_owner_of_its_slot() -> None:
    now = ring((A, D, C))
    message: Any
    for message in (mint(0), merge(0), fetch(0)):
        assert rerouted(now, BEFORE, B, message) == [Part(None, D, message, now.epoch_of(0))]


def test_an_owner_that_is_one_still_is_asked_again() -> None:
    now = ring((A, D, C))
    assert rerouted(now, BEFORE, A, mint(0)) == [Part(None, A, mint(0), now.epoch_of(0))]


def test_who_has_a_message_of_its_own_gets_no_second_one() -> None:
    """One copy must not count for two: C owns B's slot now, and was asked as the owner of its own.

    Whichever of its slots it has.
    """
    assert rerouted(ring((A, C, D)), BEFORE, B, merge(0)) is None
    assert rerouted(ring((A, C, B)), BEFORE, B, merge(0)) is None


def test_a_stand_in_keeps_it_for_the_present_owner() -> None:
    now = ring((A, E, C))
    for message in (mint(0, hint_for=B), merge(0, hint_for=B)):
        (found,) = rerouted(now, BEFORE, D, message) or ()
        assert found.node == D and found.epoch == now.epoch_of(0) and found.rows is None
        assert found.message.hint_for == E
        assert found.message.keys == message.keys and found.message.partitions == [0]


def test_a_stand_in_that_is_an_owner_by_now_stands_in_for_nobody() -> None:
    assert rerouted(ring((A, D, C)), BEFORE, D, merge(0, hint_for=B)) is None
    assert rerouted(ring((A, E, D)), BEFORE, D, merge(0, hint_for=B)) is None


def test_a_stand_in_is_read_again_where_it_is() -> None:
    now = ring((A, E, C))
    assert rerouted(now, BEFORE, D, fetch(0)) == [Part(None, D, fetch(0), now.epoch_of(0))]


def test_keys_whose_owners_differ_by_now_go_in_parts() -> None:
    now = ring((A, B, C), (A, B, D))
    message = mint(0, 1, 0)
    assert rerouted(now, BEFORE, A, message) == [
        Part([0, 2], A, mint(0, 0), now.epoch_of(0)),
        Part([1], A, mint(1), now.epoch_of(1)),
    ]
    assert [part.node for part in rerouted(now, BEFORE, C, message) or ()] == [C, D]


def test_where_one_part_has_nowhere_to_go_none_goes() -> None:
    assert rerouted(ring((A, B, C), (A, C, D)), BEFORE, B, merge(0, 1)) is None


def test_what_else_nodes_are_asked_is_not_sent_elsewhere() -> None:
    assert rerouted(ring((A, D, C)), BEFORE, B, Copy(0, b"")) is None
