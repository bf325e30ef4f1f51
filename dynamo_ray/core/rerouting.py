"""What becomes of a message that was refused because the ring has changed (DESIGN rule 16).

An operation keeps the route with which it began. What was meant for the owner of a slot goes to
the slot's present owner, and counts in its place: the one before answered nothing, and all that it
ever acknowledged the present owner holds (rule 17). So the machines of puts and gets know nothing
of it. A batch whose keys have different owners by now cannot go on as one message; its receiver
counts as one that refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from dynamo_ray.core.messages import Fetch, Merge, Mint
from dynamo_ray.core.ring import Ring

TRIES = 3


class Rerouted(NamedTuple):
    """Who is asked instead, what, and under which epoch."""

    node: bytes
    message: Any
    epoch: bytes


def rerouted(
    ring: Ring, owners: tuple[bytes, ...], meant_for: bytes, message: Any
) -> Rerouted | None:
    """Where a message goes now that was `meant_for` a node under a route of these `owners`.

    None if nobody can take its place.
    """
    if not isinstance(message, Mint | Merge | Fetch):
        return None
    partitions = set(message.partitions)
    now = {ring.owners(partition) for partition in partitions}
    if len(now) != 1:
        return None
    (present,) = now
    epoch = ring.epoch_of(message.partitions[0])
    if meant_for in owners:
        node = present[owners.index(meant_for)]
        # An owner of another slot has a message of its own: one copy must not count twice.
        return None if node != meant_for and node in owners else Rerouted(node, message, epoch)
    if isinstance(message, Mint | Merge) and message.hint_for in owners:
        owner = present[owners.index(message.hint_for)]
        if meant_for not in present:
            return Rerouted(meant_for, replace(message, hint_for=owner), epoch)
        return None
    return Rerouted(meant_for, message, epoch)
