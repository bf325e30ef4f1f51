"""Where a message goes when the ring has changed since its operation began (DESIGN rule 16).

An operation keeps the route with which it began. What was meant for the owner of a slot goes to
the slot's present owner, and counts in its place: the one before answered nothing, and all that it
ever acknowledged the present owner holds (rule 17). So the machines of puts and gets know nothing
of it. Keys that shared a route may have different owners by now; then the message goes in parts,
and what comes of them is put together again (core/joint.py), unless it is a Mint: what is minted
at different nodes goes on as different puts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dynamo_ray.core.messages import Fetch, Merge, Mint
from dynamo_ray.core.ring import NodeId, Ring

TRIES = 6
_COLUMNS = {
    Mint: ("keys", "partitions", "values", "contexts", "put_ids", "ttls_ms"),
    Merge: ("keys", "partitions", "states"),
    Fetch: ("keys", "partitions"),
}


class Part(NamedTuple):
    """Some rows of a message, or all (None): who is asked, what, and under which epoch."""

    rows: Sequence[int] | None
    node: NodeId
    message: Any
    epoch: bytes


def rerouted(
    ring: Ring,
    owners: tuple[NodeId, ...],
    meant_for: NodeId,
    message: Any,
    rows: Sequence[int] | None = None,
) -> list[Part] | None:
    """The parts of a message that was `meant_for` a node under a route of these `owners`.

    Only those `rows` of it, if it went in parts before and that was one of them. None if for some
    of its keys nobody can take that node's place.
    """
    if type(message) not in _COLUMNS:
        return None
    going: dict[tuple[NodeId, ...], list[int]] = {}
    for row in range(len(message.partitions)) if rows is None else rows:
        going.setdefault(ring.owners(message.partitions[row]), []).append(row)
    is_whole = rows is None and len(going) == 1
    parts = []
    for present, some in going.items():
        part = message if is_whole else _only(message, some)
        found = _placed(present, owners, meant_for, part)
        if found is None:
            return None
        epoch = ring.epoch_of(part.partitions[0])
        parts.append(Part(None if is_whole else some, *found, epoch))
    return parts


def _placed(
    present: tuple[NodeId, ...], owners: tuple[NodeId, ...], meant_for: NodeId, message: Any
) -> tuple[NodeId, Any] | None:
    """Who gets it under the `present` owners, and as what."""
    if meant_for in owners:
        node = present[owners.index(meant_for)]
        # An owner of another slot has a message of its own: one copy must not count twice.
        return None if node != meant_for and node in owners else (node, message)
    if meant_for in present:
        return None  # a stand-in no more
    if isinstance(message, Mint | Merge) and message.hint_for in owners:
        owner = present[owners.index(message.hint_for)]
        return meant_for, replace(message, hint_for=owner)
    return meant_for, message


def _only(message: Any, rows: Sequence[int]) -> Any:
    columns = {
        name: [getattr(message, name)[row] for row in rows] for name in _COLUMNS[type(message)]
    }
    return replace(message, **columns)
