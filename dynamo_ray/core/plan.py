"""What a change of the members would move, to be looked at before anything is done (Dynamo §4.8).

    ring, and who comes, goes, or takes a dead node's place ─► the ring afterwards ─► moves
                                                                └► what has too few copies meanwhile

A plan is a function of the ring and the wish: nothing is asked and nothing is changed. What it
moves is what `reclaim` moves: as little as balance and zones allow, and for a replacement exactly
what the dead node had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from dynamo_ray.core.ring import Member, NodeId, Ring, reclaim
from dynamo_ray.core.slots import Placement


class PlanError(ValueError):
    """A change of members that cannot be; the sentence says why."""


class Move(NamedTuple):
    """One copy of one partition goes from its owner to another."""

    partition: int
    copy: int
    giver: NodeId
    receiver: NodeId


@dataclass(frozen=True)
class Plan:
    """The rings before and after; `dead` are the nodes that others replace."""

    before: Ring
    after: Ring
    dead: frozenset[NodeId]

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """Every copy that changes its owner, in the order of the partitions."""
        slots = zip(self.before.slots, self.after.slots, strict=True)
        return tuple(
            Move(at // self.before.copies, at % self.before.copies, giver, receiver)
            for at, (giver, receiver) in enumerate(slots)
            if giver != receiver
        )

    @property
    def receivers(self) -> dict[int, NodeId]:
        """Slot -> whom it goes to, for all that move."""
        return {m.partition * self.before.copies + m.copy: m.receiver for m in self.moves}

    def copies(self) -> Mapping[NodeId, tuple[int, int]]:
        """How many copies of partitions each node has, before and after."""
        before, after = Counter(self.before.slots), Counter(self.after.slots)
        nodes = dict.fromkeys(m.node for ring in (self.before, self.after) for m in ring.members)
        return {node: (before[node], after[node]) for node in nodes}

    def weak(self, up: Collection[NodeId], least: int) -> tuple[int, ...]:
        """The partitions that move and have fewer than `least` living copies to move from."""
        living = set(up) - self.dead
        partitions = dict.fromkeys(move.partition for move in self.moves)
        return tuple(
            partition
            for partition in partitions
            if len(living.intersection(self.before.owners(partition))) < least
        )


def plan(
    ring: Ring,
    add: Sequence[Member] = (),
    remove: Collection[str] = (),
    replaced: Mapping[str, Member] | None = None,
    changed: Sequence[Member] = (),
) -> Plan:
    """What it takes that these nodes come, those go, and others take dead nodes' places.

    `changed` are all members, some with another weight, if that is what changes. Nodes are named by
    their names. Raises PlanError for a name that is not there, is there already or is named twice,
    and where fewer nodes than copies would be left.
    """
    replaced = replaced or {}
    leaving, coming = [*remove, *replaced], [*add, *replaced.values()]
    _check_names(ring, leaving, [member.name for member in coming])
    known = {member.name: member for member in ring.members}
    exchanged = {known[old].node: new.node for old, new in replaced.items()}
    members = [
        replaced.get(member.name, member) for member in ring.members if member.name not in remove
    ]
    after = _exchanged(ring, exchanged, replaced)
    try:
        if changed:
            after = reclaim(after, changed)
        if add or remove:
            after = reclaim(after, [*members, *add])
    except ValueError as error:
        raise PlanError(str(error)) from error
    return Plan(ring, after, frozenset(exchanged))


def rebalanced(ring: Ring) -> Plan:
    """What has to move for the ring to be balanced, its members being as they are."""
    try:
        after = reclaim(ring, ring.members)
    except ValueError:
        after = ring  # fewer nodes with a weight than copies: nobody can take what others have
    return Plan(ring, after, frozenset())


def moves_due(placement: Placement) -> dict[int, NodeId]:
    """The slots that should have another owner for the ring to be balanced, and whom.

    Nothing while other moves are under way: a plan is made from what came of the last one.
    """
    return {} if placement.under_way else rebalanced(placement.ring).receivers


def _exchanged(
    ring: Ring, exchanged: Mapping[NodeId, NodeId], replaced: Mapping[str, Member]
) -> Ring:
    """The ring in which each replacement has exactly what the dead node had."""
    members = tuple(replaced.get(member.name, member) for member in ring.members)
    return replace(
        ring, members=members, slots=tuple(exchanged.get(node, node) for node in ring.slots)
    )


def _check_names(ring: Ring, leaving: Sequence[str], coming: Sequence[str]) -> None:
    names = {member.name for member in ring.members}
    for name in leaving:
        if name not in names:
            raise PlanError(f"there is no node {name!r}; there are {', '.join(sorted(names))}")
    for name in coming:
        if name in names:
            raise PlanError(f"a node {name!r} is there already; give the new one another name")
    for name, count in Counter([*leaving, *coming]).items():
        if count > 1:
            raise PlanError(f"node {name!r} is named {count} times")
