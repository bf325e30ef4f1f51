"""Where an operation's messages go when the ring has changed since it began, each copy once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dynamo_ray.core.messages import Merge, Send
from dynamo_ray.core.operation import Operation
from dynamo_ray.core.rerouting import Part
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Settings
from tests.core.histories import node_id

A, B, C, D = map(node_id, "abcd")
OLD = (A, B)
MEMBERS = tuple(Member(node_id(letter), letter) for letter in "abcd")


def ring(*owners: bytes) -> Ring:
    """Two copies of each partition, owners in a row."""
    return Ring(len(owners) // 2, 2, MEMBERS, owners)


def merge_for(hint_for: bytes = b"") -> Merge:
    return Merge([b"k0", b"k1"], [0, 1], [b"s0", b"s1"], hint_for)


def operation(before: Ring, *reached: bytes) -> Operation:
    group = cast(Any, SimpleNamespace(machine=None, owners=OLD, epoch=before.epoch_of(0)))
    desk = cast(Any, SimpleNamespace(settings=Settings(), suspected=frozenset(), ring=before))
    made = Operation("client", cast(Any, None), group, 1.0, desk)
    made.reached.update({node: {node} for node in reached})
    return made


def test_a_successor_that_has_a_copy_already_does_not_count_again() -> None:
    """D stood in for A and has become B's successor: neither its own copy nor one kept for it."""
    before, now = ring(A, B, A, B), ring(A, D, A, D)
    for send in (Send(B, merge_for()), Send(C, merge_for(B))):
        (free,) = operation(before, C).parts(send, now)
        assert free.epoch == now.epoch_of(0)
        (taken,) = operation(before, C, D).parts(send, now)
        assert taken == Part(None, send.node, send.message, before.epoch_of(0)), "it is refused"
